"""The shape of a configuration, as pydantic models: which keys there are, what they take, and what they mean.

The descriptions end up in the JSON Schema, where editors show them.
Sections of plugins (`sources`, `train`, `promote`, `launchers`) have further keys, which the plugin's own `Options` check (`load.py`).
What this module does not do: read files, know places, or look at anything outside the values.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from controller.config.nearest import nearest
from controller.core.conditions import Expression
from controller.core.duration import parse_duration
from controller.core.model import Json
from controller.core.schedule import always_quiet, parse_between, parse_timezone
from controller.errors import ExpressionError
from controller.ports import refusal
from controller.secret import Secret

#: What `when` and `by` may read.
EVENT_VARIABLES = ("event", "model", "champion")
#: What `gate.require` may read.
GATE_VARIABLES = ("candidate", "champion", "model", "run")

#: What starts the jobs of a model that does not say.
DEFAULT_LAUNCHER = "process"
#: Longer than any of these makes sense, and short enough that no date overflows.
MAX_DURATION = timedelta(days=3660)
#: A policy keeps one instant for each event it counts, so the number is bounded.
MAX_COUNT = 10_000

_LISTEN = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]/]+):(?P<port>[0-9]{1,5})")


# ------------------------------------------------------------------------------------------------ kinds of values


def read_duration(value: Any) -> timedelta:
    """Return a length of time; the error says what to write."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise refusal(f"{value!r} has no unit", hint=f"write {value}s for seconds, {value}m for minutes")
    if not isinstance(value, str):
        raise refusal(f"{value!r} is not a duration; write 5m or PT5M")
    try:
        length = parse_duration(value)
    except ValueError as error:
        raise refusal(str(error)) from error
    if length > MAX_DURATION:
        raise refusal(f"{value!r} is longer than {MAX_DURATION.days}d")
    return length


def _read_positive_duration(value: Any) -> timedelta:
    length = read_duration(value)
    if not length:
        raise refusal(f"{value!r} is no time at all; it must be longer than 0s")
    return length


def iso_duration(length: timedelta) -> str:
    """Write a length of time as ISO 8601 in seconds, the same for equal lengths: `PT300S`."""
    seconds, micros = divmod(length // timedelta(microseconds=1), 1_000_000)
    return f"PT{seconds}S" if not micros else f"PT{seconds}.{micros:06d}".rstrip("0") + "S"


_DURATION_SCHEMA = WithJsonSchema(
    {
        "type": "string",
        "pattern": "^([0-9.]+(ms|s|m|h|d|w))+$|^P",
        "description": "A duration: 30s, 5m, 6h, 7d, or ISO 8601",
    }
)
_AS_ISO = PlainSerializer(iso_duration, return_type=str)

#: A duration of at least 0s.
Span = Annotated[timedelta, PlainValidator(read_duration), _AS_ISO, _DURATION_SCHEMA]
#: A duration longer than 0s.
Duration = Annotated[timedelta, PlainValidator(_read_positive_duration), _AS_ISO, _DURATION_SCHEMA]


def _expression_over(variables: tuple[str, ...]) -> Callable[[Any], Expression]:
    def read(value: Any) -> Expression:
        if isinstance(value, bool):
            value = str(value).lower()
        if not isinstance(value, str):
            raise refusal("a CEL expression is wanted here", hint="write it as text")
        return load_expression(value, variables)

    return read


def load_expression(source: str, variables: tuple[str, ...]) -> Expression:
    """Return the compiled expression; the error names it."""
    try:
        return Expression.load(source, variables=variables)
    except ExpressionError as error:
        where = "" if source in error.message else f" in {source!r}"
        raise refusal(f"{error.message}{where}", hint=error.hint) from error


def _cel_schema(variables: tuple[str, ...]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "description": f"A CEL expression over {', '.join(variables)}"})


_AS_SOURCE = PlainSerializer(lambda expression: expression.source, return_type=str)
EventExpression = Annotated[
    Expression,
    PlainValidator(_expression_over(EVENT_VARIABLES)),
    _AS_SOURCE,
    _cel_schema(EVENT_VARIABLES),
]
GateExpression = Annotated[
    Expression,
    PlainValidator(_expression_over(GATE_VARIABLES)),
    _AS_SOURCE,
    _cel_schema(GATE_VARIABLES),
]


def _check_timezone(name: str) -> str:
    try:
        parse_timezone(name)
    except ValueError as error:
        raise refusal(str(error), hint=nearest(name, sorted(available_timezones()))) from error
    return name


def _check_between(text: str) -> str:
    try:
        parse_between(text)
    except ValueError as error:
        raise refusal(str(error)) from error
    return text


def split_listen(text: str) -> tuple[str, int]:
    """Return host and port of `host:port`; raises what a validator raises."""
    match = _LISTEN.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise refusal(f"{text!r} is not host:port; write 127.0.0.1:8080")
    return match["host"].strip("[]"), int(match["port"])


def _check_listen(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    split_listen(text)
    return text


def _check_version(value: Any) -> Any:
    if value != 1 or isinstance(value, bool):
        raise refusal(f"{value!r} is not a version this program reads", hint="write version: 1")
    return value


def _check_pattern(text: str) -> str:
    if not text:
        raise refusal(
            "the pattern is empty, so it matches nothing",
            hint="leave the key out to match everything",
        )
    return text


TimeZone = Annotated[str, AfterValidator(_check_timezone)]
Between = Annotated[str, AfterValidator(_check_between)]
Glob = Annotated[str, AfterValidator(_check_pattern)]
Text = Annotated[str, Field(min_length=1)]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Params = dict[str, Any]


class Section(BaseModel):
    """A mapping with known keys; another key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PluginSection(BaseModel):
    """A mapping with known keys, and those of a plugin, which the plugin's `Options` check."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def options(self) -> dict[str, Json]:
        """Return the plugin's own keys as written."""
        return dict(self.__pydantic_extra__ or {})


# ------------------------------------------------------------------------------------------------------- policies


class OnSection(Section):
    """Which events count, or how old the champion may be."""

    source: Text | None = Field(None, description="Name of a configured source; any when left out")
    type: Glob | None = Field(None, description="Glob over the event's type, such as drift.*")
    subject: Glob | None = Field(None, description="Glob over the event's subject")
    when: EventExpression | None = Field(None, description="CEL over event, model and champion; must be true")
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = Field(
        None, description="How many matching events within `within`"
    )
    within: Duration | None = Field(None, description="Length of the sliding window, in event time")
    by: EventExpression | None = Field(None, description="CEL that gives a key; everything is counted per key")
    max_age: Duration | None = Field(None, description="Fires when the champion is that old; stands alone")
    again_after: Duration | None = Field(
        None,
        description="With max_age: fires again this long after its run ended; by default a tenth of max_age",
    )

    @model_validator(mode="after")
    def _keys_fit(self) -> OnSection:
        given = self.model_fields_set
        if self.max_age is not None:
            if others := sorted(given - {"max_age", "again_after"}):
                raise refusal(
                    f"max_age stands alone, without {', '.join(others)}",
                    hint="make it a policy of its own",
                )
        elif "again_after" in given:
            raise refusal("again_after is of no use without max_age")
        elif not given & {"source", "type", "subject", "when"}:
            raise refusal(
                "it would match every event",
                hint="name a source, a type, a subject or a `when`, or give max_age",
            )
        elif (self.count or 1) > 1 and self.within is None:
            raise refusal(f"count {self.count} needs a window", hint="add `within: 1h`")
        return self


class DebounceSection(Section):
    """Wait until it has been quiet."""

    quiet: Duration = Field(description="Fires when nothing more has come for this long")
    max_wait: Duration | None = Field(None, description="… but waits no longer than this from the first event")

    @model_validator(mode="after")
    def _waits_long_enough(self) -> DebounceSection:
        if self.max_wait is not None and self.max_wait < self.quiet:
            raise refusal(
                "max_wait is shorter than quiet, so quiet would never count",
                hint="make max_wait longer",
            )
        return self


class CooldownSection(Section):
    """Wait until the last retraining is long enough ago."""

    period: Duration = Field(description="How long")
    after: Literal["decision", "launch", "success", "promotion"] = Field("decision", description="Since what")
    after_failure: Duration | None = Field(None, description="Another period when the model's last run failed")


class QuietHoursSection(Section):
    """Hold while the wall clock is inside a window."""

    between: Between = Field(description="22:00-06:00; the start is inside, the end is not")
    timezone: TimeZone = Field("UTC", description="Whose wall clock, such as Europe/Paris")
    days: list[Day] = Field([], description="Days on which the window begins; every day when left out")

    @model_validator(mode="after")
    def _leaves_some_time(self) -> QuietHoursSection:
        if always_quiet(between=self.between, days=self.days):
            raise refusal(
                f"{self.between!r} leaves no time at all",
                hint="make the window shorter, or name days",
            )
        return self


class PolicySection(Section):
    """The rule that says when a model is retrained."""

    on: OnSection = Field(description="What makes an occasion")
    debounce: DebounceSection | None = Field(None, description="Wait until it has been quiet")
    cooldown: CooldownSection | None = Field(None, description="Wait until the last retraining is long enough ago")
    quiet_hours: QuietHoursSection | None = Field(None, description="Hold at these hours")


# ------------------------------------------------------------------------------------------------------- training


class RetriesSection(Section):
    """How often a job is tried."""

    attempts: Annotated[int, Field(ge=1, le=100)] = Field(3, description="Attempts in all; 1 means no retry")
    backoff: Span = Field(timedelta(seconds=30), description="Wait before the second attempt; doubles with each one")
    max_backoff: Span = Field(timedelta(hours=1), description="The longest wait")


class CandidateSection(Section):
    """One way to train within a run."""

    params: Params = Field({}, description="Given to the job as RETRAIN_PARAMS; values may be templates")


def _empty_for_null(value: Any) -> Any:
    return {} if value is None else value


class TrainSection(PluginSection):
    """How a model is trained; the launcher has further keys."""

    launcher: Text = Field(DEFAULT_LAUNCHER, description="Which launcher starts the jobs")
    params: Params = Field({}, description="Parameters of every candidate; a candidate's own win")
    candidates: dict[str, Annotated[CandidateSection, BeforeValidator(_empty_for_null)]] = Field(
        {}, description="Ways to train that compete; one, called default, when left out"
    )
    timeout: Duration = Field(timedelta(hours=24), description="An attempt that runs longer is stopped")
    retries: RetriesSection = Field(default_factory=RetriesSection, description="What happens after a failed attempt")
    concurrency: Literal["queue", "forbid", "replace", "allow"] = Field(
        "queue", description="What a policy does while another run of the model goes on"
    )
    stop_grace: Span = Field(timedelta(seconds=30), description="From TERM to KILL")
    lost_grace: Span = Field(
        timedelta(seconds=30),
        description="How long a job that its launcher lost may take to come back",
    )


# ------------------------------------------------------------------------------------------------ gate, promotion


class SelectSection(Section):
    """What picks the challenger among the candidates."""

    metric: Text = Field(description="Name of a metric in the job's result")
    goal: Literal["maximize", "minimize"] = Field("maximize", description="Which way is better")


class ObjectiveSection(SelectSection):
    """What compares the challenger with the champion."""

    min_gain: Annotated[float, Field(allow_inf_nan=False)] = Field(
        0.0, description="How much better the challenger must be; reaching it exactly is enough"
    )


class GateSection(Section):
    """The rules a challenger must pass."""

    select: SelectSection | None = Field(None, description="Picks the challenger; by default the objective does")
    objective: ObjectiveSection | None = Field(None, description="Challenger against champion")
    require: list[GateExpression] = Field([], description="All must be true of a candidate that competes")
    champion_metrics: Literal["reported", "stored"] = Field(
        "reported",
        description="The champion's metrics: from the job's own result, or those stored when it was judged",
    )
    candidates_needed: Literal["any", "all"] = Field(
        "any", description="Whether one good candidate is enough, or all must have ended well"
    )


class ApproveSection(Section):
    """Whether a person is asked."""

    required: bool = Field(False, description="Ask a person before promoting")
    timeout: Duration = Field(timedelta(hours=48), description="Unanswered for this long ends in REJECTED")


class PromoteSection(PluginSection):
    """What carries a promotion out; the promoter has further keys."""

    type: Text = Field(description="Which promoter")


def _read_after_rollback(value: Any) -> Any:
    return "resume" if value == "resume" else _read_positive_duration(value)


AfterRollback = Annotated[
    timedelta | Literal["resume"],
    PlainValidator(_read_after_rollback),
    PlainSerializer(lambda value: value if isinstance(value, str) else iso_duration(value), return_type=str),
    WithJsonSchema({"type": "string", "description": "A duration, or `resume`: until a person resumes"}),
]


class ModelDefaults(Section):
    """What all models share; a model's own keys win."""

    labels: dict[str, str] = Field({}, description="Words to select by")
    train: TrainSection = Field(default_factory=TrainSection, description="How it is trained")
    gate: GateSection = Field(default_factory=GateSection, description="What a challenger must pass")
    approve: ApproveSection = Field(default_factory=ApproveSection, description="Whether a person is asked")
    promote: list[PromoteSection] = Field([], description="What makes a version the champion, in order")
    notify: list[Text] = Field(["log"], description="Names of notifiers")
    keep_artifacts: Annotated[int, Field(ge=0, le=100_000)] = Field(
        5,
        description="Artifacts kept of rejected and retired versions, beside the champion's and its predecessor's",
    )
    after_rollback: AfterRollback = Field(
        timedelta(hours=24),
        description="How long automatic promotion stays held after a rollback; or `resume`",
    )


class ModelSection(ModelDefaults):
    """Something that is retrained."""

    policies: dict[str, PolicySection] = Field({}, description="The rules that say when")


# -------------------------------------------------------------------------------------------------- installation


class StoreSection(Section):
    """The database."""

    url: Text = Field(
        description="sqlite:///state/retrain.db, postgresql://user@host/db, or the whole of it as env:NAME or file:PATH"
    )
    password: Secret | None = Field(None, description="PostgreSQL's password, by reference: env:NAME or file:PATH")


def _url_alone(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class HttpSection(Section):
    """Where the API listens."""

    listen: Annotated[str, BeforeValidator(_check_listen)] | None = Field(
        None, description="host:port; only the socket when left out"
    )
    socket: Text | None = Field(None, description="Path of the Unix socket; by default in the state directory")


class SourceSection(PluginSection):
    """An entrance for events; the source has further keys."""

    type: Text = Field(description="Which source")
    dedup_domain: Text | None = Field(
        None, description="Sources with the same one share identities: an event that two of them hear of is one event"
    )
    expect_every: Duration | None = Field(
        None, description="An event is expected at least this often; a longer silence is an event, source.silent"
    )


class DeadLettersSection(Section):
    """How much is kept, for each source, of what came in and could not be understood."""

    keep: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        10_000, description="So many dead letters wait for a person; beyond that the oldest are dropped"
    )
    max_bytes: Annotated[int, Field(ge=0, le=1 << 40)] = Field(
        256 << 20, description="Bytes of their bodies together; 268435456, which is 256 MiB, when left out"
    )


class ConfigSection(Section):
    """The whole configuration of an installation of Retrain Controller."""

    version: Annotated[Literal[1], BeforeValidator(_check_version)] = Field(description="Version of this format: 1")
    store: Annotated[StoreSection, BeforeValidator(_url_alone)] | None = Field(
        None, description="The database; by default SQLite in the state directory"
    )
    state_dir: Text = Field("state", description="Folder for the socket, the runs' files and the daemon's identity")
    http: HttpSection = Field(default_factory=HttpSection, description="Where the API listens")
    sources: dict[str, SourceSection] = Field({}, description="Entrances for events, by name")
    dead_letters: DeadLettersSection | None = Field(
        None, description="How much of what could not be understood is kept, for each source"
    )
    launchers: dict[str, dict[str, Any]] = Field({}, description="Settings of launchers, by the launcher's name")
    defaults: ModelDefaults | None = Field(None, description="What all models share")
    models: dict[str, ModelSection] = Field({}, description="What is retrained, by name")
