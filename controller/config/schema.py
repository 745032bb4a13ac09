"""The shape of a configuration, as pydantic models: which keys there are, what they take, and what they mean.

The descriptions end up in the JSON Schema, where editors show them.
Sections of plugins (`sources`, `train`, `promote`, `launchers`) have further keys, which the plugin's own `Options` check (`load.py`).
What this module does not do: read files, know places, or look at anything outside the values.
The kinds of values are in `values.py`, policies in `policy_sections.py`, their `on` in `on_sections.py`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from controller.config.files import SELECT_ALL
from controller.config.policy_sections import CalendarSection, HoldPromotionSection, PolicySection, StagesSection
from controller.config.retention_section import RetentionSection
from controller.config.values import (
    Duration,
    GateExpression,
    MessageKind,
    Params,
    PluginSection,
    Section,
    Span,
    Text,
    check_listen,
    check_version,
    iso_duration,
    read_positive_duration,
)
from controller.config.watch_section import WatchSection
from controller.ports import refusal
from controller.secret import Secret

#: What starts the jobs of a model that does not say.
DEFAULT_LAUNCHER = "process"

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
    cost: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None,
        description="What a retraining counts for in a budget of cost units, until its results say; 1 when left out",
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
    return "resume" if value == "resume" else read_positive_duration(value)


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
    notify: list[Text] = Field(
        ["log"], description="Channels to people: names under `notifiers`, or notifiers that need no options"
    )
    keep_artifacts: Annotated[int, Field(ge=0, le=100_000)] = Field(
        5,
        description="Artifacts kept of rejected and retired versions, beside the champion's and its predecessor's",
    )
    after_rollback: AfterRollback = Field(
        timedelta(hours=24),
        description="How long automatic promotion stays held after a rollback; or `resume`",
    )
    watch: WatchSection | None = Field(
        None, description="What is looked at after a promotion; by default whether its signal ends within a day"
    )
    hold_promotion: HoldPromotionSection | None = Field(None, description="When promotions wait")


class ModelSection(ModelDefaults):
    """Something that is retrained."""

    policies: dict[str, PolicySection] = Field({}, description="The rules that say when")


class DefaultsSection(ModelDefaults):
    """What all models share, and what all policies share."""

    policy: StagesSection | None = Field(
        None, description="Laid under every policy: the stages behind its `on`; a policy's own keys win"
    )


# ----------------------------------------------------------------------------------------------- shared policies


def _read_select(value: Any) -> Any:
    if value == SELECT_ALL:
        return value
    if not isinstance(value, dict):
        raise refusal(f"{value!r} is not a choice of models", hint="write {team: travel}, or all")
    if not value:
        raise refusal("it names no label", hint="write {team: travel}, or `select: all` for every model")
    for label, wanted in value.items():
        words = wanted if isinstance(wanted, list) and wanted else [wanted]
        if not all(isinstance(word, str) for word in words):
            raise refusal(f"label {label!r}: a label's value is a text, or a list of them", hint="quote it")
    return value


Select = Annotated[
    dict[str, Any] | Literal["all"],
    PlainValidator(_read_select),
    WithJsonSchema(
        {
            "description": "Labels that a model must have, each with its value or a list of values; or `all`",
            "anyOf": [
                {"const": SELECT_ALL},
                {
                    "type": "object",
                    "minProperties": 1,
                    "additionalProperties": {
                        "anyOf": [
                            {"type": "string"},
                            {"type": "array", "minItems": 1, "items": {"type": "string"}},
                        ]
                    },
                },
            ],
        }
    ),
]


class SharedPolicySection(PolicySection):
    """A policy of every model that it selects; a model's own keys under the same name are laid over it."""

    select: Select = Field(description="Labels of the models that have it, such as {team: travel}, or all")


# -------------------------------------------------------------------------------------------------- installation


class StoreSection(Section):
    """The database."""

    url: Text = Field(
        description="sqlite:///state/retrain.db, postgresql://user@host/db, or the whole of it as env:NAME or file:PATH"
    )
    password: Secret | None = Field(None, description="PostgreSQL's password, by reference: env:NAME or file:PATH")
    on_network: bool | None = Field(
        None, description="SQLite's file may lie on a network's file system: its locks are known to work"
    )


def _url_alone(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class HttpSection(Section):
    """Where the API listens."""

    listen: Annotated[str, BeforeValidator(check_listen)] | None = Field(
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


class NotifierGroupSection(Section):
    """How messages that wait together become one."""

    wait: Span = Field(
        timedelta(seconds=30), description="The first one waits so long for others; 0s: it does not wait"
    )
    repeat: Span = Field(
        timedelta(minutes=5),
        description="After one was sent, the next of its kind and model are sent together after this",
    )


class NotifierSection(PluginSection):
    """A channel to people; the notifier has further keys."""

    type: Text = Field(description="Which notifier")
    only: Annotated[list[MessageKind], Field(min_length=1)] | None = Field(
        None, description="Kinds of messages that it takes; all when left out"
    )
    group: NotifierGroupSection | None = Field(
        None, description="How messages of the same kind and model that wait together become one"
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

    version: Annotated[Literal[1], BeforeValidator(check_version)] = Field(description="Version of this format: 1")
    store: Annotated[StoreSection, BeforeValidator(_url_alone)] | None = Field(
        None, description="The database; by default SQLite in the state directory"
    )
    state_dir: Text = Field("state", description="Folder for the socket, the runs' files and the daemon's identity")
    runs_dir: Text | None = Field(
        None,
        description="Folder for the runs' files, by default in the state directory; "
        "several replicas that launch jobs elsewhere need one on a disk that they share",
    )
    http: HttpSection = Field(default_factory=HttpSection, description="Where the API listens")
    sources: dict[str, SourceSection] = Field({}, description="Entrances for events, by name")
    dead_letters: DeadLettersSection | None = Field(
        None, description="How much of what could not be understood is kept, for each source"
    )
    retention: RetentionSection | None = Field(
        None, description="How long what nobody needs any longer is kept; decisions, runs and history stay for ever"
    )
    notifiers: dict[str, NotifierSection] | None = Field(None, description="Channels to people, by name")
    notify: list[Text] | None = Field(
        None,
        description="Channels that are told what concerns no single model, such as a silent source; "
        "by default those under `defaults`, or log",
    )
    launchers: dict[str, dict[str, Any]] = Field({}, description="Settings of launchers, by the launcher's name")
    calendars: dict[str, CalendarSection] | None = Field(
        None, description="Closed days, by name; policies and promotions name them"
    )
    defaults: DefaultsSection | None = Field(None, description="What all models and policies share")
    policies: dict[str, SharedPolicySection] = Field({}, description="Policies that models share, by name")
    models: dict[str, ModelSection] = Field({}, description="What is retrained, by name")
