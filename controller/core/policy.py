"""What a person configured, as the judgements need it: policies, training, gate, promotion.

`config.py` makes these from validated YAML; nothing here knows YAML. A policy's `version` is the hash of its normal form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from controller.core.calendar import Calendar
from controller.core.conditions import Expression
from controller.core.model import Json
from controller.core.on import Leaf, Noted, On

Concurrency = Literal["queue", "forbid", "replace", "allow"]
#: A chain of retrainings that cause each other is ended here, when the policy does not say.
DEFAULT_MAX_CHAIN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Debounce:
    """Wait until it has been quiet for `quiet`, but no longer than `max_wait` from the first event held."""

    quiet: timedelta
    max_wait: timedelta | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cooldown:
    """Wait until `period` has passed since the last decision, launch, success or promotion.

    `decision` counts those of this policy and key; the others count every run of the model, whoever asked for it.
    """

    after: Literal["decision", "launch", "success", "promotion"]
    period: timedelta
    #: Another wait when the model's last run failed; None: the same `period` rules.
    after_failure: timedelta | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class QuietHours:
    """Hold while the wall clock is inside; see `core/schedule.py` for the edges."""

    #: `22:00-06:00`; the start is inside, the end is not.
    between: str
    timezone: str
    #: Days on which the window begins; empty means every day.
    days: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """Wait until there is enough to train on."""

    #: So many rows must have come with the events that are held; None: any number.
    new_rows: int | None = None
    #: CEL that gives the rows of an event; by default `event.data.rows`.
    rows: Expression | None = None
    #: Labels come this long after the data: counted from the first event that is held.
    label_delay: timedelta | None = None
    #: Wait while an episode is open that fits; by source, type and subject.
    unless_open: Leaf | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Breaker:
    """Stop after so many retrainings in a row that did not help, until a person resumes."""

    after: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """At most so many runs, or units of cost, within a sliding window."""

    #: Runs, or units of the `cost` that a run declares; exactly one of the two.
    runs: int | None
    cost: float | None
    per: timedelta
    #: Whose runs count: `model`, `all`, or the name of a label (`label:team`): models with the same value share.
    scope: str = "model"


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """What is looked at after a promotion."""

    #: How long.
    lasting: timedelta
    #: An event that fits says that it is worse, and the promotion is rolled back; None: nothing does.
    rollback_on: Leaf | None = None
    #: So many events that fit are needed.
    min_samples: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy(Noted):
    """The rule that says when a model is retrained."""

    model: str
    name: str
    on: On
    #: Hash of the whole normal form; a decision names it.
    version: str
    #: Hash of the `on` part: the policy's state is kept while it is the same.
    on_hash: str
    debounce: Debounce | None = None
    cooldown: Cooldown | None = None
    quiet_hours: QuietHours | None = None
    ready: Ready | None = None
    calendars: tuple[Calendar, ...] = ()
    #: A cause chain with so many runs in it starts no further one.
    max_chain: int = DEFAULT_MAX_CHAIN
    #: Whether what a run of this very model emitted may start another one.
    own_output: bool = False
    breaker: Breaker | None = None
    budget: Budget | None = None
    #: `live` starts runs, `observe` decides and records but starts none, `off` is not asked.
    mode: Literal["live", "observe", "off"] = "live"
    #: Of the runs that wait for the same launcher, the higher goes first.
    priority: int = 0
    #: Runs start up to so much later, by a share that comes from the model's name and is always the same.
    jitter: timedelta | None = None
    #: Belongs to the model (`train.concurrency`); repeated here because the chain asks.
    concurrency: Concurrency = "queue"
    #: Belongs to the model too (`train.cost`): what one retraining counts for in a budget of cost units.
    cost: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Retries:
    """How often a job is tried, and how long it waits in between.

    The wait before attempt n+1 is `backoff` x 2^(n-1), at most `max_backoff`: 30 s, 1 min, 2 min, …
    """

    #: Attempts in all; 1 means no retry.
    attempts: int = 3
    backoff: timedelta = timedelta(seconds=30)
    max_backoff: timedelta = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One way to train within a run."""

    name: str
    #: Values may be templates (`{{ … }}`), filled when the run is dispatched.
    params: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How a model is trained."""

    launcher: str
    candidates: Sequence[Candidate]
    #: The launcher's own keys as written (`command`, `env`, …); values may be templates.
    options: Mapping[str, Json]
    #: An attempt that runs longer is stopped, and ends TIMED_OUT.
    timeout: timedelta = timedelta(hours=24)
    retries: Retries = Retries()
    concurrency: Concurrency = "queue"
    #: TERM, and after this long KILL.
    stop_grace: timedelta = timedelta(seconds=30)
    #: How long a job that its launcher no longer knows may take to come back.
    lost_grace: timedelta = timedelta(seconds=30)
    #: What a retraining counts for in a budget of cost units, until its results say what it cost.
    cost: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """A metric and which way is better."""

    metric: str
    goal: Literal["maximize", "minimize"] = "maximize"
    #: How much better the challenger must be than the champion; reaching it exactly is enough.
    min_gain: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """The rules a challenger must pass against the champion."""

    objective: Objective | None = None
    #: Picks the challenger among the candidates that meet `require`; None: the objective does.
    select: Objective | None = None
    #: CEL over `candidate`, `champion`, `model`, `run`; all must be true for a candidate to compete.
    require: Sequence[Expression] = ()
    #: `reported`: the champion's metrics are in the candidate's own result; `stored`: those of its own verdict stand in.
    champion_metrics: Literal["reported", "stored"] = "reported"
    #: `any`: one good candidate is enough; `all`: every candidate must have ended well.
    candidates_needed: Literal["any", "all"] = "any"


@dataclass(frozen=True, kw_only=True, slots=True)
class Approval:
    """Whether a person is asked before a promotion."""

    required: bool = False
    #: Unanswered for this long ends in REJECTED.
    timeout: timedelta = timedelta(hours=48)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotionHold:
    """When promotions wait: in quiet hours, and on days that a calendar closes."""

    quiet_hours: QuietHours | None = None
    calendars: tuple[Calendar, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PromoterSpec:
    """One promoter of a model: its plugin's name and options as written."""

    type: str
    options: Mapping[str, Json]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """Everything configured for one model."""

    name: str
    labels: Mapping[str, str]
    policies: Mapping[str, Policy]
    training: Training
    gate: Gate
    approval: Approval
    promoters: Sequence[PromoterSpec]
    #: Names of notifiers.
    notify: Sequence[str]
    #: Artifacts of this many rejected or retired versions are kept, beside those of the champion and its predecessor.
    keep_artifacts: int = 5
    #: How long automatic promotion stays held after a rollback; None: until a person resumes.
    after_rollback: timedelta | None = timedelta(hours=24)
    #: What is looked at after a promotion; None: only the signal that asked for it, and nothing is rolled back.
    watch: Watch | None = None
    #: When promotions wait, whoever decided them; None: never.
    hold_promotion: PromotionHold | None = None
