"""The same story told twice: an installation that lives through it, and a backtest of what it recorded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from controller.core.model import Cause, Decision, Event, Json, Run
from controller.core.past import Fate
from controller.engine.backtest.driver import Driver
from controller.store.dialect import dump_json
from controller.store.policies import trace_values
from tests.engine.house import House

_RUN = re.compile(r"run-[0-9a-z]+")


@dataclass(frozen=True, kw_only=True)
class Happening:
    """An event that comes at an offset."""

    after: timedelta
    type: str = "drift"
    subject: str | None = None
    data: Json = None
    extensions: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What becomes of the n-th run."""

    state: str
    length: timedelta


class Endings:
    """Says what becomes of runs, in the order in which they start."""

    def __init__(self, endings: Sequence[Ending]) -> None:
        self._endings = endings
        self._count = 0
        self._promoted = 0

    def next(self, *, has_champion: bool) -> tuple[Ending, float]:
        """Return the ending of the next run, and the metric with which it would be promoted."""
        ending = self._endings[self._count % len(self._endings)]
        self._count += 1
        if ending.state == "REJECTED" and not has_champion:
            ending = Ending(state="PROMOTED", length=ending.length)
        self._promoted += ending.state == "PROMOTED"
        return ending, 0.5 + self._promoted / 1000


class Live:
    """An installation that lives through a story: every instant at which something is due is visited."""

    def __init__(self, house: House, endings: Sequence[Ending]) -> None:
        self.house = house
        # Messages to people decide nothing.
        house._loops = [loop for loop in house._loops if loop.name != "outbox"]
        self.began_at = house.now
        self._endings = Endings(endings)
        self._ends: dict[str, tuple[datetime, Ending, float]] = {}

    def tell(self, happenings: Sequence[Happening], *, until: timedelta) -> None:
        """Live through it."""
        house, ahead = self.house, sorted(happenings, key=lambda each: each.after)
        end = self.began_at + until
        house.settle()
        self._note_starts()
        while True:
            at = min([end, *self._instants(), *(self.began_at + each.after for each in ahead[:1])])
            house.clock.set_now(max(at, house.now))
            for run_id, (due, ending, auc) in list(self._ends.items()):
                if due <= house.now:
                    del self._ends[run_id]
                    self._end(run_id, ending, auc)
            house.settle()
            while ahead and self.began_at + ahead[0].after <= house.now:
                each = ahead.pop(0)
                house.send(each.type, subject=each.subject, data=each.data, extensions=each.extensions)
            house.settle()
            self._note_starts()
            if house.now >= end:
                return

    def _instants(self) -> list[datetime]:
        with self.house.store.reading() as tx:
            found = [tx.policies.next_due(), tx.episodes.next_expiry()]
        found += [run.not_before for run in self.house.runs() if run.state == "QUEUED"]
        found = [at for at in found if at is None or at > self.house.now]
        return [at for at in [*found, *(due for due, _, _ in self._ends.values())] if at is not None]

    def _note_starts(self) -> None:
        with self.house.store.reading() as tx:
            has_champion = tx.models.champion("churn") is not None
        for run in self.house.runs():
            if run.state == "TRAINING" and run.started_at is not None and run.id not in self._ends and not run.stop_as:
                ending, auc = self._endings.next(has_champion=has_champion)
                self._ends[run.id] = (run.started_at + ending.length, ending, auc)
        alive = {run.id for run in self.house.runs() if run.finished_at is None}
        self._ends = {run_id: end for run_id, end in self._ends.items() if run_id in alive}

    def _end(self, run_id: str, ending: Ending, auc: float) -> None:
        job = next(each for each in self.house.jobs() if each.run_id == run_id)
        far = next(each for each in self.house.world.jobs.values() if each.order.job_id == job.id)
        if ending.state == "FAILED":
            self.house.world._over(far, "failed", "exit code 3", 3)
            return
        metrics = auc if ending.state == "PROMOTED" else 0.1
        (far.order.folder / "artifact" / "model.bin").write_text(run_id)
        result = {"metrics": {"auc": metrics}, "champion_metrics": {"auc": auc - 0.1}, "artifact": "model.bin"}
        (far.order.folder / "result.json").write_text(json.dumps(result))
        self.house.world._over(far, "succeeded", "exit code 0", 0)

    def decisions(self) -> list[dict[str, Any]]:
        """What was decided, with the names of runs as numbers."""
        return _numbered(
            {
                "at": row.at,
                "kind": row.kind,
                "policy": row.policy,
                "key": row.key,
                "stage": row.stage,
                "reason": row.reason,
                "trace": row.trace,
                "until": row.until,
                "waits_for": row.waits_for,
                "event": row.event_id,
            }
            for row in self.house.decisions()
        )


class Backtested:
    """The witness of a backtest of the same story, which also says what becomes of runs."""

    def __init__(self, endings: Sequence[Ending]) -> None:
        self._endings = Endings(endings)
        self._decisions: list[dict[str, Any]] = []
        self.driver: Driver | None = None

    def tell(self, house: House, events: Sequence[Event], *, began_at: datetime, until: timedelta) -> None:
        """Backtest what an installation recorded."""
        self.driver = Driver(house.runtime.config, outcomes=self, witness=self, now=began_at)
        self.driver.begin()
        assert self.driver.run([events], until=began_at + until, goes_on=lambda at: True)
        assert not self.driver.broken, self.driver.broken

    def fate(self, run: Run, causes: Sequence[Cause]) -> Fate:
        """Say what becomes of a run."""
        assert self.driver is not None
        ending, auc = self._endings.next(has_champion=self.driver.world.models.champion("churn") is not None)
        return Fate(state=ending.state, length=ending.length, cost=1.0, metrics={"auc": auc})

    def decided(
        self, decision: Decision, *, at: datetime, event_id: str | None, run_id: str | None, held_since: Any
    ) -> None:
        """Keep a decision."""
        self._decisions.append(
            {
                "at": at,
                "kind": decision.kind,
                "policy": decision.policy,
                "key": decision.key,
                "stage": decision.stage,
                "reason": decision.reason,
                "trace": json.loads(dump_json([trace_values(line) for line in decision.trace])),
                "until": decision.until,
                "waits_for": decision.waits_for,
                "event": event_id,
            }
        )

    def refused(self, refused: Mapping[tuple[str, str, str], int], *, at: datetime) -> None:
        """Nothing is asked of refusals."""

    def added(self, run: Run) -> None:
        """Nothing is asked of runs."""

    def caused(self, run_id: str, causes: Sequence[Cause], *, joins: bool) -> None:
        """Nothing is asked of causes."""

    def started(self, run: Run, fate: Fate) -> None:
        """Nothing is asked of launches."""

    def ended(self, run: Run) -> None:
        """Nothing is asked of ends."""

    def decisions(self) -> list[dict[str, Any]]:
        """What was decided, with the names of runs as numbers."""
        return _numbered(self._decisions)


def _numbered(decisions: Any) -> list[dict[str, Any]]:
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"run {numbers.setdefault(match[0], len(numbers))}"

    found = []
    for decision in decisions:
        text = _RUN.sub(number, dump_json({"reason": decision["reason"], "trace": decision["trace"]}))
        found.append({**decision, **json.loads(text)})
    return found
