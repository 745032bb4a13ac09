"""The simulator plays the same story again, the judge of its stories is judged too, and its log adds up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.core.model import NewEvent
from tests.simulation.__main__ import read_caught
from tests.simulation.campaign import Block, played, totals
from tests.simulation.mutants import MUTANTS
from tests.simulation.oracle import Record, examine
from tests.simulation.play import Theatre
from tests.simulation.shrink import shrink
from tests.simulation.weather import Weather
from tests.simulation.world import Move, Press, Sending

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(120)
def test_a_seed_is_the_same_story_everywhere(stage: Theatre) -> None:
    """Also in another process, with other hashes: otherwise a failure could not be looked at again."""
    here = [stage.play(seed).digest for seed in (3, 11, 19)]
    code = (
        "from tests.simulation.play import theatre\n"
        "with theatre() as stage: print(*(stage.play(seed).digest for seed in (3, 11, 19)))"
    )

    there = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert there.stdout.split() == here
    assert [stage.play(seed).digest for seed in (3, 11, 19)] == here


def test_stories_are_eventful(stage: Theatre) -> None:
    """They start jobs, change leaders, and are disturbed in most ways."""
    reports = [stage.play(seed) for seed in range(40)]

    assert sum(report.counts["launches"] for report in reports) > 60
    assert sum(report.counts["leaders"] for report in reports) > 20
    kinds = {strike.kind for report in reports for strike in report.strikes}
    assert {"crash", "stop", "linger", "kill", "commit lost", "commit answer lost", "jump"} <= kinds


# ---------------------------------------------------------------------------------------------------- the oracle

Spoil = Callable[[Record], Record]


def _changed(record: Record, table: str, **values: Any) -> Record:
    """Return a record whose last row of a table was changed."""
    rows = [dict(row) for row in record.tables[table]]
    rows[-1] |= values
    return replace(record, tables={**record.tables, table: rows})


def _without(record: Record, table: str) -> Record:
    """Return a record whose last row of a table is gone."""
    return replace(record, tables={**record.tables, table: list(record.tables[table])[:-1]})


def _lost_event(record: Record) -> Record:
    lost = Sending(
        "api", NewEvent(source="/sensors", source_id="lost", type="drift"), acknowledged=True, event_ids={"evt-1"}
    )
    return replace(record, sendings=[*record.sendings, lost])


def _forgotten_press(record: Record) -> Record:
    press = Press(verb="retrain", key="forgotten", who="ann", answers=[{"event_id": "evt-1"}])
    return replace(record, presses=[*record.presses, press])


def _second_start(record: Record) -> Record:
    twin = replace(record.jobs[0], name="twin")
    return replace(record, jobs=[*record.jobs, twin])


def _still_running(record: Record) -> Record:
    return replace(record, jobs=[*record.jobs[:-1], replace(record.jobs[-1], state="running")])


def _other_bytes(record: Record) -> Record:
    move = next(move for move in record.moves if move.verb == "promote")
    return replace(record, moves=[*record.moves, replace(move, digest="sha256:0")])


def _older_promotion(record: Record) -> Record:
    promotion = {**dict(record.tables["promotion"][0]), "id": "old", "epoch": -1}
    older = Move(
        at=1,
        registry="first",
        model=promotion["model"],
        verb="rollback",
        version_id=None,
        promotion_id="old",
        digest=None,
    )
    tables = {**record.tables, "promotion": [*record.tables["promotion"], promotion]}
    return replace(record, tables=tables, moves=[*record.moves, older])


def _gap(record: Record) -> Record:
    rows = [row for row in record.tables["history"] if (row["machine"], row["origin"]) != ("run", "QUEUED")]
    return replace(record, tables={**record.tables, "history": rows})


def _former_term(record: Record) -> Record:
    return replace(record, commits=[*record.commits, (1, "old", "decide", True, 0)])


def _repeated_instant(record: Record) -> Record:
    tick = {
        **dict(record.tables["event"][0]),
        "origin": "nightly",
        "source_id": "tick",
        "data": '{"scheduled_at": "2024-01-01T00:01:00Z", "caught_up": 0}',
    }
    rows = [*record.tables["event"], tick, {**tick, "source_id": "tock"}]
    return replace(record, tables={**record.tables, "event": rows}, cron_minutes=1)


#: A violation of each invariant, made by hand.
SPOILS: dict[str, tuple[str, Spoil]] = {
    "an acknowledged event is missing": ("O1", _lost_event),
    "an event was never decided on": ("O1", lambda record: _changed(record, "event", state="PENDING")),
    "an act was answered and is not there": ("G2", _forgotten_press),
    "an event is stored twice": (
        "G2",
        lambda record: replace(
            record, tables={**record.tables, "event": [*record.tables["event"], record.tables["event"][0]]}
        ),
    ),
    "an attempt was started twice": ("O2", _second_start),
    "an attempt is not known": ("O2", lambda record: _without(record, "attempt")),
    "a decision has no run": ("O2", lambda record: _without(record, "run")),
    "a run has not ended": ("O3", lambda record: _changed(record, "run", state="TRAINING", finished_at=None)),
    "a job still runs": ("O3", _still_running),
    "history has a gap": ("O4", _gap),
    "history does not lead to the row": ("O4", lambda record: _changed(record, "run", state="FAILED")),
    "a former term wrote": ("O4", _former_term),
    "something broke": ("O5", lambda record: replace(record, breaks=["a loop died"])),
    "a run is of another configuration": ("G4", lambda record: _changed(record, "run", config_version="another")),
    "an instant fired twice": ("G8", _repeated_instant),
    "other bytes were promoted": ("G9", _other_bytes),
    "an older promotion came later": ("G9", _older_promotion),
    "an epoch was left out": ("G9", lambda record: _changed(record, "model", epoch=9)),
    "a verdict did not pass": ("G9", lambda record: replace(record, tables={**record.tables, "verdict": []})),
    "nobody was told": ("NO", lambda record: replace(record, tables={**record.tables, "notification": []})),
    "a message never arrived": ("NO", lambda record: replace(record, mail=[])),
}


@pytest.fixture(scope="module")
def record(stage: Theatre) -> Record:
    """The record of a story in which nothing went wrong, and something was promoted last."""
    for seed in range(100):
        kept = stage.play(seed, keeps_record=True, is_calm=True).record
        assert kept is not None
        runs, messages = kept.tables["run"], kept.tables["notification"]
        is_promoted = bool(runs) and len(kept.tables["model"]) == 1 and runs[-1]["state"] == "PROMOTED"
        if is_promoted and not kept.cron_minutes and any(row["state"] == "SENT" for row in messages):
            return kept
    raise AssertionError("nothing was promoted in any story")


@pytest.mark.parametrize("name", SPOILS)
def test_the_oracle_sees(record: Record, name: str) -> None:
    """A record without fault breaks no invariant; spoilt by hand it breaks the one that it should."""
    invariant, spoil = SPOILS[name]

    assert examine(record) == []
    assert invariant in {broken.invariant for broken in examine(spoil(record))}


# ---------------------------------------------------------------------------------------------------- the tools


def test_a_strike_that_is_left_out_changes_no_other_place() -> None:
    """What strikes at a place depends on the seed, the place and how often it was reached, and on nothing else."""
    places = [f"place{number % 7}" for number in range(400)]
    whole = Weather(5, {"crash": 0.1}, most=1000)
    for at, place in enumerate(places):
        whole.strike(place, ("crash",), at)
    left_out = whole.strikes[3].place

    fewer = Weather(5, {"crash": 0.1}, without={left_out}, most=1000)
    for at, place in enumerate(places):
        fewer.strike(place, ("crash",), at)

    assert [strike for strike in whole.strikes if strike.place != left_out] == fewer.strikes


@pytest.mark.timeout(120)
def test_a_failure_is_made_smaller(stage: Theatre) -> None:
    """Only the strikes remain without which the invariant would hold; they alone bring the failure back."""
    name = "conflict-is-failure"
    with MUTANTS[name].planted():
        seed = next(seed for seed in read_caught()[name] if stage.play(seed).broken)
        whole = stage.play(seed)

        report, without = shrink(stage, seed, lambda line: None)

        again = stage.play(seed, without=without)
    assert report.broken
    assert len(report.strikes) < len(whole.strikes)
    assert again.digest == report.digest


def test_a_seed_that_does_not_fail_stays_as_it_is(stage: Theatre) -> None:
    """There is nothing to leave out."""
    report, without = shrink(stage, 0, lambda line: None)

    assert not report.broken
    assert without == frozenset()


def test_a_log_says_where_to_go_on(tmp_path: Path) -> None:
    """Behind the last seed of the unbroken range; its sums are those of its lines."""
    log = tmp_path / "log.txt"
    counts = {"events": 7, "launches": 3}
    blocks = [Block(first=first, last=first + 9, counts=counts, failures=[]) for first in (0, 10, 30)]
    log.write_text("\n".join(block.line() for block in blocks) + "\nseed 4: something\n")

    assert played(log) == 20
    assert totals(log)["played"] == 30
    assert totals(log)["events"] == 21
    assert played(tmp_path / "none.txt") == 0
