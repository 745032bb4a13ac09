"""What goes wrong with a bucket: it says so, tells no secret, forgets nothing, and goes on by itself."""

from __future__ import annotations

import pytest

from controller.errors import RetryLater
from tests.integration.bucket_house import Bucket
from tests.objectstore import KEY, SECRET, ObjectServer


def test_a_missing_bucket_says_so(bucket: Bucket) -> None:
    bucket.restart(url="s3://no-such-bucket")

    with pytest.raises(RetryLater) as refused:
        bucket.list()

    assert "'s3://no-such-bucket'" in refused.value.message
    assert "bucket does not exist" in refused.value.message
    assert "name of the bucket" in refused.value.hint
    bucket.client.create_bucket(Bucket="no-such-bucket")
    assert bucket.list() == []


def test_G14_wrong_credentials_say_so_and_tell_no_secret(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason names neither key nor secret; right ones count at once, without a restart."""
    server = ObjectServer()
    server.start(ask_for_credentials=True)
    try:
        bucket.restart(endpoint_url=server.url)
        with pytest.raises(RetryLater) as refused:
            bucket.list()
        bucket.restart(endpoint_url=bucket.server.url)
    finally:
        server.close()

    told = f"{refused.value}{refused.value.__cause__!r}{bucket.inbox.log.lines}"
    assert "Access Key Id you provided does not exist" in refused.value.message
    assert "credentials" in refused.value.hint
    assert KEY not in told
    assert SECRET not in told
    assert refused.value.__suppress_context__


def test_a_secret_that_is_not_there_says_which(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OBJECT_SECRET")

    with pytest.raises(RetryLater, match="env:OBJECT_SECRET is not set"):
        bucket.list()

    monkeypatch.setenv("OBJECT_SECRET", SECRET)
    assert bucket.list() == []


def test_an_endpoint_that_is_killed_and_comes_back(bucket: Bucket) -> None:
    """While it is away nothing is forgotten; what it has when it is back is found."""
    server = ObjectServer()
    server.start()
    try:
        client = server.client()
        client.create_bucket(Bucket="phoenix")
        client.put_object(Bucket="phoenix", Key="a", Body=b"1")
        bucket.restart(url="s3://phoenix", endpoint_url=server.url)
        (first,) = bucket.list()
        server.kill()
        for _ in range(2):
            with pytest.raises(RetryLater, match="cannot list 's3://phoenix'"):
                bucket.list()
        remembered = dict(bucket.inbox.ledger)
        server.start()
        client = server.client()
        client.create_bucket(Bucket="phoenix")
        client.put_object(Bucket="phoenix", Key="a", Body=b"1")
        client.put_object(Bucket="phoenix", Key="b", Body=b"2")
        (second,) = bucket.list()
    finally:
        server.close()

    assert (first.subject, second.subject) == ("a", "b")
    assert any(value[0] == "a" for key, value in remembered.items() if not key.startswith("@"))
    assert not bucket.inbox.duplicates
