"""Listings of a bucket: page by page, interrupted, repeated, and no more often than they are worth."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from controller.errors import RetryLater
from controller.sources.bucket import source as source_module
from tests.integration.bucket_house import NOW, Bucket


def test_a_large_bucket_is_listed_page_by_page(large_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll ends after so many objects and asks to be called at once; in the end every object was one event, in batches."""
    monkeypatch.setattr(source_module, "_POLL_OBJECTS", 1_000)
    now = large_bucket.clock.now()
    answers = [large_bucket.source.poll(now) for _ in range(3)]

    counts = [events for events, _ in large_bucket.inbox.batches if events]
    assert answers == [now, now, now + timedelta(minutes=1)]
    assert len({event.source_id for event in large_bucket.inbox.events}) == 2_600
    assert max(counts) <= 500
    assert large_bucket.source.report()["last_listing"]["objects"] == 2_600
    assert large_bucket.list() == []


def test_a_large_bucket_that_is_known_is_no_work_for_the_store(large_bucket: Bucket) -> None:
    large_bucket.list()
    batches = len(large_bucket.inbox.batches)
    large_bucket.restart()

    events = large_bucket.list()

    assert events == []
    assert len(large_bucket.inbox.batches) == batches
    assert large_bucket.source.report()["known"] == 2_600


def test_a_restart_in_the_middle_of_a_listing_repeats_nothing(
    large_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "_POLL_OBJECTS", 1_000)
    large_bucket.source.poll(large_bucket.clock.now())
    large_bucket.restart()

    large_bucket.list()

    assert len(large_bucket.inbox.events) == 2_600
    assert not large_bucket.inbox.duplicates


def test_a_listing_that_broke_shows_nothing_to_be_gone(large_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a listing that came to its end tells what is no longer there; the next one begins anew."""
    large_bucket.list()
    monkeypatch.setattr(source_module, "_POLL_OBJECTS", 1_000)
    large_bucket.clock.advance(timedelta(minutes=1))
    large_bucket.source.poll(large_bucket.clock.now())
    large_bucket.restart(endpoint_url="http://127.0.0.1:1")
    with pytest.raises(RetryLater):
        large_bucket.source.poll(large_bucket.clock.now())
    entries = len(large_bucket.inbox.ledger)
    large_bucket.restart(endpoint_url=large_bucket.server.url)

    assert large_bucket.list() == []
    assert len(large_bucket.inbox.ledger) == entries == 2_601


def test_a_thousand_that_are_gone_are_forgotten(large_bucket: Bucket) -> None:
    large_bucket.list()
    large_bucket.restart(exclude=["0", "1", "2", "3"])

    assert large_bucket.list() == []
    assert large_bucket.source.report()["known"] == len(large_bucket.inbox.ledger) - 1 < 1_200


def test_a_busy_store_gets_the_same_again(large_bucket: Bucket) -> None:
    large_bucket.inbox.refusals = 3

    for _ in range(8):
        large_bucket.list()

    assert len(large_bucket.inbox.events) == 2_600
    assert not large_bucket.inbox.duplicates


def test_G02_a_lost_ledger_makes_no_second_event(large_bucket: Bucket) -> None:
    large_bucket.list()
    large_bucket.inbox.ledger.clear()
    large_bucket.restart()

    assert large_bucket.list() == []
    assert len(large_bucket.inbox.duplicates) == 2_600


def test_the_next_listing_waits_ten_times_the_length_of_the_last(bucket: Bucket) -> None:
    """A listing that takes a minute is made every ten at most, whatever `every` says."""
    slow = bucket.source._steps

    def steps() -> Iterator[int]:
        bucket.clock.advance(timedelta(seconds=60))
        yield from slow()

    bucket.source._steps = steps  # type: ignore[method-assign]

    bucket.source.poll(bucket.clock.now())
    answer = bucket.source.poll(bucket.clock.now())

    assert answer is not None
    assert answer >= NOW + timedelta(seconds=660)
    bucket.put("a")
    bucket.clock.advance(timedelta(seconds=599))
    bucket.source.poll(bucket.clock.now())
    assert bucket.inbox.events == []
