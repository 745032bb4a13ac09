"""What the loops share: the store, the configuration in force, the plugins, and the bells by which they wake each other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from controller.clock import Clock, Ids, Random
from controller.config import Config, models_from_normal_form, plugin_options
from controller.core.index import PolicyIndex
from controller.core.model import Attempt, Champion, Run, Version
from controller.core.policy import ModelSpec, Training
from controller.engine.complaints import Complaints
from controller.engine.watched import Watched
from controller.errors import GiveUp, NotFound
from controller.plugins import guarded, load, names
from controller.ports import (
    Launcher,
    LauncherContext,
    Log,
    Notifier,
    NotifierContext,
    Promoter,
    PromoterContext,
    Target,
)
from controller.store import Store, Transaction
from controller.store.dialect import dump_json
from controller.telemetry import Metrics

#: How many sets of launchers' options are remembered, how many promoters, and how many configurations beside the one in force:
#: whatever was forgotten is made again.
REMEMBERED_OPTIONS = 1000
REMEMBERED_PROMOTERS = 200
REMEMBERED_CONFIGURATIONS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticked:
    """What a tick came to."""

    #: How many rows it dealt with.
    worked: int = 0
    #: It stopped at a limit: look again at once.
    again: bool = False
    #: When there is something to do next, as far as is known; None: only when woken.
    next_at: datetime | None = None


class Loop(Protocol):
    """One step of the flow."""

    #: Its name in logs, metrics and health.
    name: str

    def tick(self, now: datetime) -> Ticked:
        """Do what is to do at `now`. Safe to call at any time, and after a crash at any point."""
        ...


@dataclass(slots=True)
class Bells:
    """Wake-ups between loops: hints that save the wait for the sweep, never messages."""

    _ringers: dict[str, Callable[[], None]] = field(default_factory=dict)
    #: Wakes loops of the other daemons on this database; None where there are none.
    relay: Callable[[tuple[str, ...]], None] | None = None

    def hang(self, loop: str, ring: Callable[[], None]) -> None:
        """Say how a loop is woken."""
        self._ringers[loop] = ring

    def take_down(self, loop: str, ring: Callable[[], None]) -> None:
        """Let a loop that ends hear nothing any more, unless another has its place already."""
        if self._ringers.get(loop) == ring:
            del self._ringers[loop]

    def names(self) -> tuple[str, ...]:
        """Return the loops that are woken here."""
        return tuple(self._ringers)

    def ring(self, *loops: str) -> None:
        """Wake loops, here or, if they do not run here, on another daemon; one that nobody wakes sweeps on its own."""
        self.ring_here(*loops)
        if self.relay is not None and (elsewhere := tuple(loop for loop in loops if loop not in self._ringers)):
            self.relay(elsewhere)

    def ring_here(self, *loops: str) -> None:
        """Wake loops of this daemon only."""
        for loop in loops:
            ringer = self._ringers.get(loop)
            if ringer is not None:
                ringer()

    def ring_everywhere(self, *loops: str) -> None:
        """Wake loops of every daemon: what they wait for may concern any of them."""
        self.ring_here(*loops)
        if self.relay is not None and loops:
            self.relay(loops)


class Leading(Protocol):
    """What the loops may ask of the lease (`lease.py`)."""

    @property
    def leads(self) -> bool:
        """Whether this process decides, dispatches, judges and promotes."""
        ...

    @property
    def is_contested(self) -> bool:
        """Whether another replica may ever lead instead."""
        ...

    @property
    def has_company(self) -> bool:
        """Whether another replica was alive when this one looked last."""
        ...

    @property
    def configured_at(self) -> datetime | None:
        """Since when the configuration that this process began to lead with counts; None: from then on."""
        ...

    def check(self) -> None:
        """Raise `StoreBusy` unless an outward call may be made now: asked right before each."""
        ...

    def lose(self, reason: str) -> None:
        """Cease to lead: a write of ours was refused because another leads."""
        ...


class Alone:
    """A lease that nobody contests: for what runs without replicas, such as a replay."""

    leads = True
    is_contested = False
    has_company = False
    configured_at = None

    def check(self) -> None:
        """Let every call be made."""

    def lose(self, reason: str) -> None:
        """Leave it to whoever runs the loops: the write that was refused says it all."""


class Runtime:
    """The installation as it runs now. A reload swaps the configuration in one assignment."""

    def __init__(
        self,
        *,
        config: Config,
        store: Store,
        clock: Clock,
        random: Random,
        ids: Ids,
        log: Log,
        metrics: Metrics,
        owner: str,
    ) -> None:
        self.store = store
        self.clock = clock
        self.random = random
        self.ids = ids
        self.log = log
        self.metrics = metrics
        #: Id of the state directory; local jobs of another owner are not ours to watch.
        self.owner = owner
        self.bells = Bells()
        self.complaints = Complaints(clock)
        self.watched = Watched()
        #: Whether this process leads; a daemon puts its own here.
        self.lease: Leading = Alone()
        #: Attempts whose launcher is being called right now: it is too early to say that such a one is not there.
        self.launching: set[str] = set()
        self._launchers: dict[str, Launcher] = {}
        self._promoters: dict[str, Promoter] = {}
        self._notifiers: dict[str, Notifier] = {}
        #: The models of configurations by version, the latest remembered last; read by many threads, changed under the lock.
        self._old: dict[str, Mapping[str, ModelSpec]] = {}
        self._remembering = threading.Lock()
        #: Validated options by launcher and text: most models launch with the same ones again and again.
        self._launcher_options: dict[str, Any] = {}
        self.config: Config = config
        self.use(config)

    def use(self, config: Config) -> None:
        """Make a configuration the one in force."""
        for name in [name for name in self._launchers if self.config.launchers.get(name) != config.launchers.get(name)]:
            del self._launchers[name]  # made anew with its new settings; its jobs do not care
        for name in [name for name in self._notifiers if self.config.notifiers.get(name) != config.notifiers.get(name)]:
            del self._notifiers[name]
        policies = [policy for model in config.models.values() for policy in model.policies.values()]
        self.index = PolicyIndex(policies)
        self._remember(config.version, config.models)
        self.config = config

    @property
    def state_dir(self) -> Path:
        """The folder of everything that is not in the database: runs, socket, owner id."""
        return self.config.state_dir

    @property
    def spare_folders(self) -> Path:
        """Where folders wait that were made ahead: beside those of the attempts, and ours alone."""
        config = self.config
        is_ours = config.state_dir in config.runs_dir.parents
        return config.state_dir / "spare" if is_ours else config.runs_dir / f".spare-{self.owner}"

    def folder_of(self, attempt: Attempt) -> Path:
        """Return the folder of an attempt's files; that of a local job of another replica is on another disk."""
        return self.config.runs_dir / Path(attempt.folder).name

    def model(self, name: str) -> ModelSpec:
        """Return a configured model; raises `NotFound`."""
        spec = self.config.models.get(name)
        if spec is None:
            known = ", ".join(sorted(self.config.models)) or "none"
            raise NotFound(f"no model {name!r} is configured", hint=f"configured: {known}")
        return spec

    def spec_of(self, tx: Transaction, run: Run) -> ModelSpec:
        """Return the model as it was configured when the run was decided; a run keeps that."""
        models = self._old.get(run.config_version)
        if models is None:
            body = tx.people.configuration(run.config_version)
            if body is None:
                raise GiveUp(f"configuration {run.config_version!r} of run {run.id} is not in the store")
            models = models_from_normal_form(body)
            self._remember(run.config_version, models)
        return models[run.model]

    def _remember(self, version: str, models: Mapping[str, ModelSpec]) -> None:
        """Keep a configuration at hand, and let go of the one that was asked for the longest time ago."""
        with self._remembering:
            self._old.pop(version, None)
            self._old[version] = models
            while len(self._old) > REMEMBERED_CONFIGURATIONS:
                del self._old[next(iter(self._old))]

    def launcher(self, name: str) -> Launcher:
        """Return a launcher by name, made on first use; raises `PluginError`."""
        if name not in self._launchers:
            cls = load("launchers", name)
            settings = self.config.launchers.get(name) or cls.Settings()
            context = LauncherContext(base=self.config.base, state=self.state_dir, clock=self.clock, log=self.log)
            self._launchers[name] = guarded(cls(settings, context), f"launcher.{name}")
        return self._launchers[name]

    def is_elsewhere(self, launcher: Launcher, attempt: Attempt) -> bool:
        """Say whether a job lives on another machine, or in another state directory, than this daemon can see."""
        return launcher.local and attempt.owner != self.owner

    def launcher_options(self, training: Training, options: Mapping[str, Any]) -> Any:
        """Return the launcher's own options of a model, templates filled in; raises `PluginError` when it refuses them."""
        key = f"{training.launcher} {dump_json(options)}"
        if key not in self._launcher_options:
            if len(self._launcher_options) >= REMEMBERED_OPTIONS:
                self._launcher_options.clear()
            self._launcher_options[key] = plugin_options("launchers", training.launcher, options, base=self.config.base)
        return self._launcher_options[key]

    def promoter(self, spec: ModelSpec, position: int) -> Promoter:
        """Return a model's promoter by its place (from 1)."""
        wanted = spec.promoters[position - 1]
        key = f"{wanted.type}:{sorted(wanted.options.items(), key=str)!r}"
        if key not in self._promoters:
            if len(self._promoters) >= REMEMBERED_PROMOTERS:
                self._promoters.clear()
            cls = load("promoters", wanted.type)
            options = plugin_options("promoters", wanted.type, wanted.options, base=self.config.base)
            context = PromoterContext(base=self.config.base, state=self.state_dir, log=self.log)
            self._promoters[key] = guarded(cls(options, context), f"promoter.{wanted.type}")
        return self._promoters[key]

    def notifier(self, name: str) -> Notifier:
        """Return the notifier of a channel, made on first use; raises `GiveUp` for one that is not configured, and `PluginError`."""
        notifier = self._notifiers.get(name)
        if notifier is None:
            spec = self.config.notifiers.get(name)
            if spec is None and name not in names("notifiers"):
                raise GiveUp(f"the channel {name!r} is not configured any more", hint="see `notifiers:`")
            kind = name if spec is None else spec.type
            cls = load("notifiers", kind)
            options = plugin_options("notifiers", kind, {}, base=self.config.base) if spec is None else spec.options
            context = NotifierContext(name=name, base=self.config.base, clock=self.clock, log=self.log)
            notifier = self._notifiers[name] = guarded(cls(options, context), f"notifier.{kind}")
        return notifier


def target_of(version: Version) -> Target:
    """Return a version as a promoter sees it."""
    return Target(
        version_id=version.id,
        number=version.number,
        artifact=version.artifact,
        artifact_digest=version.artifact_digest,
        metrics=version.metrics,
        run_id=version.run_id,
    )


def champion_of(version: Version) -> Champion:
    """Return a version as the champion that a run was pinned to."""
    return Champion(
        version_id=version.id,
        number=version.number,
        artifact=version.artifact,
        artifact_digest=version.artifact_digest,
        metrics=version.metrics,
        promoted_at=version.promoted_at or version.created_at,
        decided_at=None,
    )


def champion_for_job(champion: Champion | None) -> str:
    """Return the value of RETRAIN_CHAMPION: JSON, or empty without one."""
    if champion is None:
        return ""
    return dump_json(
        {
            "version": champion.number,
            "id": champion.version_id,
            "artifact": champion.artifact,
            "metrics": dict(champion.metrics),
        }
    )


def notify_people(
    tx: Transaction,
    spec: ModelSpec,
    kind: str,
    title: str,
    *,
    run_id: str | None = None,
    **body: Any,
) -> None:
    """Put a message to people of this model into the outbox."""
    tx.outbox.add(spec.notify, kind=kind, title=title, model=spec.name, run_id=run_id, body=body)
