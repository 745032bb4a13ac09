"""Everything outside of the replicas, with a record of its own: launchers, registries, mailboxes, and what each was asked.

The plugins here obey `controller/ports.py`, and are found through entry points like a stranger's. What they are told to do they do to a
`World`, which outlives every process. When the weather says so, a request is lost, an answer is lost, or a job begins after its caller was
told that nobody knows; the world's own lists say what truly happened, and the oracle believes only these.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from controller import plugins
from controller.core.model import NewEvent, Notification
from controller.errors import GiveUp, RetryLater
from controller.ports import (
    Handle,
    LauncherContext,
    LogChunk,
    NotifierContext,
    Observation,
    Order,
    PluginOptions,
    PromoterContext,
    PromotionOrder,
)
from tests.simulation.weather import Weather, chance_of

if TYPE_CHECKING:
    from tests.simulation.process import Process

_ENTRY_POINTS = """\
[controller.launchers]
sim = tests.simulation.world:Launcher
sim-local = tests.simulation.world:LocalLauncher
sim-blind = tests.simulation.world:BlindLauncher

[controller.promoters]
sim = tests.simulation.world:Promoter

[controller.notifiers]
sim = tests.simulation.world:Notifier
"""
SECOND = 1_000_000

Ending = Literal["succeeded", "failed", "invalid", "vanished", "never"]


@dataclass(slots=True)
class FarJob:
    """One attempt as the far side knows it."""

    #: Unique at the far side; a launcher that cannot be searched gives another for each call.
    name: str
    order: Order
    #: The host whose machine it runs on; None: elsewhere.
    host: str | None
    ends: Ending
    auc: float
    obeys_term: bool
    #: Microseconds.
    began_at: int
    ended_at: int | None = None
    state: Literal["running", "succeeded", "failed", "lost"] = "running"
    reason: str = ""
    #: SHA-256 of the artifact it wrote.
    artifact: str | None = None
    watchers: list[tuple[Process, Callable[[], None]]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """A registry was told to let a version serve."""

    at: int
    registry: str
    model: str
    verb: Literal["promote", "rollback", "foreign"]
    version_id: str | None
    promotion_id: str
    #: SHA-256 of the artifact as the registry read it.
    digest: str | None


@dataclass(slots=True)
class Sending:
    """One event that a producer wants to be known, until it is acknowledged."""

    origin: str
    event: NewEvent
    acknowledged: bool = False
    #: The ids that acknowledgements named.
    event_ids: set[str] = field(default_factory=set)
    tries: int = 0

    @property
    def identity(self) -> tuple[str, str, str]:
        """What makes a redelivery one."""
        return self.origin, self.event.source, self.event.source_id


@dataclass(slots=True)
class Press:
    """What a person asked for, and what was answered."""

    verb: str
    key: str | None
    who: str
    answers: list[dict[str, Any]] = field(default_factory=list)


class World:
    """The far side of one simulation."""

    def __init__(self, seed: int, weather: Weather, *, now: Callable[[], int], later: Callable[..., None]) -> None:
        """`now` tells the time in microseconds, `later(microseconds, call)` makes something happen then."""
        self._seed = seed
        self.weather = weather
        self.now = now
        self.later = later
        #: Jobs by their name at the far side, in the order of their starts.
        self.jobs: dict[str, FarJob] = {}
        #: The process that calls at the moment.
        self.caller: Process | None = None
        self.serves: dict[tuple[str, str], str | None] = {}
        self.moves: list[Move] = []
        #: Messages as they arrived, repetitions among them.
        self.mail: list[Notification] = []
        self.sendings: list[Sending] = []
        self.presses: list[Press] = []
        #: Records of the topic, in the order of their offsets; and how far the group has committed.
        self.topic: list[NewEvent] = []
        self.committed = 0
        #: Attempts whose launch may still arrive.
        self.underway: dict[str, int] = defaultdict(int)
        #: Until then the launcher's far side answers nobody.
        self.silent_until = 0

    def is_silent(self) -> bool:
        """Say whether the launcher's far side answers nobody now."""
        return not self.weather.calm and self.now() < self.silent_until

    def strikes(self, place: str, *kinds: str) -> str | None:
        """Return what goes wrong at a place of the far side."""
        return self.weather.strike(place, kinds, self.now())

    # ------------------------------------------------------------------------------------------------ jobs

    def start(self, order: Order, *, host: str | None, name: str | None = None) -> FarJob:
        """Start an attempt; by a name that is known nothing starts."""
        known = self.jobs.get(order.attempt_id) if name is None else None
        if known is not None:
            return known
        name = name or order.attempt_id
        chance = chance_of(self._seed, "job", len(self.jobs))
        ends: Ending = chance.choices(
            ("succeeded", "failed", "invalid", "vanished", "never"), (66, 14, 4, 6, 6 if not self.weather.calm else 0)
        )[0]
        job = FarJob(
            name=name,
            order=order,
            host=host,
            ends=ends,
            auc=0.5 + chance.random() * 0.4,
            obeys_term=chance.random() < 0.8,
            began_at=self.now(),
        )
        self.jobs[name] = job
        if ends != "never":
            longest = 25 if chance.random() < 0.85 else 70
            self.later(int((0.5 + chance.random() ** 2 * longest) * SECOND), self._finish, job)
        return job

    def _finish(self, job: FarJob) -> None:
        if job.state != "running":
            return
        if job.ends == "succeeded":
            self._write_result(job)
            self.over(job, "succeeded", "exit code 0")
        elif job.ends == "invalid":
            (job.order.folder / "result.json").write_text('{"metrics": ')
            self.over(job, "succeeded", "exit code 0")
        elif job.ends == "vanished":
            self.over(job, "lost", "no such process")
        else:
            self.over(job, "failed", "exit code 3")

    def _write_result(self, job: FarJob) -> None:
        body = f"{job.name} {job.order.candidate}".encode()
        job.artifact = f"sha256:{hashlib.sha256(body).hexdigest()}"
        (job.order.folder / "artifact" / "model.bin").write_bytes(body)
        result = {
            "metrics": {"auc": round(job.auc, 3)},
            "champion_metrics": {"auc": round(job.auc - 0.2 + (len(self.jobs) % 3) * 0.1, 3)},
            "artifact": "model.bin",
        }
        partial = job.order.folder / "result.partial"
        partial.write_text(json.dumps(result))
        partial.replace(job.order.folder / "result.json")

    def over(self, job: FarJob, state: Literal["succeeded", "failed", "lost"], reason: str) -> None:
        """End a job, and hint to those who watch."""
        if job.state != "running":
            return
        job.state, job.reason, job.ended_at = state, reason, self.now()
        for process, changed in job.watchers:
            if process.is_alive and not self.strikes("far.hint", "hint lost"):
                changed()
        job.watchers.clear()

    def end_host(self, host: str) -> None:
        """A machine went down: its jobs are gone."""
        for job in self.jobs.values():
            if job.host == host:
                self.over(job, "lost", "host was rebooted")

    # ------------------------------------------------------------------------------------------------ registries

    def move(
        self, registry: str, order: PromotionOrder, verb: Literal["promote", "rollback"], version_id: str | None
    ) -> None:
        """Let a version serve."""
        digest = None
        if verb == "promote":
            with contextlib.suppress(OSError):
                digest = f"sha256:{hashlib.sha256(Path(order.target.artifact).read_bytes()).hexdigest()}"
        self.serves[registry, order.model] = version_id
        self._note(registry, order.model, verb, version_id, order.promotion_id, digest)

    def take_over(self, registry: str, model: str) -> None:
        """A stranger lets something else serve."""
        self.serves[registry, model] = f"foreign-{len(self.moves)}"
        self._note(registry, model, "foreign", self.serves[registry, model], "", None)

    def _note(self, registry: str, model: str, verb: Any, version_id: Any, promotion_id: str, digest: Any) -> None:
        move = Move(
            at=self.now(),
            registry=registry,
            model=model,
            verb=verb,
            version_id=version_id,
            promotion_id=promotion_id,
            digest=digest,
        )
        self.moves.append(move)


#: The world that the plugins act on; one at a time.
_present: list[World] = []


@contextlib.contextmanager
def present(world: World) -> Iterator[World]:
    """Let the plugins act on a world."""
    _present.append(world)
    try:
        yield world
    finally:
        _present.pop()


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Let the plugins of this module be found, as an installed distribution in `folder`."""
    metadata = folder / "simulated_plugins-1.0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: simulated-plugins\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(_ENTRY_POINTS)
    sys.path.append(str(folder))
    plugins._found.cache_clear()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        plugins._found.cache_clear()


class Launcher:
    """Starts jobs elsewhere, by name: a name that is known is not started again."""

    class Settings(PluginOptions):
        """Settings."""

        slots: int | None = None

    class Options(PluginOptions):
        """Options."""

    searchable: ClassVar[bool] = True
    local: ClassVar[bool] = False

    def __init__(self, settings: Settings, context: LauncherContext) -> None:
        self._settings = settings
        self._world = _present[-1]

    def slots(self) -> int | None:
        """Return how many jobs may be here at once."""
        return self._settings.slots

    def launch(self, order: Order) -> Handle:
        """Start an attempt, or lose the request or the answer."""
        world = self._world
        if world.is_silent():
            raise TimeoutError("no answer from the launcher")
        struck = world.strikes("far.launch", *self._troubles())
        if struck == "launch refused":
            raise RetryLater("the launcher is full")
        if struck == "launch impossible":
            raise GiveUp("the launcher refuses this for good")
        if struck in ("launch request lost", "launch answer lost", "launch late") and world.weather.pick(2):
            world.silent_until = world.now() + world.weather.span(1, 20)  # the way there is broken, not only this call
        if struck == "launch request lost":
            raise TimeoutError("no answer from the launcher")
        if struck == "launch late":
            world.underway[order.attempt_id] += 1
            world.later(world.weather.span(0.2, 20), self._arrive, order)
            raise TimeoutError("no answer from the launcher")
        job = self._start(order)
        if struck == "launch answer lost":
            raise TimeoutError("the launcher's answer was lost")
        return {"name": job.name}

    def _troubles(self) -> tuple[str, ...]:
        return ("launch refused", "launch impossible", "launch request lost", "launch answer lost", "launch late")

    def _start(self, order: Order) -> FarJob:
        return self._world.start(order, host=None)

    def _arrive(self, order: Order) -> None:
        self._world.underway[order.attempt_id] -= 1
        self._start(order)

    def find(self, order: Order) -> Handle | None:
        """Look an attempt up."""
        if self._world.strikes("far.find", "find fails") or self._world.is_silent():
            raise RetryLater("the launcher does not answer")
        job = self._world.jobs.get(order.attempt_id)
        return None if job is None else {"name": job.name}

    def observe(self, handle: Handle) -> Observation:
        """Say how a job is."""
        if self._world.strikes("far.observe", "look fails") or self._world.is_silent():
            raise RetryLater("the launcher does not answer")
        job = self._job(handle)
        return Observation(state=job.state, reason=job.reason)

    def stop(self, handle: Handle, *, force: bool) -> None:
        """End a job, at once or soon."""
        if self._world.strikes("far.stop", "stop lost"):
            raise RetryLater("the launcher does not answer")
        job = self._job(handle)
        if force:
            self._world.over(job, "failed", "killed by signal 9 (SIGKILL)")
        elif job.obeys_term:
            self._world.later(SECOND, self._world.over, job, "failed", "killed by signal 15 (SIGTERM)")

    def watch(self, handle: Handle, changed: Callable[[], None]) -> None:
        """Remember who wants a hint."""
        job = self._job(handle)
        if self._world.caller is not None:
            job.watchers.append((self._world.caller, changed))

    def log(self, handle: Handle, offset: int, limit: int) -> LogChunk:
        """Return nothing."""
        return LogChunk(data=b"", next_offset=offset)

    def forget(self, handle: Handle) -> None:
        """Drop those who want a hint."""
        self._job(handle).watchers.clear()

    def _job(self, handle: Handle) -> FarJob:
        return self._world.jobs[handle["name"]]


class LocalLauncher(Launcher):
    """Starts jobs on the machine of its caller: nothing is late there, and what ends with the machine ends."""

    local: ClassVar[bool] = True

    def _start(self, order: Order) -> FarJob:
        caller = self._world.caller
        return self._world.start(order, host=None if caller is None else caller.host.name)

    def _troubles(self) -> tuple[str, ...]:
        return ("launch refused", "launch impossible", "launch request lost", "launch answer lost")


class BlindLauncher(Launcher):
    """Cannot be searched, and knows no names: every call starts another job."""

    searchable: ClassVar[bool] = False

    def _start(self, order: Order) -> FarJob:
        return self._world.start(order, host=None, name=f"{order.attempt_id}/{len(self._world.jobs)}")

    def find(self, order: Order) -> Handle | None:
        """Fail: nobody searches what cannot be searched."""
        raise AssertionError("a launcher that cannot be searched was searched")


class Promoter:
    """Promotes to a registry."""

    class Options(PluginOptions):
        """Options."""

        name: str

    def __init__(self, options: Options, context: PromoterContext) -> None:
        self._name = options.name
        self._world = _present[-1]

    def promote(self, order: PromotionOrder) -> None:
        """Let the target serve."""
        self._answer(order, "promote", order.target.version_id)

    def current(self, model: str) -> str | None:
        """Say what serves."""
        if self._world.strikes("far.current", "registry down"):
            raise RetryLater("the registry does not answer")
        return self._world.serves.get((self._name, model))

    def rollback(self, order: PromotionOrder) -> None:
        """Let what served before serve again."""
        self._answer(order, "rollback", None if order.previous is None else order.previous.version_id)

    def _answer(self, order: PromotionOrder, verb: Literal["promote", "rollback"], version_id: str | None) -> None:
        world = self._world
        struck = world.strikes(
            f"far.{verb}", "registry down", "registry gives up", "registry answer lost", "foreign promotion"
        )
        if struck == "registry down":
            raise RetryLater("the registry does not answer")
        if struck == "registry gives up":
            raise GiveUp("the registry refuses this for good")
        world.move(self._name, order, verb, version_id)
        if struck == "registry answer lost":
            raise TimeoutError("the registry's answer was lost")
        if struck == "foreign promotion":
            world.take_over(self._name, order.model)


class Notifier:
    """Delivers to a mailbox."""

    class Options(PluginOptions):
        """Options."""

    def __init__(self, options: Options, context: NotifierContext) -> None:
        self._world = _present[-1]

    def send(self, notification: Notification) -> None:
        """Deliver a message."""
        struck = self._world.strikes("far.send", "mail refused", "mail impossible", "mail answer lost")
        if struck == "mail refused":
            raise RetryLater("the mailbox is busy", after_seconds=7)
        if struck == "mail impossible":
            raise GiveUp("there is no such mailbox")
        self._world.mail.append(notification)
        if struck == "mail answer lost":
            raise TimeoutError("the mailbox' answer was lost")
