"""Data sets in a bucket: when they are an event, what is of them, and what repeats none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from controller.core.model import NewEvent
from controller.sources.bucket import source as source_module
from tests.integration.bucket_house import Bucket


def names(event: NewEvent) -> list[str]:
    return [part["name"] for part in event.data["parts"]]


def test_a_marker_makes_one_event_of_a_partition(bucket: Bucket) -> None:
    bucket.restart(url=f"s3://{bucket.name}/landing", group={"complete": {"marker": "_SUCCESS"}})
    etag = bucket.put("landing/day=1/a.csv")
    bucket.put("landing/day=1/b.csv")
    bucket.put("landing/day=2/a.csv")
    before = bucket.list()
    bucket.put("landing/day=1/_SUCCESS", b"")

    (event,) = bucket.list()

    assert before == []
    assert (event.type, event.source, event.subject) == ("dataset.arrived", f"s3://{bucket.name}", "day=1")
    assert event.data["parts"][0] == {"name": "day=1/a.csv", "size": 1, "etag": etag}
    assert (event.data["count"], event.data["complete_by"]) == (2, "marker")
    assert "rows" not in event.data
    waiting = bucket.source.report()["groups"]["waiting"]
    assert [(group["group"], group["missing"]) for group in waiting["oldest"]] == [("day=2", "the marker _SUCCESS")]
    assert bucket.list() == []


def test_what_came_between_marker_and_look_is_of_the_data_set(bucket: Bucket) -> None:
    """The folder is looked through once more, unless a listing that began after the last change has shown all of it."""
    bucket.restart(group={"complete": {"quiet": "30s"}}, every="1h")
    bucket.put("d/a")
    bucket.list()
    bucket.put("d/b")

    early = bucket.list(after=timedelta(seconds=40))
    (event,) = bucket.list(after=timedelta(seconds=40))

    assert early == []
    assert names(event) == ["d/a", "d/b"]


def test_a_regular_expression_waits_for_a_listing(bucket: Bucket) -> None:
    bucket.restart(group={"by": r"^(day=\d)/", "complete": {"parts": 2}})
    bucket.put("day=1/x/a")
    bucket.put("other")
    first = bucket.list()
    bucket.put("day=1/y/b")

    events = bucket.list() + bucket.list()

    assert first == []
    assert [names(event) for event in events] == [["day=1/x/a", "day=1/y/b"]]
    assert bucket.source.report()["groups"]["outside"] == 1


def test_a_manifest_is_read(bucket: Bucket) -> None:
    bucket.restart(url=f"s3://{bucket.name}/l", group={"complete": {"manifest": "manifest.json"}})
    bucket.put("l/d/manifest.json", f'{{"entries": [{{"url": "s3://{bucket.name}/l/d/a"}}, {{"url": "b"}}]}}'.encode())
    bucket.put("l/d/a")
    bucket.put("l/d/stray")
    before = bucket.list()
    bucket.put("l/d/b")

    (event,) = bucket.list()

    assert before == []
    assert names(event) == ["d/a", "d/b"]


def test_a_bad_or_empty_manifest_is_a_complaint(bucket: Bucket) -> None:
    bucket.restart(group={"complete": {"manifest": "manifest.json"}})
    bucket.put("d/a")
    bucket.put("d/manifest.json", b"")
    bucket.list()
    complaint = bucket.inbox.complaints["manifest"]
    bucket.put("d/manifest.json", b'["a"]')

    (event,) = bucket.list()

    assert "names no part" in complaint
    assert names(event) == ["d/a"]
    assert "manifest" not in bucket.inbox.complaints


def test_what_is_gone_is_not_of_the_data_set(bucket: Bucket) -> None:
    bucket.restart(group={"complete": {"marker": "_SUCCESS"}})
    bucket.put("d/a")
    bucket.put("d/b")
    bucket.list()
    bucket.delete("d/a")
    bucket.put("d/_SUCCESS", b"")

    events = bucket.list() + bucket.list()

    assert [names(event) for event in events][-1] == ["d/b"]


def test_what_goes_after_the_event_is_no_news(bucket: Bucket) -> None:
    bucket.restart(group={"complete": {"marker": "_SUCCESS"}})
    for key in ("d/a", "d/b", "d/_SUCCESS"):
        bucket.put(key)
    bucket.list()
    bucket.delete("d/a")

    assert bucket.list() == []
    assert bucket.list() == []
    assert bucket.source.report()["groups"]["waiting"]["count"] == 0


def test_late_objects_are_one_more_event(bucket: Bucket) -> None:
    bucket.restart(group={"complete": {"marker": "_SUCCESS"}}, every="10s")
    bucket.put("d/a")
    bucket.put("d/_SUCCESS", b"")
    (first,) = bucket.list()
    bucket.put("d/b")
    at_once = bucket.list(after=timedelta(seconds=10))

    (second,) = bucket.list(after=timedelta(seconds=60))

    assert at_once == []
    assert (second.data["generation"], second.data["late"], second.data["previous"]) == (2, True, first.data["digest"])


def test_a_restart_and_a_lost_ledger_repeat_no_data_set(bucket: Bucket) -> None:
    bucket.restart(group={"complete": {"marker": "_SUCCESS"}})
    bucket.put("d/a")
    bucket.put("d/_SUCCESS", b"")
    bucket.list()
    bucket.restart()
    restarted = bucket.list()
    bucket.inbox.ledger.clear()
    bucket.restart()

    lost = bucket.list()

    assert (restarted, lost) == ([], [])
    assert len(bucket.inbox.duplicates) == 1


def test_a_young_object_keeps_its_data_set_waiting(bucket: Bucket) -> None:
    bucket.restart(group={"complete": {"parts": 1}}, settle="10m")
    bucket.clock.set_now(datetime.now(UTC) + timedelta(minutes=30))
    bucket.put("d/a")
    bucket.restart(settle="1h")
    early = bucket.list()

    (event,) = bucket.list(after=timedelta(hours=1))

    assert early == []
    assert names(event) == ["d/a"]


def test_many_data_sets_at_once(large_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are looked through one by one wait for the next listing; then all come, stored together."""
    monkeypatch.setattr(source_module, "_BATCH_GROUPS", 2)
    large_bucket.restart(group={"complete": {"quiet": "10s"}})
    large_bucket.list()

    events = large_bucket.list()

    assert sorted(str(event.subject) for event in events) == [f"many/{number}" for number in range(7)]
    assert sum(event.data["count"] for event in events) == 2_600


def test_another_grouping_finds_the_data_sets_anew(bucket: Bucket) -> None:
    for key in ("x/a", "x/b", "y/a"):
        bucket.put(key)
    single = bucket.list()
    bucket.restart(group={"by": "([ab])$", "complete": {"parts": 1}})
    grouped = bucket.list()
    bucket.restart()
    known = bucket.list()
    bucket.restart(group=None)

    assert len(single) == 3
    assert sorted((str(event.subject), event.data["count"]) for event in grouped) == [("a", 2), ("b", 1)]
    assert known == []
    assert bucket.list() == []
    assert not any(key.startswith(("group:", "part:")) for key in bucket.inbox.ledger)
