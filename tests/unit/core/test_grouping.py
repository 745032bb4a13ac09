"""Which parts belong together, when all of them are there, and what they are together."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.grouping import (
    LATE_QUIET,
    SHOWN_PARTS,
    Group,
    Grouping,
    Part,
    Verdict,
    compare,
    digest_of,
    group_event,
    judge,
    load_grouping,
    ready_at,
)
from controller.core.manifest import Listed, read_manifest
from controller.errors import InvalidInput

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def grouping(by: str = "directory", max_parts: int = 10_000, **complete: Any) -> Grouping:
    return load_grouping({"by": by, "complete": complete, "max_parts": max_parts})


def parts(*names: str, digest: str = "sha256:0") -> dict[str, Part]:
    return {name: Part(name=name, size=1, digest=digest) for name in names}


def group(**changes: Any) -> Group:
    return Group(**{"name": "day=1", "since": NOW, "changed_at": NOW, "open": True, **changes})


# ---------------------------------------------------------------------------------------------- the configuration


@pytest.mark.parametrize(
    "value, words",
    [
        ("directory", "is not a group"),
        ({}, "`complete` must say"),
        ({"complete": {}}, "`complete` must say"),
        ({"complete": {"marker": "_SUCCESS"}, "bye": "directory"}, "no key 'bye'"),
        ({"complete": {"market": "_SUCCESS"}}, "no key 'market'"),
        ({"complete": {"marker": "_SUCCESS", "parts": 3}}, "`marker` and `parts` contradict"),
        ({"complete": {"marker": "_SUCCESS", "manifest": "m.json"}}, "`marker` and `manifest` contradict"),
        ({"complete": {"parts": 0}}, "`parts` is 0"),
        ({"complete": {"parts": True}}, "`parts` is True"),
        ({"complete": {"parts": 20}, "max_parts": 10}, "`parts` is 20"),
        ({"complete": {"quiet": "5 minuts"}}, "'5 minuts' is not a duration"),
        ({"complete": {"quiet": "0s"}}, "data set of its own"),
        ({"complete": {"marker": "done/_SUCCESS"}}, "without a folder"),
        ({"complete": {"marker": ""}}, "without a folder"),
        ({"complete": {"quiet": "5m"}, "max_parts": 1_000_000}, "`max_parts` is 1000000"),
        ({"by": "(day", "complete": {"quiet": "5m"}}, "no regular expression"),
        ({"by": "day=.*", "complete": {"quiet": "5m"}}, "has no group"),
        ({"by": 7, "complete": {"quiet": "5m"}}, "`by` is 7"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_sentence(value: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        load_grouping(value)

    assert words in refused.value.message


def test_a_grouping_is_written_as_it_can_be_read() -> None:
    """The normal form has every default, and reads back as the same."""
    loaded = load_grouping({"complete": {"parts": 12, "quiet": "90m"}})

    assert loaded.written() == {
        "by": "directory",
        "complete": {"parts": 12, "quiet": "1h30m"},
        "max_parts": 10_000,
    }
    assert load_grouping(loaded.written()) == loaded


def test_the_shape_changes_with_what_the_data_sets_are() -> None:
    """Another way to group is another shape; another time to wait is not."""
    shape = grouping(marker="_SUCCESS").shape

    assert grouping(marker="_SUCCESS", quiet="5m").shape == shape
    assert grouping(marker="_DONE").shape != shape
    assert grouping("(a)", marker="_SUCCESS").shape != shape
    assert grouping(marker="_SUCCESS", max_parts=5).shape != shape


@pytest.mark.parametrize(
    "by, path, expected",
    [
        ("directory", "a.csv", "."),
        ("directory", "x/y/a.csv", "x/y"),
        (r"^(day=[^/]+)/", "day=1/hour=2/a.csv", "day=1"),
        (r"^(day=[^/]+)/", "other/a.csv", None),
        (r"(?P<model>\w+)-(?P<day>\d+)", "x/churn-20260301-7.csv", "churn/20260301"),
        (r"(\w+)-(\d+)", "churn-7.csv", "churn/7"),
        (r"(\d+)|(?:x)", "x.csv", None),
    ],
)
def test_a_path_names_its_data_set(by: str, path: str, expected: str | None) -> None:
    assert grouping(by, quiet="5m").group_of(path) == expected


@pytest.mark.parametrize(
    "complete, path, expected",
    [
        ({"marker": "_SUCCESS"}, "day=1/_SUCCESS", "marker"),
        ({"marker": "*.done"}, "day=1/all.done", "marker"),
        ({"marker": "_SUCCESS"}, "day=1/x_SUCCESS", "part"),
        ({"manifest": "manifest*.json"}, "manifest-7.json", "manifest"),
        ({"quiet": "5m"}, "_SUCCESS", "part"),
    ],
)
def test_a_path_has_a_role(complete: dict[str, Any], path: str, expected: str) -> None:
    assert grouping(**complete).role_of(path) == expected


# ------------------------------------------------------------------------------------------------------ judgement


@pytest.mark.parametrize(
    "complete, changes, expected",
    [
        ({"marker": "M"}, {"count": 3}, None),
        ({"marker": "M"}, {"count": 3, "marked_at": NOW - MINUTE}, NOW),
        ({"marker": "M"}, {"count": 0, "marked_at": NOW}, None),
        ({"marker": "M", "quiet": "5m"}, {"count": 3}, NOW + 5 * MINUTE),
        ({"parts": 3}, {"count": 2}, None),
        ({"parts": 3}, {"count": 3}, NOW),
        ({"parts": 3}, {"count": 4}, NOW),
        ({"parts": 3, "quiet": "5m"}, {"count": 2}, NOW + 5 * MINUTE),
        ({"manifest": "M"}, {"count": 3}, None),
        ({"manifest": "M"}, {"count": 3, "listed": 4, "marked_at": NOW}, None),
        ({"manifest": "M"}, {"count": 4, "listed": 4, "marked_at": NOW}, NOW),
        ({"quiet": "5m"}, {"count": 1}, NOW + 5 * MINUTE),
        ({"quiet": "5m"}, {"count": 1, "open": False}, None),
        ({"quiet": "5m"}, {"count": 1, "overfull": True}, None),
    ],
)
def test_when_a_data_set_may_be_complete(
    complete: dict[str, Any], changes: dict[str, Any], expected: datetime | None
) -> None:
    assert ready_at(grouping(**complete), group(**changes)) == expected


@pytest.mark.parametrize(
    "complete, changes, wait",
    [
        ({"marker": "M"}, {"marked_at": NOW - MINUTE}, LATE_QUIET),
        ({"marker": "M", "quiet": "7m"}, {"marked_at": NOW - MINUTE}, 7 * MINUTE),
        ({"marker": "M"}, {"marked_at": NOW}, timedelta(0)),
        ({"parts": 2}, {}, LATE_QUIET),
    ],
    ids=["old marker", "old marker, quiet", "marker written again", "number of parts"],
)
def test_late_parts_wait_for_each_other(complete: dict[str, Any], changes: dict[str, Any], wait: timedelta) -> None:
    """What comes after the event is collected until nothing came for a while, or the marker was written again."""
    late = group(count=3, generation=1, digest="sha256:before", **changes)

    assert ready_at(grouping(**complete), late) == NOW + wait


def test_complete_by_its_marker() -> None:
    verdict = judge(grouping(marker="M"), group(count=2, marked_at=NOW), parts("b", "a"), [], NOW)

    assert verdict.complete_by == "marker"
    assert [part.name for part in verdict.parts] == ["a", "b"]
    assert verdict.missing_count == 0


def test_quiet_is_a_limit_that_says_what_is_missing() -> None:
    """Beside another rule, the data set is complete without it after the time, and the verdict has what was not there."""
    wanted = grouping(parts=5, quiet="5m")
    waiting = group(count=3)

    before = judge(wanted, waiting, parts("a", "b", "c"), [], NOW + 4 * MINUTE)
    after = judge(wanted, waiting, parts("a", "b", "c"), [], NOW + 5 * MINUTE)

    assert (before.complete_by, before.look_at) == (None, NOW + 5 * MINUTE)
    assert (after.complete_by, after.missing_count, len(after.parts)) == ("quiet", 2, 3)


def test_a_manifest_wants_what_it_names_and_nothing_else() -> None:
    """Parts that it does not name are not of the data set; one that it names and is not there is missing."""
    listed = [Listed(names=("d/a", "a")), Listed(names=("d/b", "b"))]
    wanted = grouping(manifest="M")
    known = group(count=2, listed=2, marked_at=NOW)

    lacking = judge(wanted, known, parts("d/a", "d/x"), listed, NOW)
    whole = judge(wanted, known, parts("d/a", "b", "d/x"), listed, NOW)

    assert (lacking.complete_by, lacking.missing, lacking.look_at) == (None, ("d/b",), None)
    assert whole.complete_by == "manifest"
    assert [part.name for part in whole.parts] == ["b", "d/a"]


def test_a_manifest_that_is_not_met_ends_with_quiet() -> None:
    wanted = grouping(manifest="M", quiet="5m")
    known = group(count=2, listed=2, marked_at=NOW)
    listed = [Listed(names=("a",)), Listed(names=("b",))]

    early = judge(wanted, known, parts("a", "x"), listed, NOW)
    late = judge(wanted, known, parts("a", "x"), listed, NOW + 5 * MINUTE)

    assert early.look_at == NOW + 5 * MINUTE
    assert (late.complete_by, late.missing) == ("quiet", ("b",))
    assert [part.name for part in late.parts] == ["a", "x"]


SHA = "ab" * 32


@pytest.mark.parametrize(
    "size, wanted, digest, is_there",
    [
        (None, None, "sha256:0", True),
        (1, None, "sha256:0", True),
        (2, None, "sha256:0", False),
        (1, f"sha256:{SHA}", f"sha256:{SHA}", True),
        (1, SHA.upper(), f"sha256:{SHA}", True),
        (1, f"sha256:{SHA}", f"sha256:{'0' * 64}", False),
        (1, 'etag:"abc-2"', "etag:abc-2", True),
        (1, "etag:abc", "etag:abd", False),
        (1, f"sha256:{SHA}", "etag:abc", True),
        (1, "md5:abc", f"sha256:{SHA}", True),
    ],
)
def test_size_and_digest_count_where_they_can_be_compared(
    size: int | None, wanted: str | None, digest: str, *, is_there: bool
) -> None:
    found, missing = compare([Listed(names=("a",), size=size, digest=wanted)], parts("a", digest=digest))

    assert bool(found) is is_there
    assert bool(missing) is not is_there


# ------------------------------------------------------------------------------------------------------- manifests


@pytest.mark.parametrize(
    "body, expected",
    [
        ('["a.csv", "./b.csv"]', ["d/a.csv", "d/b.csv"]),
        ("a.csv\n\n# a comment\nb.csv\n", ["d/a.csv", "d/b.csv"]),
        ('{"files": ["a.csv"]}', ["d/a.csv"]),
        ('{"entries": [{"url": "s3://bucket/root/d/a.csv", "mandatory": true}]}', ["d/a.csv"]),
        ('[{"path": "../e/a.csv"}]', ["e/a.csv"]),
        ('[{"key": "a.csv"}, {"name": "b.csv"}]', ["d/a.csv", "d/b.csv"]),
        ('["a.csv", "a.csv"]', ["d/a.csv"]),
        ('["s3://elsewhere/a.csv", "/abs/a.csv"]', ["s3://elsewhere/a.csv", "/abs/a.csv"]),
        ("\ufeffa.csv\r\n", ["d/a.csv"]),
    ],
)
def test_a_manifest_in_any_of_its_forms(body: str, expected: list[str]) -> None:
    listed = read_manifest(body.encode(), folder="d", roots=["s3://bucket/root"])

    assert [entry.names[0] for entry in listed] == expected


def test_a_manifest_may_give_sizes_and_digests() -> None:
    body = json.dumps(
        [{"url": "a", "meta": {"content_length": 7}, "etag": "x"}, {"path": "b", "size": 8, "digest": SHA}]
    )

    first, second = read_manifest(body.encode(), folder="", roots=[])

    assert (first.size, first.digest) == (7, "etag:x")
    assert (second.size, second.digest) == (8, SHA)


@pytest.mark.parametrize(
    "body, words",
    [
        (b"", "names no part"),
        (b"[]", "names no part"),
        (b"\xff\xfe", "UTF-8"),
        (b"{", "no JSON"),
        (b'{"a": 1}', "neither a list"),
        (b"[1]", "neither a path"),
        (b"[{}]", "an entry without"),
        (b'["a\\ud800"]', "half a character"),
        (b"a\x00b", "NUL"),
        (b'[{"path": "a", "etag": "\\u0000"}]', "NUL"),
        (b'[{"path": "a", "size": -1}]', "impossible size"),
        (b"a\n" * 100_001, "names 100001 parts"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_a_manifest_that_is_none_says_why(body: bytes, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_manifest(body, folder="", roots=[])

    assert words in refused.value.message


@given(st.binary(max_size=200))
def test_no_bytes_hurt(body: bytes) -> None:
    """Whatever a manifest holds, it is read or refused."""
    try:
        listed = read_manifest(body, folder="d", roots=["x"])
    except InvalidInput:
        return

    assert listed
    assert all(entry.names for entry in listed)


# ---------------------------------------------------------------------------------------------------------- events

_PARTS = st.lists(
    st.builds(Part, name=st.text(min_size=1, max_size=5), size=st.integers(0, 9), digest=st.text(max_size=3)),
    unique_by=lambda part: part.name,
)


@given(_PARTS, st.randoms(use_true_random=False))
def test_the_digest_is_of_the_content_whatever_the_order(some: list[Part], random: Any) -> None:
    shuffled = list(some)
    random.shuffle(shuffled)

    assert digest_of(shuffled) == digest_of(some)


@given(_PARTS, _PARTS)
def test_other_content_has_another_digest(one: list[Part], other: list[Part]) -> None:
    same = sorted(one, key=lambda part: part.name) == sorted(other, key=lambda part: part.name)

    assert (digest_of(one) == digest_of(other)) is same


def _verdict(*some: Part, **changes: Any) -> Verdict:
    return Verdict(
        **{"complete_by": "marker", "parts": some, "missing": (), "missing_count": 0, "look_at": None, **changes}
    )


def test_the_event_says_what_the_data_set_is() -> None:
    one = Part(name="d/a", size=2, digest="sha256:1", rows=10)
    two = Part(name="d/b", size=3, digest="etag:2", rows=5)

    event = group_event(group(), _verdict(one, two), source="/sources/x", type="dataset.arrived", digest="sha256:9")

    assert (event.source, event.source_id, event.subject) == ("/sources/x", "day=1@sha256:9", "day=1")
    assert event.data == {
        "group": "day=1",
        "parts": [
            {"name": "d/a", "size": 2, "digest": "sha256:1", "rows": 10},
            {"name": "d/b", "size": 3, "etag": "2", "rows": 5},
        ],
        "parts_truncated": False,
        "count": 2,
        "bytes": 5,
        "rows": 15,
        "digest": "sha256:9",
        "complete_by": "marker",
        "generation": 1,
        "previous": None,
        "late": False,
    }


def test_rows_are_summed_only_when_all_are_known() -> None:
    some = [Part(name="a", size=1, digest="stamp:1-2", rows=3), Part(name="b", size=1, digest="stamp:1-3")]

    data = group_event(group(), _verdict(*some), source="s", type="t", digest="d").data

    assert "rows" not in data
    assert data["parts"] == [{"name": "a", "size": 1, "rows": 3}, {"name": "b", "size": 1}]


def test_a_large_data_set_is_cut_in_the_event_only() -> None:
    some = [Part(name=f"{number:05}", size=1, digest="x") for number in range(SHOWN_PARTS + 1)]

    data = group_event(group(), _verdict(*some), source="s", type="t", digest=digest_of(some)).data

    assert (len(data["parts"]), data["parts_truncated"], data["count"]) == (SHOWN_PARTS, True, SHOWN_PARTS + 1)


def test_a_later_generation_names_the_one_before() -> None:
    late = group(generation=2, digest="sha256:before")

    data = group_event(late, _verdict(), source="s", type="t", digest="sha256:now").data

    assert (data["generation"], data["previous"], data["late"]) == (3, "sha256:before", True)


def test_the_id_is_bounded_and_keeps_names_apart() -> None:
    names = ["x" * 5_000, "x" * 4_999 + "y"]

    ids = {group_event(group(name=name), _verdict(), source="s", type="t", digest="d").source_id for name in names}

    assert len(ids) == 2
    assert max(map(len, ids)) < 450
    assert hashlib.sha256(names[0].encode()).hexdigest()[:24] in "".join(ids)
