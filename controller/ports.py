"""What a plugin is: the protocols, and the records that cross them.

A plugin is a class with a pydantic model `Options`, built as `Plugin(options, context)`, and found by its name through an
entry point (`plugins.py`). Constructors only store: they open nothing and start nothing.
A plugin that cannot do something raises `RetryLater` (the same call may succeed) or `GiveUp` (it never will); anything else it raises
is taken for a bug, logged with its traceback, and treated as `RetryLater`.
The suites in `controller.testing` state these promises as tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from controller.clock import Clock, Random
from controller.core.duration import parse_duration
from controller.core.grouping import GROUP_SCHEMA, Grouping, load_grouping
from controller.core.mapping import MAPPING_KEYS, load_mapping
from controller.core.mapping import Mapping as EventMapping
from controller.core.model import DeadLetter, Json, LedgerEntry, NewEvent, Notification, Receipt
from controller.errors import ExpressionError, InvalidInput


class PluginOptions(BaseModel):
    """Base of every plugin's `Options`: an unknown key is an error, and a loaded value does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def refusal(message: str, *, hint: str = "") -> PydanticCustomError:
    """Return the error that a validator of `Options` raises: a sentence for people, which is shown as it is."""
    return PydanticCustomError("refused", "{message}", {"message": message, "hint": hint})


def _read_duration(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    try:
        return parse_duration(value if isinstance(value, str) else repr(value))
    except ValueError as error:
        raise refusal(str(error)) from None


#: A length of time in a plugin's `Options`: `30s`, `5m`, `7d`, or ISO 8601; never negative.
Duration = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    WithJsonSchema({"type": "string", "description": "A duration: 30s, 5m, 6h, 7d, or ISO 8601"}),
]


def _read_mapping(value: Any) -> EventMapping:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise refusal(
            "a mapping has CEL expressions as text", hint="such as {type: \"'data.arrived'\", subject: body.model}"
        )
    try:
        return load_mapping(value)
    except ExpressionError as error:
        raise refusal(error.message, hint=error.hint) from error


#: How a body that is no CloudEvent becomes one, in a plugin's `Options`; see `core/mapping.py` for its keys.
MappingOption = Annotated[
    EventMapping,
    PlainValidator(_read_mapping),
    PlainSerializer(lambda mapping: mapping.written(), return_type=dict),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: {"type": "string", "description": text} for name, text in MAPPING_KEYS.items()},
        }
    ),
]


def _read_group(value: Any) -> Grouping:
    if isinstance(value, Grouping):
        return value
    try:
        return load_grouping(value)
    except InvalidInput as error:
        raise refusal(error.message, hint=error.hint) from None


#: Which arrivals are one data set, and when it is complete, in a plugin's `Options`; see `core/grouping.py` for its keys.
GroupOption = Annotated[
    Grouping,
    PlainValidator(_read_group),
    PlainSerializer(lambda grouping: grouping.written(), return_type=dict),
    WithJsonSchema(GROUP_SCHEMA),
]


class Log(Protocol):
    """A structured logger: a constant event name, and fields."""

    def debug(self, event: str, **fields: Any) -> Any: ...
    def info(self, event: str, **fields: Any) -> Any: ...
    def warning(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...


# ---------------------------------------------------------------------------------------------------- sources


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What a source hands over at once: stored in one transaction, or not at all."""

    events: Sequence[NewEvent]
    #: What the source remembers once the events are durable.
    ledger: Sequence[LedgerEntry] = ()
    #: What came in and could not be understood; kept, because its sender takes it for delivered.
    dead: Sequence[DeadLetter] = ()


class Stop(Protocol):
    """Tells a streaming source to end."""

    def is_set(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> bool: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceContext:
    """What a source may use of the controller."""

    #: The source's name in the configuration: the `origin` of its events.
    name: str
    #: Relative paths in its options start here: the folder of the configuration.
    base: Path
    clock: Clock
    random: Random
    log: Log
    #: Store a batch; returns after the commit, one receipt an event in order.
    #: Raises `StoreBusy` when the store cannot take it: nothing was written, try again later.
    emit: Callable[[Batch], Sequence[Receipt]]
    #: Read what this source remembers: all keys with this prefix, as (key, value).
    recall: Callable[[str], Mapping[str, Json]]
    #: Say how the source is: a reason when something is wrong (it shows in `/readyz`), None when it is well again.
    #: The first argument names the complaint, so that several can stand side by side.
    complain: Callable[[str, str | None], None]
    #: Note a fact for people, the newest of each name: `payload` (bytes; shown redacted), `mapping`, `signature`, `lag`, …
    #: Cheap, in memory only; `retrainctl doctor sources` shows it.
    note: Callable[[str, Json | bytes], None]


class StreamSource(Protocol):
    """A source that runs for as long as the daemon does, in a thread of its own, on the replica that leads.

    One with `everywhere = True` runs on every replica at once: its upstream shares out what there is among those that read.
    """

    Options: ClassVar[type[BaseModel]]

    def run(self, stop: Stop) -> None:
        """Emit events until `stop` is set; return soon (≤ 1 s) after it is.

        Acknowledges upstream only after `emit` returned. May emit the same event again: identity makes it harmless.
        An exception ends this run; the controller logs it, complains, and calls `run` again after a backoff.
        """
        ...


class TimedSource(Protocol):
    """A source that has something to do at certain instants; the ticker calls it, on the leader only.

    It may also have `patience` (a timedelta: a poll that takes longer is complained of; a minute when it does not say) and
    `close()` (end a running poll soon, from another thread).
    """

    Options: ClassVar[type[BaseModel]]

    def poll(self, now: datetime) -> datetime | None:
        """Emit whatever is due at `now`, and return the next instant to be called at (None: never).

        Called at start, and at or after each instant it returned; catching up after a downtime is its own matter.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """An HTTP request to `/hooks/{source}`."""

    #: Upper case.
    method: str
    #: What follows `/hooks/{source}`; empty, or begins with a slash.
    path: str
    query: str
    #: Names in lower case; they may repeat.
    headers: Sequence[tuple[str, str]]
    #: The bytes as they came: signatures are made over these.
    body: bytes
    received_at: datetime

    def header(self, name: str) -> str | None:
        """Return the first header of this name (lower case)."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What is answered to a request."""

    status: int
    #: JSON; None answers without a body.
    body: Json = None
    headers: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What a request came to."""

    #: Stored before anything is answered.
    batch: Batch
    #: None: 202 with the receipts, or 200 when every event was known before.
    reply: Reply | None = None


class PushSource(Protocol):
    """A source that others call, at `/hooks/{source}`.

    It may have `max_bytes`: the largest body it takes, 1 MiB when it does not say.
    """

    Options: ClassVar[type[BaseModel]]

    def take(self, request: Request) -> Taken:
        """Verify and read one request; computes only, on the server's own thread, and stores nothing itself.

        Raises `Unauthorized` for a caller that did not prove who it is, `InvalidInput` for what is malformed (400; its
        subclass `NotUnderstood` is 415); both are answered with their message, and nothing is stored.
        """
        ...


#: One of the shapes above.
Source = StreamSource | TimedSource | PushSource


class Rereads(Protocol):
    """What a source that makes dead letters can do beside its shape."""

    def read_again(self, letter: DeadLetter) -> Sequence[NewEvent]:
        """Return the events of a dead letter, read with the present options; raises `InvalidInput` when it still makes no sense."""
        ...


class Seekable(Protocol):
    """What a source with positions can do beside its shape: `retrainctl sources seek`."""

    def seek(self, where: Mapping[str, str]) -> Sequence[LedgerEntry]:
        """Return what the ledger must hold so that the source goes on elsewhere; it is stopped meanwhile, and started again.

        `where` is as the person wrote it, such as `{"topic": …, "partition": …, "to": "earliest"}`; raises `InvalidInput`.
        """
        ...


class Reports(Protocol):
    """What any source can do beside its shape: say how it is."""

    def report(self) -> Mapping[str, Json]:
        """Return facts for `retrainctl doctor sources`: lag, positions, cursor, circuit; quick, from any thread, never raises."""
        ...


# -------------------------------------------------------------------------------------------------- launchers


@dataclass(frozen=True, kw_only=True, slots=True)
class LauncherContext:
    """What a launcher may use of the controller."""

    base: Path
    #: The state directory; a launcher keeps its files below it.
    state: Path
    clock: Clock
    log: Log


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What to start: one attempt at one job. Equal `attempt_id`, equal order."""

    run_id: str
    job_id: str
    attempt_id: str
    #: From 1.
    attempt: int
    model: str
    candidate: str
    #: The folder of this attempt on the daemon's disk; exists, and belongs to this attempt alone.
    folder: Path
    #: The job contract's variables (design 7): names to values.
    environment: Mapping[str, str]
    #: The launcher's own options for this model, expressions filled in: an instance of its `Options`.
    options: Any


#: What a launcher knows a job by; JSON, kept in the store.
Handle = Mapping[str, Json]


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What a launcher says of a job now. Note the difference to `Job`, which is what we stored."""

    #: running; succeeded (exit 0); failed; lost (the launcher is sure that it does not run and left no end);
    #: unreachable (nobody can say).
    state: Literal["running", "succeeded", "failed", "lost", "unreachable"]
    #: A sentence: `exit code 3`, `killed by signal 9 (SIGKILL)`, `host was rebooted`.
    reason: str = ""
    exit_code: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    #: Extra facts for people, such as the pid.
    facts: Mapping[str, Json] = field(default_factory=dict)


class Launcher(Protocol):
    """Starts, finds, observes and stops jobs.

    It may also have `settle` (a timedelta, 30 seconds when it does not say): how long after a call whose answer was lost a job may still
    appear that `find` did not see. Only then is the attempt launched again. Zero is right for a target that knows jobs by a name that
    is made of `attempt_id`, and refuses a second one of that name.
    """

    #: Settings of the installation, under `launchers:` in the configuration.
    Settings: ClassVar[type[BaseModel]]
    #: What a model says under `train:` beside the keys that all launchers share.
    Options: ClassVar[type[BaseModel]]
    #: True when `find` is sure; False for a target that cannot be searched (its unclear launches become UNKNOWN).
    searchable: ClassVar[bool]
    #: True when its jobs live on this machine, so that only the owner of the state directory may watch them.
    local: ClassVar[bool]

    def slots(self) -> int | None:
        """Return how many jobs may be with this launcher at once; None for no limit.

        Asked at most once a second. While it raises, what it said last counts, and before its first answer no job of its is launched.
        """
        ...

    def launch(self, order: Order) -> Handle:
        """Start the attempt and return its handle; for an attempt that was started before, return that one's handle.

        Idempotent per `attempt_id`, also across processes: it is called again after a crash.
        Raises `RetryLater` or `GiveUp` only when the job certainly was not started.
        """
        ...

    def find(self, order: Order) -> Handle | None:
        """Return the handle of this attempt if it was ever started, None if it certainly was not.

        Raises `RetryLater` when that cannot be said now.
        """
        ...

    def observe(self, handle: Handle) -> Observation:
        """Say how the job is. Raises only for a failed look (`RetryLater`), never for a failed job."""
        ...

    def stop(self, handle: Handle, *, force: bool) -> None:
        """Ask the job and everything it started to end (TERM), or with `force` end it (KILL). Safe to repeat, safe when it is gone."""
        ...

    def watch(self, handle: Handle, changed: Callable[[], None]) -> None:
        """Call `changed()` soon after the job ends, from any thread, at least once; a hint, so doing nothing is legal."""
        ...

    def log(self, handle: Handle, offset: int, limit: int) -> LogChunk:
        """Return the log's bytes from `offset`, at most `limit`."""
        ...

    def forget(self, handle: Handle) -> None:
        """Let go of what is kept in memory for this job (descriptors, watches); its files stay."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class LogChunk:
    """A piece of a job's log."""

    data: bytes
    #: Offset to ask for next.
    next_offset: int
    #: Bytes between the asked-for offset and `data` that were cut by the log cap.
    skipped: int = 0


# -------------------------------------------------------------------------------------------------- promoters


@dataclass(frozen=True, kw_only=True, slots=True)
class PromoterContext:
    """What a promoter may use of the controller."""

    base: Path
    #: The state directory; a promoter that must remember something keeps it below.
    state: Path
    log: Log


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A version as a promoter sees it."""

    version_id: str
    #: Serial number within the model.
    number: int
    artifact: str
    artifact_digest: str | None
    metrics: Mapping[str, float]
    run_id: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotionOrder:
    """What to make true: `target` serves, where `previous` served before."""

    promotion_id: str
    model: str
    target: Target
    #: None when there was no champion.
    previous: Target | None
    actor: str
    reason: str


class Promoter(Protocol):
    """Carries a promotion out into the world."""

    Options: ClassVar[type[BaseModel]]

    def promote(self, order: PromotionOrder) -> None:
        """Make `order.target` serve. Safe to repeat: it is called again after a crash."""
        ...

    def current(self, model: str) -> str | None:
        """Return the version id that serves according to this promoter, None when there is none; used to read a promotion back."""
        ...

    def rollback(self, order: PromotionOrder) -> None:
        """Undo `promote(order)`: `order.previous` serves again, or nothing when there was none. Safe to repeat."""
        ...


# -------------------------------------------------------------------------------------------------- notifiers


@dataclass(frozen=True, kw_only=True, slots=True)
class NotifierContext:
    """What a notifier may use of the controller."""

    #: The channel's name in the configuration.
    name: str
    base: Path
    clock: Clock
    log: Log


class Notifier(Protocol):
    """Tells people."""

    Options: ClassVar[type[BaseModel]]

    def send(self, notification: Notification) -> None:
        """Deliver at least once; `notification.id` is stable, so that the receiver can drop a repetition.

        A message that stands for several has them in `messages`; several sent together fail or succeed together.
        Raises `RetryLater` (its `after_seconds` lets the whole channel rest) or `GiveUp`.
        Their text is kept and shown, so it holds no secret.
        It ends by itself, with a deadline of its own; calls may come from several threads.
        """
        ...


#: How long a job may take to end after TERM before it is killed, when its model does not say.
DEFAULT_STOP_GRACE = timedelta(seconds=30)
