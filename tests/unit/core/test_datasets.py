"""What is known of data sets between their parts and their events, kept as entries of a ledger."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controller.core import datasets as module
from controller.core.datasets import Change, DataSets, Plan, forgetting, is_of_data_sets, settled
from controller.core.grouping import Grouping, Part, judge, load_grouping
from controller.core.manifest import Listed
from controller.core.model import Json, LedgerEntry

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Ledger(dict[str, Json]):
    """The ledger as a dictionary."""

    def recall(self, prefix: str) -> Mapping[str, Json]:
        return {key: value for key, value in self.items() if key.startswith(prefix)}

    def write(self, entries: list[LedgerEntry]) -> None:
        for entry in entries:
            if entry.value is None:
                self.pop(entry.key, None)
            else:
                self[entry.key] = entry.value


def grouping(**complete: Any) -> Grouping:
    return load_grouping({"complete": complete})


def part(path: str, **changes: Any) -> Change:
    group, _, _ = path.rpartition("/")
    known = Part(name=path, size=1, digest="sha256:1", rows=2)
    return Change(**{"path": path, "group": group, "role": "part", "part": known, **changes})


def made(sets: DataSets, ledger: Ledger, *changes: Change, now: datetime = NOW) -> Plan:
    plan = sets.plan(changes, now)
    ledger.write(plan.entries)
    sets.kept(plan)
    return plan


def closed(sets: DataSets, ledger: Ledger, kind: Grouping, now: datetime = NOW) -> list[str]:
    """Finish what is ready, and return the ids of the events."""
    ids = []
    for group in sets.ready(now):
        verdict = judge(kind, group, sets.parts(group.name), sets.listed(group.name), now)
        if verdict.complete_by:
            plan = sets.finish(group, verdict, source="s", type="t")
            ledger.write(plan.entries)
            sets.kept(plan)
            ids += [plan.event.source_id] if plan.event else []
    return ids


def test_nothing_is_taken_over_before_it_is_stored() -> None:
    """A plan that the store refused leaves no trace, and can be made again."""
    ledger, kind = Ledger(), grouping(parts=1)
    sets = DataSets(kind, ledger.recall)

    refused = sets.plan([part("d/a")], NOW)
    nothing = sets.ready(NOW)
    again = sets.plan([part("d/a")], NOW)

    assert nothing == []
    assert again == refused


def test_what_was_stored_is_read_back() -> None:
    """A new process has the open data sets, their parts and what a manifest names, as they were."""
    ledger, kind = Ledger(), grouping(manifest="m")
    sets = DataSets(kind, ledger.recall)
    listed = [Listed(names=("d/a", "a"), size=1, digest="x"), Listed(names=("d/b",))]
    made(sets, ledger, part("d/a"), Change(path="d/m", group="d", role="manifest", listed=listed))
    made(sets, ledger, part("d/b"), now=NOW + timedelta(minutes=1))

    other = DataSets(kind, ledger.recall)
    other.load()

    (group,) = other.ready(NOW + timedelta(minutes=1))
    assert sets.ready(NOW + timedelta(minutes=1)) == [group]
    assert (group.count, group.listed, group.since) == (2, 2, NOW)
    assert other.listed("d") == listed
    assert other.parts("d")["d/a"] == Part(name="d/a", size=1, digest="sha256:1", rows=2)


def test_a_part_that_is_known_is_not_counted_again() -> None:
    ledger, kind = Ledger(), grouping(parts=3)
    sets = DataSets(kind, ledger.recall)
    made(sets, ledger, part("d/a", fresh=True), part("d/b", fresh=True))

    made(sets, ledger, part("d/a"), part("d/b"))

    assert sets.ready(NOW) == []
    assert sets.report()["oldest"][0]["parts"] == 2


def test_what_is_gone_leaves_nothing() -> None:
    """A closed data set whose parts are all gone is forgotten; an open one waits without them."""
    ledger, kind = Ledger(), grouping(marker="m")
    sets = DataSets(kind, ledger.recall)
    made(sets, ledger, part("d/a"), Change(path="d/m", group="d", role="marker"))
    (first,) = closed(sets, ledger, kind)
    made(sets, ledger, part("e/a"))

    made(sets, ledger, part("d/a", part=None), part("e/a", part=None), part("f/a", part=None))

    assert first.startswith("d@sha256:")
    assert sorted(key.partition(":")[0] for key in ledger) == ["group", "open"]
    assert [group["missing"] for group in sets.report()["oldest"]] == ["a part"]


def test_only_some_open_ones_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit they are in the ledger alone; none is lost, and each comes when it is complete."""
    monkeypatch.setattr(module, "OPEN_LIMIT", 10)
    ledger, kind = Ledger(), grouping(quiet="5m")
    sets = DataSets(kind, ledger.recall)
    for number in range(100):
        made(sets, ledger, part(f"d{number}/a"))
    held = len(sets._open)
    later, ids = NOW + timedelta(minutes=5), list[str]()

    while found := closed(sets, ledger, kind, later):
        ids += found

    assert held <= 20
    assert len(set(ids)) == 100
    assert not any(key.startswith("open:") for key in ledger)


def test_one_that_is_not_in_memory_is_completed_by_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OPEN_LIMIT", 2)
    ledger, kind = Ledger(), grouping(marker="m")
    sets = DataSets(kind, ledger.recall)
    for number in range(10):
        made(sets, ledger, part(f"d{number}/a"))

    made(sets, ledger, Change(path="d9/m", group="d9", role="marker"))

    assert [name.partition("@")[0] for name in closed(sets, ledger, kind)] == ["d9"]
    assert sets.report()["more"]


def test_what_is_passed_over_opens_nothing() -> None:
    ledger, kind = Ledger(), grouping(parts=1)
    sets = DataSets(kind, ledger.recall)

    made(sets, ledger, part("d/a", news=False))
    before = sets.ready(NOW)
    made(sets, ledger, part("d/b"))

    assert before == []
    assert [group.count for group in sets.ready(NOW)] == [2]


def test_forgetting_takes_data_sets_and_nothing_else() -> None:
    """It goes in pieces, and is over when the ledger says whose data sets it holds."""
    ledger, kind = Ledger({"00ab": 1, "@baseline": 2}), grouping(marker="m")
    sets = DataSets(kind, ledger.recall)
    made(sets, ledger, *[part(f"d/{number}") for number in range(1_200)])
    ledger.write([settled(kind)])
    was = is_of_data_sets(ledger.recall, kind), is_of_data_sets(ledger.recall, None)

    pieces = list(forgetting(ledger.recall))
    for piece in pieces:
        ledger.write(piece)
    ledger.write([settled(None)])

    assert was == (True, False)
    assert max(map(len, pieces)) <= 500
    assert ledger == {"00ab": 1, "@baseline": 2}
    assert is_of_data_sets(ledger.recall, None)
