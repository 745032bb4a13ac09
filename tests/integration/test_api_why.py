"""`/v1/why` by the API: of one key, as of an instant, and what is refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.integration.api_house import House
from tests.story import MODEL


def test_a_key_and_an_instant(api: House, unix: httpx.Client) -> None:
    """The parameters reach the account."""
    story = api.story
    then = unix.get(f"/v1/runs/{story.rejected}").json()["decided_at"]

    assert unix.get(f"/v1/why/{MODEL}/drift", params={"key": ""}).json()["key"]["stage"] == "cooldown"
    assert unix.get(f"/v1/why/{story.rejected}", params={"at": then}).json()["state"] == "TRAINING"
    assert unix.get(f"/v1/why/{MODEL}", params={"at": then}).json()["at"] == then


@pytest.mark.parametrize(
    "thing,query,status",
    [
        (f"{MODEL}/drift", {"key": "none"}, 404),
        (MODEL, {"key": "none"}, 400),
        (MODEL, {"at": "2999-01-01T00:00:00Z"}, 400),
        (MODEL, {"at": "2024-01-01T00:00:00"}, 422),
        (MODEL, {"at": "yesterday"}, 422),
    ],
    ids=["unknown-key", "no-policy", "still-to-come", "no-zone", "no-instant"],
)
def test_what_is_refused(api: House, unix: httpx.Client, thing: str, query: dict[str, Any], status: int) -> None:
    """With a status that says whose fault it is."""
    del api

    assert unix.get(f"/v1/why/{thing}", params=query).status_code == status


def test_what_did_not_exist_then(api: House, unix: httpx.Client) -> None:
    """An event that had not come is not found."""
    answer = unix.get(f"/v1/why/{api.story.held}", params={"at": "2001-01-01T00:00:00Z"})

    assert answer.status_code == 404
