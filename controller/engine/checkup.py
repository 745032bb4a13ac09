"""What people ask of sources and do to them: list, examine, send a test through, move to another position.

The doctor (`doctor.py`) counts and judges by itself; this answers when somebody asks, from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime

from controller.core.examine import Known, examine, summarize
from controller.core.model import TEST_EVENT, Json, NewEvent
from controller.core.on import leaves
from controller.core.source_shapes import EndpointShape, SeekShape, SourceShape, SourceSummary, StepReport, TestShape
from controller.engine.acts import Acts
from controller.engine.doctor import Doctor
from controller.engine.inbox import Inbox
from controller.engine.runtime import Runtime
from controller.engine.sources import Sources
from controller.engine.whereabouts import ask_the_leader, where_it_leads
from controller.errors import Conflict, ControllerError, InvalidInput, NotFound
from controller.ports import Batch
from controller.store import Transaction

#: The origin of events that come by the API; it is examined like a source.
API_ORIGIN = "api"
#: A test event is waited for so many times, this long.
_LOOKS, _LOOK_SECONDS = 500, 0.02


class Checkup:
    """The sources, as people see and steer them."""

    def __init__(self, runtime: Runtime, inbox: Inbox, sources: Sources, doctor: Doctor) -> None:
        self._runtime = runtime
        self._inbox = inbox
        self._sources = sources
        self._doctor = doctor
        self._acts = Acts(runtime)

    def sources(self) -> list[SourceSummary]:
        """Return every configured source, and the API, in one line each."""
        with self._runtime.store.reading() as tx:
            return [summarize(self._known(tx, name)) for name in [*sorted(self._runtime.config.sources), API_ORIGIN]]

    def source(self, name: str) -> SourceShape:
        """Return everything about a source; raises `NotFound`."""
        self._check(name)
        with self._runtime.store.reading() as tx:
            return examine(self._known(tx, name))

    def test(self, name: str, *, who: str) -> TestShape:
        """Send an event of type `retrain.test` through a source, wait until it is decided, and say how that went.

        It is stored under the source's own name by the way its events take, and no policy ever acts on it.
        Raises `NotFound`, and `Conflict` for a source that was not built.
        """
        self._check(name)
        self._check_here(name)
        if name != API_ORIGIN and self._sources.shape(name) is None:
            reason = self._runtime.complaints.of(name).get("build", "see the daemon's log")
            raise Conflict(f"source {name!r} does not run: {reason}", hint="correct it, then: retrainctl reload")
        steps = _Steps(self._runtime)
        event_id = self._send(name, who, steps)
        if event_id is not None:
            self._follow(event_id, steps)
        if complaints := self._runtime.complaints.of(name):
            steps.add("source", ok=False, text="; ".join(complaints.values()))
        named = self._policies(name)
        steps.add("policies", ok=True, text=f"named by {', '.join(named) or 'no policy'}; none ever acts on a test")
        self._acts.once(
            lambda _: {"event_id": event_id}, "test", name, who=who, reason="", details={}, key=None, ring=()
        )
        return {
            "source": name,
            "event_id": event_id,
            "ok": steps.ok,
            "steps": steps.reports,
            "endpoint": self._endpoint(name),
        }

    def seek(self, name: str, where: Mapping[str, str], *, who: str, reason: str) -> SeekShape:
        """Let a source go on from another position: it is stopped, what it remembers is written with the act, and it starts again.

        Raises `NotFound`, `InvalidInput` for a position that makes no sense, and `Conflict` for a source without positions.
        """
        self._check(name)
        if not reason.strip():
            raise InvalidInput("moving a source needs a reason", hint="it is recorded with your name")
        self._check_here(name)
        find = getattr(self._sources.get(name), "seek", None)
        if find is None:
            kind = self._type(name)
            raise Conflict(
                f"source {name!r} is of type {kind!r}, which has no positions to move to",
                hint="sources that read a log, such as kafka, have them",
            )
        moved: dict[str, Json] = {}

        def move() -> None:
            entries = find(where)
            moved.update((entry.key, entry.value) for entry in entries)

            def act(tx: Transaction) -> dict[str, Json]:
                tx.events.remember(name, entries)
                return {"positions": moved}

            self._acts.once(act, "seek", name, who=who, reason=reason, details=where, key=None, ring=())

        self._sources.restart(name, move)
        return {"source": name, "where": dict(where), "positions": moved}

    # ------------------------------------------------------------------------------------------- what is known

    def _check(self, name: str) -> None:
        if name != API_ORIGIN and name not in self._runtime.config.sources:
            known = ", ".join(sorted(self._runtime.config.sources)) or "none"
            raise NotFound(f"no source {name!r} is configured", hint=f"configured: {known}")

    def _check_here(self, name: str) -> None:
        if self._sources.is_elsewhere(name):
            raise Conflict(
                f"source {name!r} runs on the replica that leads, and this one follows",
                hint=ask_the_leader(self._runtime),
            )

    def _type(self, name: str) -> str:
        spec = self._runtime.config.sources.get(name)
        return API_ORIGIN if spec is None else spec.type

    def _shape(self, name: str) -> str | None:
        return self._sources.shape_of(name) if self._sources.is_elsewhere(name) else self._sources.shape(name)

    def _known(self, tx: Transaction, name: str) -> Known:
        runtime = self._runtime
        spec = runtime.config.sources.get(name)
        stat = self._doctor.stat(tx, name)
        return Known(
            name=name,
            type=self._type(name),
            stat=stat,
            now=tx.now,
            shape="push" if name == API_ORIGIN else self._shape(name),
            elsewhere=where_it_leads(tx) if self._sources.is_elsewhere(name) else None,
            expect_every=None if spec is None else spec.expect_every,
            quiet_seconds=self._doctor.quiet_seconds(name),
            complaints=runtime.complaints.of(name),
            notes=self._sources.notes(name),
            report=self._report(name),
            last_event=None if stat.last_event_id is None else tx.events.get(stat.last_event_id),
            dead_letters=tx.sources.dead_letters(name),
            endpoint=self._endpoint(name),
            policies=self._policies(name),
        )

    def _report(self, name: str) -> Mapping[str, Json]:
        """Return what a source says of itself; one that raises says that."""
        try:
            say = getattr(self._sources.get(name), "report", None)
            return {} if say is None else say()
        except NotFound:
            return {}
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the question is about more than this
            self._runtime.log.warning("source.report_failed", source=name, error=repr(error))
            return {"error": f"report() failed: {error!r}"}

    def _endpoint(self, name: str) -> EndpointShape | None:
        if self._sources.shape(name) != "push":
            return None
        config = self._runtime.config
        path = f"/hooks/{name}"
        if config.http.listen is None:
            url = f"{path} on the socket {config.http.socket}"
        else:
            host, port = config.http.listen
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"
        verified = getattr(config.sources[name].options, "verify", None) is not None
        return {"url": url, "verified": verified}

    def _policies(self, name: str) -> list[str]:
        return [
            f"{model.name}/{policy.name}"
            for model in self._runtime.config.models.values()
            for policy in model.policies.values()
            if any(leaf.source == name for leaf in leaves(policy.on))
        ]

    # ------------------------------------------------------------------------------------------- a test event

    def _send(self, name: str, who: str, steps: _Steps) -> str | None:
        """Store a test event, as one of the source; return its id, or None when it could not be."""
        runtime = self._runtime
        event = NewEvent(
            source=f"/sources/{name}",
            source_id=runtime.ids.make("test"),
            type=TEST_EVENT,
            subject=name,
            time=runtime.clock.now(),
            data={"asked_by": who},
        )
        try:
            receipt = self._inbox.put(name, Batch(events=[event])).result(_LOOKS * _LOOK_SECONDS)[0]
        except ControllerError as error:
            steps.add("stored", ok=False, text=error.message)
        except TimeoutError:
            steps.add("stored", ok=False, text=f"not stored within {_LOOKS * _LOOK_SECONDS:g} s")
        else:
            steps.add("stored", ok=True, text=f"as {receipt.event_id}")
            return receipt.event_id
        return None

    def _follow(self, event_id: str, steps: _Steps) -> None:
        """Wait until the event is decided."""
        pause = threading.Event()
        for _ in range(_LOOKS):
            with self._runtime.store.reading() as tx:
                event = tx.events.get(event_id)
            if event is not None and event.state != "PENDING":
                decided = event.state == "PROCESSED"
                text = (
                    f"number {event.decided_seq} in the order of deciding"
                    if decided
                    else f"it is {event.state}: {event.error}"
                )
                steps.add("decided", ok=decided, text=text, at=event.decided_at)
                return
            pause.wait(_LOOK_SECONDS)
        steps.add("decided", ok=False, text=f"not decided within {_LOOKS * _LOOK_SECONDS:g} s: see retrainctl status")


class _Steps:
    """The steps of a test, with their times."""

    def __init__(self, runtime: Runtime) -> None:
        self._clock = runtime.clock
        self._began = runtime.clock.now()
        self.reports: list[StepReport] = []

    @property
    def ok(self) -> bool:
        """Whether all of them went well."""
        return all(report["ok"] for report in self.reports)

    def add(self, step: str, *, ok: bool, text: str, at: datetime | None = None) -> None:
        """Note a step, by default as done now."""
        at = at or self._clock.now()
        milliseconds = max((at - self._began).total_seconds() * 1000, 0.0)
        shown = at.isoformat().replace("+00:00", "Z")
        self.reports.append({"step": step, "at": shown, "after_ms": round(milliseconds, 1), "ok": ok, "text": text})
