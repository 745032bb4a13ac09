"""Options of the bucket source: what is refused and why, and what reaches the file system."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from controller.secret import Secret
from controller.sources.bucket import BucketOptions
from controller.sources.bucket import options as options_module
from controller.sources.bucket.options import read_url
from tests.integration.bucket_house import Bucket
from tests.objectstore import KEY, SECRET


@pytest.mark.parametrize(
    "options, words",
    [
        ({"url": "http://x"}, "not the URL of a bucket"),
        ({"url": "bucket"}, "not the URL of a bucket"),
        ({"url": "s3://"}, "names no bucket"),
        ({"url": "s3://key:word@bucket/x"}, "carries a name or a password"),
        ({"url": "file://landing"}, "not an absolute path"),
        ({"url": "s3://b", "key": "env:A"}, "belong together"),
        ({"url": "s3://b", "key": "env:A", "secret": "env:B", "anonymous": True}, "contradicts"),
        ({"url": "s3://b", "key": "plain", "secret": "plain"}, "by reference"),
        ({"url": "file:///b", "endpoint_url": "http://x"}, "is for s3://"),
        ({"url": "file:///b", "versions": True}, "is for s3://"),
        ({"url": "file:///b", "key": "env:A", "secret": "env:B"}, "from the environment"),
        ({"url": "s3://b", "options": {"token": "abc"}}, "looks like a secret"),
        ({"url": "s3://b", "options": {"anon": True}}, "sets itself"),
        ({"url": "s3://b", "every": "100ms"}, "less than 1s"),
        ({"url": "s3://b", "group": {"complete": {}}}, "`complete` must say"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        BucketOptions(**options)

    assert words in str(refused.value.errors()[0]["msg"])
    assert "word@" not in str(refused.value.errors()[0]["msg"])


@pytest.mark.parametrize(
    "url, package, extra", [("gs://b", "gcsfs", "gcs"), ("az://b", "adlfs", "azure"), ("s3://b", "s3fs", "s3")]
)
def test_a_package_that_is_missing_is_named_at_load(
    url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = options_module.importlib.util.find_spec
    monkeypatch.setattr(
        options_module.importlib.util, "find_spec", lambda name: None if name == package else found("json")
    )

    with pytest.raises(ValidationError) as refused:
        BucketOptions(url=url)

    (error,) = refused.value.errors()
    assert f"needs the package {package}" in error["msg"]
    assert error["ctx"]["hint"] == f"pip install 'retrain-controller[{extra}]'"


@pytest.mark.parametrize(
    "url, bucket, prefix, root",
    [
        ("s3://b", "b", "", "s3://b"),
        ("s3://b/", "b", "", "s3://b"),
        ("s3://b/x/y/", "b", "x/y/", "s3://b/x/y"),
        ("file:///data/x/", "/data/x", "", "file:///data/x"),
        ("memory://x", "/x", "", "memory:///x"),
    ],
)
def test_a_url_leads_somewhere(url: str, bucket: str, prefix: str, root: str) -> None:
    place = read_url(url)

    assert (place.bucket, place.prefix, place.root) == (bucket, prefix, root)


def test_options_reach_the_file_system(bucket: Bucket) -> None:
    options = BucketOptions(
        url="s3://b", key="env:OBJECT_KEY", secret="env:OBJECT_SECRET", options={"client_kwargs": {"region_name": "x"}}
    )

    assert options.arguments() == {"client_kwargs": {"region_name": "x"}, "key": KEY, "secret": SECRET}
    assert isinstance(options.key, Secret)
    assert SECRET not in repr(options)
    assert BucketOptions(url="s3://b", anonymous=True).arguments() == {"anon": True}


def test_fsspec_is_imported_only_when_it_is_used() -> None:
    """Loading and checking a configuration without buckets, or with one, does not load the client."""
    import subprocess
    import sys

    program = (
        "import sys; from controller.sources.bucket import BucketOptions; BucketOptions(url='s3://b'); "
        "print([name for name in ('fsspec', 's3fs', 'botocore', 'aiohttp') if name in sys.modules])"
    )

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50)

    assert said.stdout.strip() == "[]"
