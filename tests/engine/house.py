"""One installation under a manual clock: a real SQLite store, the real loops, a scripted far side. No threads."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml

from controller.clock import Ids
from controller.config import Config, load_config, reload_config
from controller.core.model import Decision, Event, Job, Json, NewEvent, Receipt, Run, Version
from controller.engine.desk import Desk
from controller.engine.dispatcher import Dispatcher
from controller.engine.evaluator import Evaluator
from controller.engine.gatekeeper import Gatekeeper
from controller.engine.inbox import Inbox
from controller.engine.janitor import Janitor
from controller.engine.monitor import Monitor
from controller.engine.outbox import Outbox
from controller.engine.runtime import Loop, Runtime
from controller.engine.ticker import Ticker
from controller.engine.watcher import Watcher
from controller.ports import Batch
from controller.store import Store, schema
from controller.store.rows import record
from controller.telemetry import Metrics
from controller.testing import ManualClock, RecordingLog, SeededRandom
from tests.engine.scripted import WORLDS, World

#: One model, one policy, one candidate, one promoter; a test names what it changes.
PLAIN: dict[str, Any] = {
    "version": 1,
    "store": "sqlite:///retrain.db",
    "state_dir": "state",
    "models": {
        "churn": {
            "policies": {"drift": {"on": {"type": "drift"}}},
            "train": {
                "launcher": "scripted",
                "candidates": {"a": {}},
                "timeout": "1h",
                "stop_grace": "10s",
                "lost_grace": "20s",
                "retries": {"attempts": 2, "backoff": "30s"},
            },
            "gate": {"objective": {"metric": "auc"}},
            "promote": [{"type": "scripted", "name": "first"}],
            "notify": ["scripted"],
        }
    },
}


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `change` laid over it; a value of None takes a key away."""
    result = dict(base)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping) and "!" not in value:
            result[key] = merged(result[key], value)
        else:
            result[key] = {k: v for k, v in value.items() if k != "!"} if isinstance(value, Mapping) else value
    return result


class House:
    """An installation; `restart()` gives it a new process on the same store and world."""

    def __init__(self, folder: Path, empty_store: Path, *, model: Mapping[str, Any], **config: Any) -> None:
        self.folder = folder
        self.world = WORLDS[folder] = World()
        self.clock = ManualClock()
        self.random = SeededRandom(7)
        self.log = RecordingLog()
        self._ids = Ids(self.clock, self.random)
        self._plan = PLAIN
        shutil.copy(empty_store, folder / "retrain.db")
        self.write(model=model, **config)
        self.store = self._open()
        self._boot("owner-1")

    # --------------------------------------------------------------------------------------- configuration

    def write(self, *, model: Mapping[str, Any] | None = None, **config: Any) -> None:
        """Write the configuration with changes; it counts from the next restart or `desk.reload`."""
        change = {**config, **({"models": {"churn": model}} if model else {})}
        self._plan = merged(self._plan, change)
        (self.folder / "retrain.yaml").write_text(yaml.safe_dump(self._plan, sort_keys=False))

    def break_configuration(self) -> None:
        """Write a configuration that is refused."""
        (self.folder / "retrain.yaml").write_text("version: 1\nmodels: {churn: {polices: {}}}\n")

    # --------------------------------------------------------------------------------------------- process

    def restart(self, *, owner: str = "owner-1") -> None:
        """Let a new process take over, as after a crash."""
        self.store.close()
        self.store = self._open()
        self._boot(owner)

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()
        WORLDS.pop(self.folder, None)

    def _open(self) -> Store:
        config = load_config(self.folder / "retrain.yaml")
        return Store.open(config.store.reveal(), base=config.base, clock=self.clock, ids=self._ids)

    def _boot(self, owner: str) -> None:
        config = load_config(self.folder / "retrain.yaml")
        config.state_dir.mkdir(exist_ok=True)
        self.store.lead(owner=owner, host="test", pid=1)
        self.metrics = Metrics()
        self.runtime = Runtime(
            config=config,
            store=self.store,
            clock=self.clock,
            random=self.random,
            ids=self._ids,
            log=self.log,
            metrics=self.metrics,
            owner=owner,
        )
        self.inbox = Inbox(self.runtime)
        self.evaluator = Evaluator(self.runtime)
        self.dispatcher = Dispatcher(self.runtime)
        self.monitor = Monitor(self.runtime)
        self.gatekeeper = Gatekeeper(self.runtime)
        self.outbox = Outbox(self.runtime)
        self.janitor = Janitor(self.runtime)
        self.ticker = Ticker(self.runtime)
        self.watcher = Watcher(self.runtime)
        self.desk = Desk(self.runtime, self.evaluator.activate, reload=self._reload)
        self._loops: list[Loop] = [
            self.inbox,
            self.evaluator,
            self.dispatcher,
            self.monitor,
            self.gatekeeper,
            self.watcher,
            self.outbox,
            self.janitor,
        ]
        #: Loops that were woken; at its start a process ticks them all.
        self._rung = {loop.name for loop in self._loops}
        self._next_at: dict[str, datetime | None] = {}
        for loop in self._loops:
            self.runtime.bells.hang(loop.name, functools.partial(self._rung.add, loop.name))
        self.evaluator.activate(actor="test")

    def _reload(self) -> Config:
        return reload_config(self.runtime.config)

    # ------------------------------------------------------------------------------------------------ time

    @property
    def now(self) -> datetime:
        """The present instant."""
        return self.clock.now()

    def advance(self, by: timedelta | float) -> None:
        """Let time pass, and every loop do what is to do then."""
        self.clock.advance(by)
        self.settle()

    def settle(self) -> None:
        """Tick the loops as the daemon's threads do, but without their sweep: those that were woken, want it again, or are due.

        So every test that goes through here also proves that nothing waits for the sweep.
        """
        for _ in range(200):
            loop = next((loop for loop in self._loops if self._wants_a_tick(loop)), None)
            if loop is None:
                return
            self._rung.discard(loop.name)
            ticked = loop.tick(self.now)
            self._next_at[loop.name] = ticked.next_at
            if ticked.again:
                self._rung.add(loop.name)
        raise AssertionError(f"the loops do not come to rest: {self._rung}, {self._next_at}")

    def _wants_a_tick(self, loop: Loop) -> bool:
        next_at = self._next_at.get(loop.name)
        return loop.name in self._rung or (next_at is not None and next_at <= self.now)

    # -------------------------------------------------------------------------------------------- what happens

    def send(
        self,
        type: str = "drift",
        *,
        id: str | None = None,
        subject: str | None = None,
        data: Json = None,
        time: datetime | None = None,
        origin: str = "api",
        extensions: Mapping[str, Json] | None = None,
    ) -> Receipt:
        """Store an event."""
        event = NewEvent(
            source="/test",
            source_id=id or self._ids.make("test"),
            type=type,
            subject=subject,
            time=time,
            data=data,
            extensions=extensions or {},
        )
        answer = self.inbox.put(origin, Batch(events=[event]))
        self.inbox.tick(self.now)
        return answer.result(timeout=0)[0]

    def train(self, *, type: str = "drift", **data: Any) -> Run:
        """Send an event and let it go as far as the running jobs; return the newest run."""
        self.send(type, data=data)
        self.settle()
        return self.runs()[-1]

    def champion(self, auc: float = 0.7) -> Version:
        """Train and promote a first champion."""
        self.train()
        self.world.succeed("a", auc=auc, champion_auc=auc - 0.1)
        self.settle()
        assert self.runs()[-1].state == "PROMOTED"
        return self.versions()[-1]

    def retrain(self, *, key: str | None = None, reason: str = "because", **params: Json) -> dict[str, Any]:
        """Press the button."""
        return self.desk.retrain("churn", who="ann", reason=reason, params=params, key=key)

    # -------------------------------------------------------------------------------------------- what there is

    def runs(self) -> list[Run]:
        """Every run, oldest first."""
        return self._all(Run, schema.run)

    def run(self) -> Run:
        """The only run."""
        (run,) = self.runs()
        return run

    def jobs(self) -> list[Job]:
        """Every job, oldest first."""
        return self._all(Job, schema.job)

    def job(self) -> Job:
        """The only job."""
        (job,) = self.jobs()
        return job

    def versions(self) -> list[Version]:
        """Every version, oldest first."""
        return self._all(Version, schema.version)

    def events(self) -> list[Event]:
        """Every event, in the order of storing."""
        return self._all(Event, schema.event)

    def decisions(self, kind: str | None = None) -> list[Any]:
        """Every decision's row, in the order of deciding."""
        with self.store.reading() as tx:
            rows = tx.execute(sa.select(schema.decision).order_by(schema.decision.c.seq, schema.decision.c.id)).all()
        return [row for row in rows if kind in (None, row.kind)]

    def causes(self, run: Run) -> list[str]:
        """The types of a run's causes, in order."""
        with self.store.reading() as tx:
            return [cause.type for cause in tx.runs.causes(run.id)]

    def tally(self, outcome: str) -> int:
        """How many events a stage of the policy refused."""
        table = schema.tally
        with self.store.reading() as tx:
            return tx.execute(sa.select(table.c.count).where(table.c.outcome == outcome)).scalar() or 0

    def path(self, entity: str) -> list[str]:
        """The states that something went through."""
        table = schema.history
        with self.store.reading() as tx:
            rows = tx.execute(sa.select(table.c.target).where(table.c.entity == entity).order_by(table.c.seq))
            return [row.target for row in rows]

    def acts(self) -> list[Any]:
        """What persons did, oldest first."""
        with self.store.reading() as tx:
            return tx.people.acts()[::-1]

    def mail(self) -> list[str]:
        """The kinds of the messages that were delivered, in order."""
        return [message.kind for message in self.world.mail]

    def _all(self, cls: Any, table: Any) -> list[Any]:
        with self.store.reading() as tx:
            return [record(cls, row) for row in tx.execute(sa.select(table).order_by(table.c.id))]


__all__ = ["PLAIN", "Decision", "House", "merged"]
