"""The far side of the engine's tests: a launcher, a promoter and a notifier that do what a test tells them.

They obey `controller/ports.py`, and are found through entry points like any plugin (`conftest.py` registers them).
What they know lives in a `World`, one per installation, which outlives the daemon: its list of starts is an independent record.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

from controller.core.model import Notification
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

WORLDS: dict[Path, World] = {}


@dataclass
class FarJob:
    """One attempt as the far side knows it."""

    order: Order
    state: Literal["running", "succeeded", "failed", "lost", "unreachable"] = "running"
    reason: str = ""
    exit_code: int | None = None
    #: "term" and "kill", in order.
    stops: list[str] = field(default_factory=list)
    watchers: list[Callable[[], None]] = field(default_factory=list)
    #: Whether TERM ends it; KILL always does.
    obeys_term: bool = True
    #: Raised by the next looks.
    broken: Exception | None = None
    #: So many requests to end are lost.
    lost_stops: int = 0


@dataclass
class FarRegistry:
    """Where one promoter promotes to."""

    serves: dict[str, str | None] = field(default_factory=dict)
    #: Raised by the next calls, in order; None lets one pass.
    script: list[Exception | None] = field(default_factory=list)
    #: (action, version id), in order.
    calls: list[tuple[str, str | None]] = field(default_factory=list)


@dataclass
class World:
    """Everything outside of one installation."""

    jobs: dict[str, FarJob] = field(default_factory=dict)
    #: Attempt ids in the order of their starts, once for every start.
    starts: list[str] = field(default_factory=list)
    #: For the next launches, in order: an exception before the start, one after it, or None.
    before_start: list[Exception | None] = field(default_factory=list)
    after_start: list[Exception | None] = field(default_factory=list)
    finds: list[Exception | None] = field(default_factory=list)
    registries: dict[str, FarRegistry] = field(default_factory=lambda: defaultdict(FarRegistry))
    #: Raised by the next sends, in order.
    mail_script: list[Exception | None] = field(default_factory=list)
    mail: list[Notification] = field(default_factory=list)
    obeys_term: bool = True
    #: Called when a launcher is asked for its slots.
    room_asked: Callable[[], None] = lambda: None

    def job(self, candidate: str, attempt: int = 0) -> FarJob:
        """Return the newest job of a candidate, or the one of an attempt."""
        found = [
            job for job in self.jobs.values() if job.order.candidate == candidate and attempt in (0, job.order.attempt)
        ]
        assert found, f"no job of {candidate!r} was started; started: {self.starts}"
        return found[-1]

    def succeed(self, candidate: str, *, artifact: str | None = "model.bin", **result: Any) -> FarJob:
        """End the newest job of a candidate well, with a result; `auc=0.7` is short for its only metric."""
        job = self.job(candidate)
        if "auc" in result:
            result["metrics"] = {"auc": result.pop("auc")}
        if "champion_auc" in result:
            result["champion_metrics"] = {"auc": result.pop("champion_auc")}
        if artifact is not None:
            (job.order.folder / "artifact" / artifact).write_text(f"{job.order.attempt_id} {candidate}")
            result["artifact"] = artifact
        return self.end(candidate, json.dumps(result).encode())

    def end(self, candidate: str, document: bytes | None = None) -> FarJob:
        """End the newest job of a candidate with exit 0 and any document as its result."""
        job = self.job(candidate)
        if document is not None:
            (job.order.folder / "result.json").write_bytes(document)
        return self._over(job, "succeeded", "exit code 0", 0)

    def fail(self, candidate: str, code: int = 3) -> FarJob:
        """End the newest job of a candidate with an exit code."""
        return self._over(self.job(candidate), "failed", f"exit code {code}", code)

    def lose(self, candidate: str) -> FarJob:
        """Let the launcher know nothing of the newest job of a candidate."""
        return self._over(self.job(candidate), "lost", "no such process", None)

    @staticmethod
    def _over(job: FarJob, state: Any, reason: str, code: int | None) -> FarJob:
        job.state, job.reason, job.exit_code = state, reason, code
        for changed in job.watchers:
            changed()
        return job


def _next(script: list[Exception | None]) -> None:
    error = script.pop(0) if script else None
    if error is not None:
        raise error


class ScriptedLauncher:
    """Starts jobs in a `World`."""

    class Settings(PluginOptions):
        """Settings."""

        slots: int | None = None

    class Options(PluginOptions):
        """Options."""

        command: tuple[str, ...] = ()

    searchable: ClassVar[bool] = True
    local: ClassVar[bool] = False
    #: It knows its jobs by name, and starts each once.
    settle: ClassVar[timedelta] = timedelta(0)

    def __init__(self, settings: Settings, context: LauncherContext) -> None:
        self._settings = settings
        self._world = WORLDS[context.base]

    def slots(self) -> int | None:
        self._world.room_asked()
        return self._settings.slots

    def launch(self, order: Order) -> Handle:
        if order.attempt_id not in self._world.jobs:
            _next(self._world.before_start)
            self._world.starts.append(order.attempt_id)
            self._world.jobs[order.attempt_id] = FarJob(order, obeys_term=self._world.obeys_term)
            _next(self._world.after_start)
        return {"attempt": order.attempt_id}

    def find(self, order: Order) -> Handle | None:
        _next(self._world.finds)
        return {"attempt": order.attempt_id} if order.attempt_id in self._world.jobs else None

    def observe(self, handle: Handle) -> Observation:
        job = self._job(handle)
        if job.broken is not None:
            raise job.broken
        return Observation(state=job.state, reason=job.reason, exit_code=job.exit_code)

    def stop(self, handle: Handle, *, force: bool) -> None:
        job = self._job(handle)
        if job.lost_stops:
            job.lost_stops -= 1
            raise ConnectionResetError("cut off")
        job.stops.append("kill" if force else "term")
        if job.state == "running" and (force or job.obeys_term):
            World._over(job, "failed", "killed by signal", 137 if force else 143)

    def watch(self, handle: Handle, changed: Callable[[], None]) -> None:
        self._job(handle).watchers.append(changed)

    def log(self, handle: Handle, offset: int, limit: int) -> LogChunk:
        text = f"log of {handle['attempt']}".encode()[offset : offset + limit]
        return LogChunk(data=text, next_offset=offset + len(text))

    def forget(self, handle: Handle) -> None:
        self._job(handle).watchers.clear()

    def _job(self, handle: Mapping[str, Any]) -> FarJob:
        return self._world.jobs[handle["attempt"]]


class BlindLauncher(ScriptedLauncher):
    """One that cannot be searched."""

    searchable: ClassVar[bool] = False

    def find(self, order: Order) -> Handle | None:
        raise AssertionError("nobody searches a launcher that cannot be searched")


class NamelessLauncher(ScriptedLauncher):
    """One that can be searched, but starts a job each time it is asked: its target refuses no name."""

    settle: ClassVar[timedelta] = timedelta(seconds=30)

    def launch(self, order: Order) -> Handle:
        self._world.jobs.pop(order.attempt_id, None)
        return super().launch(order)


class LocalLauncher(ScriptedLauncher):
    """One whose jobs live on this machine."""

    local: ClassVar[bool] = True


class ScriptedPromoter:
    """Promotes in a `World`."""

    class Options(PluginOptions):
        """Options."""

        name: str

    def __init__(self, options: Options, context: PromoterContext) -> None:
        self._registry = WORLDS[context.base].registries[options.name]

    def promote(self, order: PromotionOrder) -> None:
        self._registry.calls.append(("promote", order.target.version_id))
        _next(self._registry.script)
        self._registry.serves[order.model] = order.target.version_id

    def current(self, model: str) -> str | None:
        return self._registry.serves.get(model)

    def rollback(self, order: PromotionOrder) -> None:
        previous = None if order.previous is None else order.previous.version_id
        self._registry.calls.append(("rollback", previous))
        _next(self._registry.script)
        self._registry.serves[order.model] = previous


class ScriptedNotifier:
    """Delivers to a `World`."""

    class Options(PluginOptions):
        """Options."""

    def __init__(self, options: Options, context: NotifierContext) -> None:
        self._world = WORLDS[context.base]

    def send(self, notification: Notification) -> None:
        _next(self._world.mail_script)
        self._world.mail.append(notification)
