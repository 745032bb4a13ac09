"""What the API needs of the daemon, as protocols: it never imports the engine, which stands beside it.

Every method may be called from any thread and may block; the API calls them off its event loop.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any, Protocol

from controller.core.audit_shapes import AuditEntry, HeadShape
from controller.core.episode import Episode
from controller.core.explain import Standing
from controller.core.letter_shapes import BulkShape, LetterPage, LetterShape, ReplayShape, Wanted
from controller.core.model import Champion, Event, Json, Receipt
from controller.core.notice_shapes import NoticePage, NoticeRetryShape, NoticeTestShape, WantedNotices
from controller.core.policy import ModelSpec, Policy
from controller.core.shapes import (
    DecisionShape,
    EpisodeShape,
    EventPage,
    EventShape,
    HistoryShape,
    ModelShape,
    ModelSummary,
    PauseShape,
    RunPage,
    RunShape,
    RunSummary,
    StandingShape,
    StatusShape,
    TallyShape,
)
from controller.core.source_shapes import SeekShape, SourceShape, SourceSummary, TestShape
from controller.core.watch_shapes import PolicyShape
from controller.ports import Batch, LogChunk
from controller.store.account_views import InForce
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
    A `key` makes a repeated request the same act, which is answered as the first time; with another request it is a `Conflict`.
    """

    def retrain(
        self, model: str, *, who: str, reason: str, params: Mapping[str, Json], key: str | None, force: bool = False
    ) -> dict[str, Json]:
        """Press the button: `{"event_id", "duplicate"}`. The same `key` is the same press; with another request it is a `Conflict`.

        `force` passes over the budget.
        """
        ...

    def cancel(self, run_id: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Json]: ...
    def retry(self, run_id: str, *, who: str, reason: str, key: str | None) -> dict[str, Json]: ...
    def approve(self, run_id: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Json]: ...
    def reject(self, run_id: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Json]: ...

    def promote(self, target: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Json]:
        """Override the gate; `target` is the id of a run or a version."""
        ...

    def rollback(
        self, model: str, *, who: str, reason: str, to: str | None = None, key: str | None = None
    ) -> dict[str, Json]: ...

    def adopt(
        self,
        model: str,
        *,
        who: str,
        reason: str,
        artifact: str,
        metrics: Mapping[str, float],
        key: str | None = None,
    ) -> dict[str, Json]: ...

    def pause(self, scope: str, target: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Json]: ...
    def resume(self, scope: str, target: str, *, who: str, reason: str, key: str | None = None) -> dict[str, Json]: ...

    def resolve(
        self,
        run_id: str,
        candidate: str | None,
        as_: str,
        *,
        who: str,
        reason: str,
        handle: Mapping[str, Json] | None = None,
        key: str | None = None,
    ) -> dict[str, Json]:
        """Say what became of an UNKNOWN job: `as_` is `running` or `failed`; without a candidate, of the run's only one.

        `handle` is what the launcher knows a job by that runs, where it never said so.
        """
        ...

    def reload(self, *, who: str) -> dict[str, Json]:
        """Load the configuration anew: `{"version", "changed", "warnings", "leads"}`; raises `ConfigError`, and the old one stays."""
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


class Notices(Protocol):
    """Messages to people; one is named by its id or the end of it."""

    def notifications(
        self,
        *,
        state: WantedNotices,
        channel: str | None,
        kind: str | None,
        model: str | None,
        limit: int,
        before: str | None,
    ) -> NoticePage: ...

    def retry(self, name: str, *, who: str, reason: str, key: str | None) -> NoticeRetryShape:
        """Have a dead message sent again; raises `NotFound`, and `Conflict` for one that is not dead."""
        ...

    def test(self, channel: str, *, who: str) -> NoticeTestShape:
        """Send a message through a channel now, and say what came of it; raises `NotFound`."""
        ...


class Audit(Protocol):
    """Who did what, and the chain over history."""

    def entries(
        self,
        *,
        actor: str | None,
        target: str | None,
        verb: str | None,
        since: datetime | None,
        until: datetime | None,
        limit: int,
        all: bool,
    ) -> list[AuditEntry]: ...

    def head(self) -> HeadShape: ...

    def lines(self) -> Iterator[str]:
        """Yield the chain with what it covers, as lines of a file."""
        ...

    def refused(self, who: str, what: str, *, reason: str, details: Mapping[str, Json]) -> None:
        """Record that a request was refused; never raises."""
        ...


class AccountViews(Protocol):
    """What an account needs beside the shapes; `store/account_views.py`."""

    def now(self) -> datetime: ...
    def standings(
        self, models: Mapping[str, ModelSpec], places: Sequence[tuple[Policy, str]], *, whole: bool = False
    ) -> list[Standing]: ...
    def keys(self, model: str, policy: str, *, limit: int = 50) -> tuple[list[dict[str, Json]], int]: ...
    def open_runs(self, model: str) -> list[RunSummary]: ...
    def held_keys(self, model: str, *, limit: int) -> list[tuple[str, str]]: ...
    def last_key(self, model: str, policy: str) -> str: ...
    def has_state(self, model: str, policy: str, key: str) -> bool: ...
    def decisions_of(
        self, model: str, policy: str, *, key: str | None = None, until: datetime | None = None, limit: int = 20
    ) -> list[DecisionShape]: ...
    def runs_until(
        self, model: str, until: datetime, *, limit: int = 10
    ) -> list[tuple[RunSummary, list[HistoryShape]]]: ...
    def histories(self, entities: Collection[str]) -> dict[str, list[HistoryShape]]: ...
    def pauses_of(self, targets: Sequence[str]) -> list[PauseShape]: ...
    def tallies(self, model: str, policy: str) -> list[TallyShape]: ...
    def pauses_until(self, targets: Sequence[str], until: datetime) -> list[PauseShape]: ...
    def champions(self, models: Iterable[str]) -> dict[str, Champion]: ...
    def event_of(self, event_id: str) -> Event: ...
    def touched(self, event: Event) -> dict[str, Json]: ...
    def in_force(self, at: datetime) -> InForce | None: ...
    def configuration(self, version: str) -> Json: ...
    def known_since(self, versions: Iterable[str]) -> dict[str, datetime]: ...


class Views(AccountViews, Protocol):
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
    def policies(
        self, models: Mapping[str, ModelSpec], *, model: str | None = None, since: timedelta | None = None
    ) -> list[PolicyShape]: ...
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
        """Return `{"live": bool, "ready": bool, "reasons": [...], "loops": {...}, ...}`; waits for nothing, and never raises.

        What is beside these is told with readiness.
        """
        ...


class Log(Protocol):
    """A structured logger: a constant event name, and fields."""

    def warning(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...
