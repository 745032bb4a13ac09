"""What a person configured, as the judgements need it: policies, training, gate, promotion.

`config.py` makes these from validated YAML; nothing here knows YAML. A policy's `version` is the hash of its normal form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from controller.core.conditions import Expression
from controller.core.model import Json
from controller.core.on import Leaf, MaxAge

Concurrency = Literal["queue", "forbid", "replace", "allow"]


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
class Policy:
    """The rule that says when a model is retrained."""

    model: str
    name: str
    on: Leaf | MaxAge
    #: Hash of the whole normal form; a decision names it.
    version: str
    #: Hash of the `on` part: the policy's state is kept while it is the same.
    on_hash: str
    debounce: Debounce | None = None
    cooldown: Cooldown | None = None
    quiet_hours: QuietHours | None = None
    #: Belongs to the model (`train.concurrency`); repeated here because the chain asks.
    concurrency: Concurrency = "queue"


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
