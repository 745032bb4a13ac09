"""What several files of this folder test: a server with the API, a bucket, and a folder that files land in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from controller.api.server import Limits
from tests.integration.api_house import House, open_house
from tests.integration.bucket_house import Bucket
from tests.integration.landing import Landing

if TYPE_CHECKING:
    from tests.objectstore import ObjectServer


@pytest.fixture
def start_api(tmp_path: Path) -> Iterator[Callable[..., House]]:
    """Start a server with the API, with limits and a socket of the test's own if it wants."""
    houses: list[House] = []

    def start(limits: Limits | None = None, socket_path: Path | None = None) -> House:
        houses.append(open_house(tmp_path, limits, socket_path))
        return houses[-1]

    yield start
    for house in houses:
        house.server.stop()
        house.store.close()


@pytest.fixture
def api(start_api: Callable[..., House]) -> House:
    return start_api()


@pytest.fixture
def unix(api: House) -> Iterator[httpx.Client]:
    """A client on the server's Unix socket."""
    transport = httpx.HTTPTransport(uds=str(api.socket_path))
    with httpx.Client(base_url="http://localhost", transport=transport) as client:
        yield client


@pytest.fixture
def bucket(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    return Bucket(object_server, monkeypatch)


@pytest.fixture
def large_bucket(bucket: Bucket) -> Bucket:
    """The bucket with 2,600 objects."""
    bucket.name = "seeded"
    bucket.restart(url="s3://seeded")
    return bucket


@pytest.fixture
def landing(tmp_path: Path) -> Landing:
    return Landing(tmp_path)
