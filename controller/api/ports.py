"""What the API needs of the daemon, as protocols: it never imports the engine, which stands beside it.

Every method may be called from any thread and may block; the API calls them off its event loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, Protocol

from controller.core.episode import Episode
from controller.core.letter_shapes import BulkShape, LetterPage, LetterShape, ReplayShape, Wanted
from controller.core.model import Champion, Event, Json, Receipt
from controller.core.shapes import (
    DecisionShape,
    EpisodeShape,
    EventPage,
    EventShape,
    ModelShape,
    ModelSummary,
    RunPage,
    RunShape,
    StandingShape,
    StatusShape,
)
from controller.core.source_shapes import SeekShape, SourceShape, SourceSummary, TestShape
from controller.ports import Batch, LogChunk
from controller.store.finding import Found
from controller.store.people import Token


class Intake(Protocol):
    """Where events become durable."""

    def put(self, origin: str, batch: Batch) -> Future[list[Receipt]]:
        """Store a batch; the future has the receipts after the commit, or raises `StoreBusy` and nothing was written."""
        ...


class Desk(Protocol):
    """What people can do. `who` is the actor; each call records an act.

    All raise `NotFound`, `Conflict` or `InvalidInput`, and return what is answered, as JSON.
    """

    def retrain(
        self, model: str, *, who: str, reason: str, params: Mapping[str, Json], key: str | None
    ) -> dict[str, Json]:
        """Press the button: `{"event_id", "duplicate"}`. The same `key` is the same press; with another request it is a `Conflict`."""
        ...

    def cancel(self, run_id: str, *, who: str, reason: str) -> dict[str, Json]: ...
    def retry(self, run_id: str, *, who: str, reason: str, key: str | None) -> dict[str, Json]: ...
    def approve(self, run_id: str, *, who: str, reason: str) -> dict[str, Json]: ...
    def reject(self, run_id: str, *, who: str, reason: str) -> dict[str, Json]: ...

    def promote(self, target: str, *, who: str, reason: str) -> dict[str, Json]:
        """Override the gate; `target` is the id of a run or a version."""
        ...

    def rollback(self, model: str, *, who: str, reason: str, to: str | None = None) -> dict[str, Json]: ...

    def adopt(
        self, model: str, *, who: str, reason: str, artifact: str, metrics: Mapping[str, float]
    ) -> dict[str, Json]: ...

    def pause(self, scope: str, target: str, *, who: str, reason: str) -> dict[str, Json]: ...
    def resume(self, scope: str, target: str, *, who: str, reason: str) -> dict[str, Json]: ...

    def resolve(self, run_id: str, candidate: str | None, as_: str, *, who: str, reason: str) -> dict[str, Json]:
        """Say what became of an UNKNOWN job: `as_` is `running` or `failed`; without a candidate, of the run's only one."""
        ...

    def reload(self, *, who: str) -> dict[str, Json]:
        """Load the configuration anew: `{"version", "changed", "warnings"}`; raises `ConfigError`, and the old one stays."""
        ...

    def create_token(self, name: str, *, who: str, expires_in: timedelta | None) -> dict[str, Json]:
        """Make a bearer token; `{"name", "token", "expires_at"}` has the secret, this once."""
        ...

    def list_tokens(self) -> list[dict[str, Json]]: ...
    def revoke_token(self, name: str, *, who: str) -> dict[str, Json]: ...


class Checkup(Protocol):
    """The sources, as people see and steer them; all but `sources` raise `NotFound`."""

    def sources(self) -> list[SourceSummary]: ...
    def source(self, name: str) -> SourceShape: ...

    def test(self, name: str, *, who: str) -> TestShape:
        """Send a test event through a source and wait until it is decided; raises `Conflict` for a source that was not built."""
        ...

    def seek(self, name: str, where: Mapping[str, str], *, who: str, reason: str) -> SeekShape:
        """Let a source go on from another position; raises `InvalidInput`, and `Conflict` for a source that has no positions."""
        ...


class Letters(Protocol):
    """Dead letters, as people see and steer them; a letter is named by its id or the end of it.

    What names one raises `NotFound`, and `Conflict` for a name that stands for several; acts raise `Conflict` for one that is not DEAD.
    """

    def letters(self, *, source: str | None, state: Wanted, limit: int, before: str | None) -> LetterPage: ...
    def letter(self, name: str) -> LetterShape: ...
    def standing(self) -> list[StandingShape]: ...

    def body(self, name: str) -> tuple[str, bytes]:
        """Return a letter's id and its bytes; raises `Conflict` when they are not kept."""
        ...

    def replay(self, name: str, *, who: str, reason: str, key: str | None) -> ReplayShape:
        """Have a letter read, or decided, again; DEAD in the answer when it still makes no sense."""
        ...

    def drop(self, name: str, *, who: str, reason: str, key: str | None) -> ReplayShape:
        """Give a letter up; raises `InvalidInput` without a reason."""
        ...

    def replay_all(
        self, source: str | None, *, after: str | None, until: str | None, limit: int, who: str, reason: str
    ) -> BulkShape: ...
    def drop_all(
        self, source: str, *, after: str | None, until: str | None, limit: int, who: str, reason: str
    ) -> BulkShape: ...


class Views(Protocol):
    """The database as people see it; `store/views.py`."""

    def status(self) -> StatusShape: ...
    def runs(self, *, model: str | None, state: str | None, limit: int, before: str | None) -> RunPage: ...
    def run(self, run_id: str) -> RunShape: ...
    def run_state(self, run_id: str) -> str: ...

    def events(
        self, *, origin: str | None, type: str | None, state: str | None, limit: int, before: str | None
    ) -> EventPage: ...

    def event(self, event_id: str) -> EventShape: ...
    def event_state(self, event_id: str) -> str: ...
    def event_record(self, event_id: str) -> tuple[Event, dict[str, Champion]]: ...
    def episode_of(self, event: Event) -> Episode | None: ...
    def episodes(self, *, origin: str | None = None, limit: int = 200) -> list[EpisodeShape]: ...
    def models(self, configured: Iterable[str] = ()) -> list[ModelSummary]: ...
    def model(self, name: str, *, configured: Iterable[str] = ()) -> ModelShape: ...
    def decisions(
        self,
        *,
        event_id: str | None = None,
        run_id: str | None = None,
        model: str | None = None,
        policy: str | None = None,
        limit: int = 100,
    ) -> list[DecisionShape]: ...
    def resolve(self, text: str, *, models: Iterable[str] = (), policies: Iterable[str] = ()) -> Found: ...
    def token(self, digest: str) -> Token | None: ...


class Logs(Protocol):
    """The logs of jobs."""

    def read(self, run_id: str, candidate: str | None, attempt: int | None, offset: int, limit: int) -> LogChunk:
        """Return a piece of a job's log: of the run's only candidate, and of its last attempt, unless named.

        Raises `NotFound` when there is no such run, candidate or attempt, `Conflict` when a candidate must be named.
        """
        ...


class Health(Protocol):
    """How the daemon is."""

    def report(self) -> dict[str, Any]:
        """Return `{"live": bool, "ready": bool, "reasons": [...], "loops": {...}}`; quick, and never raises."""
        ...


class Log(Protocol):
    """A structured logger: a constant event name, and fields."""

    def warning(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...
