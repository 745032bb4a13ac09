"""Plays one story: the producers, the people and the disturbances, then a quiet time, then the questions of the oracle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from controller.clock import Ids
from controller.core.model import LedgerEntry, NewEvent, Receipt
from controller.engine import sources as engine_sources
from controller.engine.replay import replay
from controller.errors import Conflict, ControllerError, StoreBusy
from controller.ports import Batch
from controller.store import Store, dialect
from controller.testing import ManualClock, SeededRandom
from tests.simulation import stage as staging
from tests.simulation import world as far
from tests.simulation.oracle import Broken, Record, examine
from tests.simulation.process import SECOND, Died, Host, Once, Process
from tests.simulation.stage import Stage, Stuck, line_of
from tests.simulation.story import MODELS, Happening, Story, tell
from tests.simulation.weather import Strike, Weather, chance_of
from tests.simulation.world import Press, Sending

#: After the last fault everything must have come to an end within so many seconds.
BOUND = 1800
#: Of so many seeds one is decided once more.
REPLAYED = 10
#: Seconds after which a client that got no answer asks again, elsewhere.
_PATIENCE = 5
#: So often people look at what waits for them, in the quiet time; seconds.
_ROUND = 20
#: After so many seconds of waiting in the quiet time all machines are suspended until something but the lease is due.
_AWAKE = 180
#: Records of the topic that are read at once.
_FETCH = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a story came to."""

    seed: int
    broken: Sequence[Broken]
    strikes: Sequence[Strike]
    counts: Mapping[str, int]
    trace: Sequence[tuple[int, str, str, Any]] = field(repr=False)
    #: What the oracle looked at, when it was to be kept.
    record: Record | None = field(repr=False, default=None)

    @property
    def digest(self) -> str:
        """Return the digest of everything that happened."""
        sha = hashlib.sha256()
        for entry in self.trace:
            sha.update(line_of(entry).encode())
        return sha.hexdigest()

    def text(self, *, lines: int = 30) -> str:
        """Return it for people: what is broken, what went wrong before, the end of the trace, and how to see it again."""
        parts = [f"seed {self.seed}: {len(self.broken)} invariants do not hold"]
        parts += [f"  {each}" for each in self.broken]
        parts += ["what went wrong:", *(f"  {strike}" for strike in self.strikes)]
        if lines:
            parts.append(f"the last {lines} lines of {len(self.trace)}:")
            parts += [f"  {line_of(entry)}" for entry in self.trace[-lines:]]
        parts.append(f"again: .venv/bin/python -m tests.simulation --seed {self.seed} -v")
        return "\n".join(parts)


class Theatre:
    """Where stories are played one after the other: a folder in memory, an empty database to copy, the plugins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        clock = ManualClock()
        store = Store.open("sqlite:///empty.db", base=folder, clock=clock, ids=Ids(clock, SeededRandom()))
        store.upgrade()
        store.close()
        self._empty = (folder / "empty.db").read_bytes()
        self._played = 0

    def play(
        self,
        seed: int,
        *,
        without: Collection[str] = (),
        verbose: bool = False,
        keeps_record: bool = False,
        is_calm: bool = False,
    ) -> Report:
        """Play the story of a seed, leaving out what `without` names; when it `is_calm`, nothing goes wrong at all."""
        self._played += 1
        folder = self.folder / f"play{self._played}"
        folder.mkdir()
        (folder / "retrain.db").write_bytes(self._empty)
        try:
            play = _Play(tell(seed), folder, empty=self._empty, without=without, verbose=verbose)
            play.weather.calm = is_calm
            played = play.play()
        finally:
            shutil.rmtree(folder)
        return played if keeps_record else replace(played, record=None)


@contextlib.contextmanager
def theatre() -> Iterator[Theatre]:
    """Open a theatre."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="simulation-", dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        with far.installed(folder):
            yield Theatre(folder)


class _Play:
    """One story on the stage."""

    def __init__(self, story: Story, folder: Path, *, empty: bytes, without: Collection[str], verbose: bool) -> None:
        self._story = story
        self._empty = empty
        self._without = without
        self.weather = Weather(story.seed, story.rates, without=without)
        texts = [yaml.safe_dump(plan, sort_keys=False) for plan in story.plans]
        self.stage = Stage(story, folder, texts=texts, weather=self.weather, verbose=verbose)
        self.world = self.stage.world
        self._module = dialect.sqlite_module()
        self._eye: Any = None
        self._chance = chance_of("play", story.seed)
        self._group = _Group(self)

    def play(self) -> Report:
        """Play it."""
        broken: list[Broken] = []
        modules = vars(engine_sources)
        logger, modules["logger"] = modules["logger"], lambda name: _SILENCE
        staging.arm(self.stage.reached)
        try:
            with far.present(self.world):
                self._eye = self._module.connect(self.stage.folder / "retrain.db", isolation_level=None)
                self._eye.row_factory = self._module.Row
                try:
                    self._begin()
                    self.stage.go(self._story.length)
                    self._calm()
                    self._settle()
                except Stuck as error:
                    broken.append(Broken(invariant="O3", text=str(error)))
                except Died:
                    raise AssertionError("a process died outside of its own step") from None
                record = self._record()
                broken += examine(record)
                if self._story.seed % REPLAYED == 0:
                    broken += self._replay()
        finally:
            staging.disarm()
            modules["logger"] = logger
            if self._eye is not None:
                self._eye.close()
            self.stage.close()
        return Report(
            seed=self._story.seed,
            broken=broken,
            strikes=self.weather.strikes,
            counts=self._counts(record),
            trace=self.stage.trace,
            record=record,
        )

    def _replay(self) -> list[Broken]:
        """G4: decide everything that was recorded once more, in an empty database; it comes out the same."""
        staging.disarm()
        process = self.stage.processes()[0]
        url = f"sqlite:///{self.stage.folder / 'replayed.db'}"
        (self.stage.folder / "replayed.db").write_bytes(self._empty)
        found = replay(process.store, url, config=process.runtime.config, clock=process.runtime.clock)
        if found.is_equal:
            return []
        return [Broken(invariant="G4", text=f"decided {found.recorded}, and now {found.replayed}")]

    # ------------------------------------------------------------------------------------------------ the acts

    def _begin(self) -> None:
        for host in self.stage.hosts:
            if self._story.is_alone:
                host.boot()
            else:
                self.stage.at(int(self._chance.random() * SECOND), self.stage._boot, host)
        for happening in self._story.happenings:
            self.stage.at(happening.at, self._happen, happening)
        if any(each.what == "record" for each in self._story.happenings):
            self.stage.at(SECOND, self._group.look)

    def _happen(self, happening: Happening) -> None:
        getattr(self, f"_on_{happening.what}")(happening)

    def _calm(self) -> None:
        """Nothing goes wrong any more: who was stopped goes on, who was killed is back, the clocks are right."""
        self.weather.calm = True
        self.stage.down_until = min(self.stage.down_until, self.stage.t)
        self.stage.note(None, "calm", "")
        for host in self.stage.hosts:
            host.skew = 0
            if host.process is None:
                host.boot()
            if host.process is not None:
                host.process.stopped_until = min(host.process.stopped_until, self.stage.t)
                host.process.look_again()

    def _settle(self) -> None:
        """Wait until everything has come to an end, while people do what they are asked for."""
        began, round_at = self.stage.t, self.stage.t
        limit = began + int((BOUND + max(0, *self._story.jumps)) * SECOND)
        while self.stage.t < limit:
            self.stage.go(self.stage.t + SECOND)
            if not self._unfinished():
                return
            if self.stage.t >= round_at:
                round_at = self.stage.t + _ROUND * SECOND
                self._answer_people()
            if (
                self.stage.t > began + _AWAKE * SECOND and not self._story.has_cron
            ):  # a schedule brings something every minute
                self.stage.suspend(until=limit)
        late = (limit - began) // SECOND
        raise Stuck(f"not at an end {late} s after the last fault: {'; '.join(self._unfinished(limit=3))}")

    def _unfinished(self, *, limit: int = 1) -> list[str]:
        """Return what has not come to an end, up to so many of each kind."""
        found = [f"event {each.identity} is not acknowledged" for each in self.world.sendings if not each.acknowledged][
            :limit
        ]
        if self._group.is_behind:
            found.append(f"the topic has {len(self.world.topic)} records, {self.world.committed} are acknowledged")
        for table, where in _UNFINISHED:
            if found and limit == 1:
                break
            rows = self._rows(f"SELECT id, state FROM {table} WHERE {where} LIMIT {limit}")
            found += [f"{table} {row['id']} is {row['state']}" for row in rows]
        return found

    def _answer_people(self) -> None:
        """Do what the controller asks people for."""
        for row in self._rows("SELECT scope, target FROM pause"):
            self._press("resume", "carol", args=(row["scope"], row["target"]))
        for row in self._rows("SELECT id, model, cause FROM run WHERE state = 'AWAITING_APPROVAL'"):
            if row["cause"] == "held":
                self._press("resume", "carol", args=("model", row["model"]))
            else:
                self._press("approve" if self._chance.random() < 0.7 else "reject", "carol", args=(row["id"],))
        self._resolve("carol")

    # ------------------------------------------------------------------------------------------------ producers

    def _on_event(self, happening: Happening) -> None:
        body = happening.body
        chance = chance_of(happening.chance)
        event = NewEvent(
            source="/sensors",
            source_id=f"event-{body['number']}",
            type=body["type"],
            subject="eu" if chance.random() < 0.5 else "us",
            data={"share": round(chance.random(), 2), "rows": int(chance.random() * 40)},
        )
        sending = Sending("api", event)
        self.world.sendings.append(sending)
        for copy in range(body["copies"]):
            self.stage.later(
                0 if copy == 0 else int(chance.random() ** 2 * 20 * SECOND), self._send, sending, chance, copy > 0
            )

    def _send(self, sending: Sending, chance: SeededRandom, is_extra: bool) -> None:
        """Post an event to any replica; what is not acknowledged in time is posted again, elsewhere."""
        hosts = self.stage.hosts
        process = hosts[int(chance.random() * len(hosts))].process
        sending.tries += 1
        if not is_extra or not sending.acknowledged:
            self.stage.later(_PATIENCE * SECOND, self._send_again, sending, chance)
        if process is None:
            return
        if process.stopped_until > self.stage.t:  # it lies in the socket's buffer until the process goes on
            self.stage.at(process.stopped_until, self._post, process, sending)
        else:
            self._post(process, sending)

    def _send_again(self, sending: Sending, chance: SeededRandom) -> None:
        if not sending.acknowledged:
            self._send(sending, chance, False)

    def _post(self, process: Process, sending: Sending) -> None:
        if not process.is_alive:
            return

        def answered(future: Future[list[Receipt]]) -> None:
            if process.is_alive and future.exception() is None:
                sending.acknowledged = True
                sending.event_ids.add(future.result()[0].event_id)

        with contextlib.suppress(StoreBusy):
            process.crew.inbox.put(sending.origin, Batch(events=[sending.event])).add_done_callback(answered)

    def _on_record(self, happening: Happening) -> None:
        number = len(self.world.topic)
        rows = int(happening.chance * 40)
        self.world.topic.append(
            NewEvent(source="/topic", source_id=f"record-{number}", type="record", data={"rows": rows})
        )

    # ------------------------------------------------------------------------------------------------ people

    def _on_act(self, happening: Happening) -> None:
        chance = chance_of(happening.chance)
        verb, key = happening.body["verb"], happening.body["key"]
        if verb == "resolve":
            self._resolve("ann")
            return
        args = self._target_of(verb, chance)
        if args is None:
            return
        copies = happening.body["copies"] if key else 1
        press = Press(verb=verb, key=key if verb in ("retrain", "retry") else None, who="ann")
        self.world.presses.append(press)
        for copy in range(copies):
            self.stage.later(int(copy * chance.random() * 3 * SECOND), self._press_for, press, args)

    def _target_of(self, verb: str, chance: SeededRandom) -> tuple[str, ...] | None:
        """Choose what a person does something to."""
        if verb in ("retrain", "rollback", "pause"):
            model = MODELS[int(chance.random() * len(self._story.plans[0]["models"]))]
            return ("model", model) if verb == "pause" else (model,)
        where = {
            "cancel": "finished_at IS NULL",
            "approve": "state = 'AWAITING_APPROVAL'",
            "reject": "state = 'AWAITING_APPROVAL'",
            "retry": "finished_at IS NOT NULL",
            "promote": "state IN ('REJECTED', 'SUPERSEDED')",
        }[verb]
        rows = self._rows(f"SELECT id FROM run WHERE {where} ORDER BY id")
        return (rows[int(chance.random() * len(rows))]["id"],) if rows else None

    def _press(self, verb: str, who: str, *, args: tuple[str, ...], **more: Any) -> None:
        press = Press(verb=verb, key=None, who=who)
        self._press_for(press, args, **more)

    def _press_for(self, press: Press, args: tuple[str, ...], **more: Any) -> None:
        """Have an act done by any replica that answers; one that has a key is asked for again until it is answered."""
        candidates = [process for process in self.stage.processes() if process.stopped_until <= self.stage.t]
        if not candidates:
            if press.key:
                self.stage.later(_PATIENCE * SECOND, self._press_for, press, args)
            return
        process = candidates[int(self._chance.random() * len(candidates))]
        process.once.append(Once(process, lambda: self._act(process, press, args, more)))
        if press.key:
            self.stage.later(_PATIENCE * SECOND, self._ask_again, press, args)

    def _ask_again(self, press: Press, args: tuple[str, ...]) -> None:
        if not press.answers:
            self._press_for(press, args)

    def _act(self, process: Process, press: Press, args: tuple[str, ...], more: Mapping[str, Any]) -> None:
        desk = process.crew.desk
        settings: dict[str, Any] = {"who": press.who, "reason": "because", **more}
        if press.verb == "retrain":
            settings |= {"params": {}, "key": press.key}
        elif press.verb == "retry":
            settings |= {"key": press.key}
        try:
            answer = getattr(desk, press.verb)(*args, **settings)
        except ControllerError as error:
            self.stage.note(process, f"{press.verb} refused", error.message)
        else:
            press.answers.append(answer)

    def _resolve(self, who: str) -> None:
        """Say what became of jobs that nobody knows: a person looks at the far side, and ends what still runs there."""
        rows = self._rows(
            "SELECT job.run_id, job.candidate, attempt.id FROM job JOIN attempt"
            " ON attempt.job_id = job.id AND attempt.number = job.attempt WHERE job.state = 'UNKNOWN'"
        )
        for row in rows:
            for job in self.world.jobs.values():
                if job.order.attempt_id == row["id"]:
                    self.world.over(job, "failed", "ended by hand")
            if not self.world.underway[row["id"]]:
                self._press("resolve", who, args=(row["run_id"], row["candidate"], "failed"))

    def _on_reload(self, happening: Happening) -> None:
        host = self._host(happening)
        host.write(happening.body["variant"])
        process = host.process
        if process is not None:
            process.once.append(Once(process, lambda: self._reload(process), blocked_by=("ticker", "evaluator")))

    def _reload(self, process: Process) -> None:
        if process.is_reloading:
            return
        process.is_reloading = True
        try:
            before = process.runtime.config.version
            process.crew.desk.reload(who="bob")
            if process.runtime.config.version != before:
                self.stage.reloads.append((self.stage.t, process, process.host.variant))
        except ControllerError as error:
            self.stage.note(process, "reload refused", error.message)
        finally:
            process.is_reloading = False

    # ------------------------------------------------------------------------------------------------ disturbances

    def _strikes(self, happening: Happening) -> bool:
        """Note a disturbance as a strike, unless it is to be left out."""
        place = f"{happening.what}@{happening.at}"
        if f"{place}" in self._without or self.weather.calm:
            return False
        self.weather.strikes.append(Strike(place=place, kind=happening.what, at=self.stage.t))
        self.stage.counts[happening.what] += 1
        return True

    def _host(self, happening: Happening) -> Host:
        return self.stage.hosts[int(happening.chance * len(self.stage.hosts))]

    def _leader_or(self, happening: Happening) -> Process | None:
        """Return mostly the process that leads, for it is the one that matters."""
        leaders = [process for process in self.stage.processes() if process.lease.leads]
        if leaders and (happening.chance * 7) % 1 < 0.7:
            return leaders[0]
        return self._host(happening).process

    def _on_kill(self, happening: Happening) -> None:
        process = self._leader_or(happening)
        if process is not None and self._strikes(happening):
            self.stage.kill(process)

    def _on_stop(self, happening: Happening) -> None:
        process = self._leader_or(happening)
        if process is not None and self._strikes(happening):
            process.stopped_until = self.stage.t + int((1 + happening.chance * 40) * SECOND)
            self.stage.note(process, "stop", "")

    def _on_leave(self, happening: Happening) -> None:
        process = self._leader_or(happening)
        if process is not None and process.stopped_until <= self.stage.t and self._strikes(happening):
            process.once.append(Once(process, lambda: self._leave(process)))

    def _leave(self, process: Process) -> None:
        if process.goodbye():
            self.stage.kill(process)

    def _on_gone(self, happening: Happening) -> None:
        """A machine is away for long, and its jobs go on; or it is gone for good, and they with it."""
        host = self._host(happening)
        if self._strikes(happening):
            if host.process is not None:
                self.stage.kill(host.process, back_after=int((30 + happening.chance * 40) * SECOND))
            if (happening.chance * 7) % 1 < 0.5:
                host.replace()

    def _on_reboot(self, happening: Happening) -> None:
        host = self._host(happening)
        if self._strikes(happening):
            if host.process is not None:
                self.stage.kill(host.process)
            self.world.end_host(host.name)

    def _on_jump(self, happening: Happening) -> None:
        host = self._host(happening)
        if self._strikes(happening):
            jumps = self._story.jumps
            host.skew = int(jumps[int(happening.chance * 1000) % len(jumps)] * SECOND)
            self.stage.note(host.process, "jump", host.skew / SECOND)
            if host.process is not None:
                host.process.look_again()

    def _on_outage(self, happening: Happening) -> None:
        if self._strikes(happening):
            self.stage.down_until = self.stage.t + int((0.5 + happening.chance * 25) * SECOND)
            self.stage.note(None, "outage", "")

    def _on_tamper(self, happening: Happening) -> None:
        """Change an artifact that waits to be promoted."""
        rows = self._rows("SELECT artifact FROM version WHERE state = 'CANDIDATE' ORDER BY id")
        if not rows and self.stage.t < self._story.length:
            self.stage.later(SECOND // 2, self._on_tamper, happening)
        elif rows and self._strikes(happening):
            path = Path(rows[int(happening.chance * len(rows))]["artifact"])
            with contextlib.suppress(OSError):
                path.write_bytes(b"tampered with")

    def _on_foreign(self, happening: Happening) -> None:
        if self.world.serves and self._strikes(happening):
            registry, model = sorted(self.world.serves)[0]
            self.world.take_over(registry, model)

    # ------------------------------------------------------------------------------------------------ the record

    def _rows(self, statement: str) -> list[Any]:
        return list(self._eye.execute(statement).fetchall())

    def _value(self, statement: str) -> Any:
        row = self._eye.execute(statement).fetchone()
        return None if row is None else row[0]

    def _record(self) -> Record:
        tables = {name: self._rows(f'SELECT * FROM "{name}" ORDER BY {order}') for name, order in _TABLES.items()}
        plan = self._story.plans[0]
        cron = plan["sources"]["nightly"]["schedule"] if self._story.has_cron else ""
        return Record(
            tables=tables,
            sendings=self.world.sendings,
            presses=self.world.presses,
            topic=self.world.topic,
            committed=self.world.committed,
            jobs=list(self.world.jobs.values()),
            moves=self.world.moves,
            serves=self.world.serves,
            mail=self.world.mail,
            commits=self.stage.commits,
            breaks=self.stage.breaks,
            attempts_allowed={
                row["id"]: plan["models"][row["model"]]["train"]["retries"]["attempts"] for row in tables["run"]
            },
            cron_minutes=0 if not cron else 2 if cron.startswith("*/2") else 1,
            cron_since=self.stage.cron_since,
            newest=self._newest(),
            has_strangers=any(move.verb == "foreign" for move in self.world.moves),
        )

    def _newest(self) -> frozenset[str]:
        """Return which configuration must be in force at the end: the one that a person loaded last, where it was seen ever since.

        While its replica is away another may put an older one in force, which is then the one that was activated last.
        """
        versions = {process.host.variant: process.runtime.config.version for process in self.stage.processes()}
        reloads = self.stage.reloads
        if not reloads:
            return frozenset()
        at, process, variant = reloads[-1]
        # It takes a lease's time until everybody knows; and where all machines were suspended, nobody was seen.
        stage = self.stage
        was_seen = max(process.stopped_until, stage.down_until, stage.suspended_until, stage.begun_at) < at
        was_seen = was_seen and stage.t - at > 40 * SECOND
        if not was_seen or not process.is_alive or process.host.process is not process or variant not in versions:
            return frozenset()
        return frozenset({versions[variant]})

    def _counts(self, record: Record) -> dict[str, int]:
        terms = {term for *_, fenced, term in record.commits if fenced}
        return {
            "events": sum(sending.acknowledged for sending in record.sendings) + record.committed,
            "launches": len(record.jobs),
            "promotions": sum(move.verb == "promote" for move in record.moves),
            "leaders": max(len(terms) - 1, 0),
            "commits": len(record.commits),
            **{kind: self.stage.counts[kind] for kind in sorted(self.stage.counts)},
        }


class _Group:
    """The consumers of the topic: one of the replicas reads it, and another when that one is gone or does not answer."""

    def __init__(self, play: _Play) -> None:
        self._play = play
        self._reader: Process | None = None
        self._position = 0
        self._since = 0

    @property
    def is_behind(self) -> bool:
        """Whether there are records that nobody has acknowledged."""
        return self._play.world.committed < len(self._play.world.topic)

    def look(self) -> None:
        """Read on, or let another read; called every second."""
        stage = self._play.stage
        stage.later(SECOND, self.look)
        reader = self._reader
        if reader is None or not reader.is_alive or stage.t - self._since > 12 * SECOND:
            self._assign()
            return
        if reader.stopped_until > stage.t or not self.is_behind:
            self._since = stage.t if not self.is_behind else self._since
            return
        self._read(reader)

    def _assign(self) -> None:
        """Let another process read, from where the ledger says."""
        stage = self._play.stage
        able = [process for process in stage.processes() if process.stopped_until <= stage.t]
        self._reader = able[int(self._play._chance.random() * len(able))] if able else None
        self._since = stage.t
        value = self._play._value("SELECT value FROM ledger WHERE source = 'bus' AND key = 'topic/0'")
        self._position = 0 if value is None else int(json.loads(value))
        # Whoever goes on from there tells the group so: what the ledger holds is durable.
        self._play.world.committed = max(self._play.world.committed, self._position)

    def _read(self, reader: Process) -> None:
        world, begin = self._play.world, self._position
        records = world.topic[begin : begin + _FETCH]
        if not records:
            return
        end = begin + len(records)
        self._position = end

        def answered(future: Future[list[Receipt]]) -> None:
            if not reader.is_alive:
                return
            if future.exception() is None:
                world.committed = max(world.committed, end)
                self._since = self._play.stage.t
            elif self._reader is reader:
                self._position = min(self._position, begin)

        batch = Batch(events=records, ledger=[LedgerEntry(key="topic/0", value=end)])
        try:
            reader.crew.inbox.put("bus", batch).add_done_callback(answered)
        except (StoreBusy, Conflict):
            self._position = begin


class _Silence:
    """The log of sources: what they say is of no interest here."""

    def debug(self, event: str, **fields: Any) -> None:
        """Say nothing."""

    info = warning = error = debug


_SILENCE = _Silence()
_UNFINISHED = (
    ("event", "state = 'PENDING'"),
    ("run", "finished_at IS NULL"),
    ("job", "finished_at IS NULL"),
    ("promotion", "finished_at IS NULL"),
    ("notification", "state = 'PENDING'"),
)
#: The tables that the oracle looks at, and in which order.
_TABLES = {
    "event": "id",
    "decision": "seq, id",
    "run": "id",
    "job": "id",
    "attempt": "id",
    "version": "id",
    "verdict": "run_id",
    "promotion": "id",
    "step": "id",
    "notification": "id",
    "watch": "id",
    "model": "name",
    "history": "seq",
    "act": "id",
    "leader": "id",
    "ledger": "source, key",
}
