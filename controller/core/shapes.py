"""What people and programs are shown: the JSON that the API answers, `retrainctl -o json` prints and `explain` reads.

`store/views.py` fills these from the database, so that the daemon's answer and an offline reading are the same.
Instants are RFC 3339 text in UTC; a key that has nothing to say is null, never left out.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import (
    TypedDict,
)  # pydantic reads these for the API's documentation, and wants this one before Python 3.12

from controller.core.watch_shapes import WatchShape

Json = Any


class CauseShape(TypedDict):
    """One event (or timer) behind a run."""

    event_id: str | None
    origin: str
    source: str | None
    source_id: str | None
    type: str
    subject: str | None
    time: str
    decision_id: str
    #: The run of ours that emitted it; null for an event from outside.
    emitted_by: str | None


class TraceShape(TypedDict):
    """What one stage of the chain said."""

    stage: str
    outcome: str
    reason: str
    facts: dict[str, Json]


class DecisionShape(TypedDict):
    """What a policy concluded."""

    id: str
    seq: int
    kind: str
    model: str
    policy: str
    policy_version: str
    key: str
    stage: str
    reason: str
    trace: list[TraceShape]
    until: str | None
    waits_for: str | None
    event_id: str | None
    run_id: str | None
    at: str


class HistoryShape(TypedDict):
    """One change of state."""

    seq: int
    machine: str
    entity: str
    origin: str
    target: str
    cause: str
    reason: str
    actor: str
    term: int
    at: str


class ActShape(TypedDict):
    """Something a person did."""

    id: str
    at: str
    actor: str
    verb: str
    target: str
    reason: str
    details: dict[str, Json]


class AttemptShape(TypedDict):
    """One try at a job."""

    id: str
    number: int
    launcher: str
    launched_at: str
    started_at: str | None
    finished_at: str | None
    exit_code: int | None
    reason: str


class JobShape(TypedDict):
    """One candidate of a run."""

    id: str
    candidate: str
    state: str
    cause: str
    reason: str
    params: dict[str, Json]
    attempt: int
    due_at: str | None
    created_at: str
    finished_at: str | None
    attempts: list[AttemptShape]
    #: From its valid result; null while there is none.
    metrics: dict[str, float] | None
    champion_metrics: dict[str, float] | None
    #: The rest of the result: artifact, evaluation, data, code, …
    result: dict[str, Json] | None


class VerdictLineShape(TypedDict):
    """One line of a verdict."""

    candidate: str
    rule: str
    outcome: str
    text: str
    values: dict[str, Json]


class VerdictShape(TypedDict):
    """What the gate said."""

    outcome: str
    challenger: str | None
    reason: str
    lines: list[VerdictLineShape]
    champion_id: str | None
    at: str


class VersionShape(TypedDict):
    """One trained artifact of a model."""

    id: str
    model: str
    number: int
    state: str
    run_id: str | None
    job_id: str | None
    candidate: str | None
    artifact: str
    artifact_digest: str | None
    artifact_kept: bool
    metrics: dict[str, float]
    lineage: dict[str, Json]
    created_at: str
    promoted_at: str | None


class StepShape(TypedDict):
    """One promoter's part of a promotion."""

    position: int
    promoter: str
    state: str
    cause: str
    reason: str
    attempts: int
    due_at: str | None


class PromotionShape(TypedDict):
    """One attempt to make a version the champion."""

    id: str
    model: str
    version_id: str
    previous_id: str | None
    run_id: str | None
    kind: str
    state: str
    cause: str
    epoch: int
    actor: str
    reason: str
    created_at: str
    finished_at: str | None
    steps: list[StepShape]


class RunSummary(TypedDict):
    """A run in one line."""

    id: str
    model: str
    policy: str
    key: str
    state: str
    #: True when the state is final.
    final: bool
    cause: str
    reason: str
    actor: str | None
    decided_at: str
    started_at: str | None
    finished_at: str | None


class ActiveRunShape(RunSummary):
    """A run that goes on, with its jobs by state."""

    jobs: dict[str, int]


class PressShape(TypedDict):
    """A person's press of the retrain button, as its event tells it."""

    event_id: str
    actor: str
    reason: str
    params: dict[str, Json]
    at: str


class RunShape(RunSummary):
    """Everything about a run."""

    policy_version: str
    config_version: str
    decision_id: str
    params: dict[str, Json]
    traceparent: str | None
    epoch: int | None
    stop_as: str | None
    awaiting_since: str | None
    #: Of the runs that wait for the same launcher, the higher goes first; and it is not started before this.
    priority: int
    not_before: str | None
    #: What it counts for in a budget of cost units.
    cost: float
    #: How many runs lie behind its causes.
    depth: int
    #: Whether it helped: CURED, NOT_CURED, WORSE or UNKNOWN; null while nobody knows, and for a run that was not promoted.
    outcome: str | None
    outcome_reason: str
    #: What is looked at after its promotion.
    watch: WatchShape | None
    #: The champion it is compared with; pinned when it was dispatched.
    champion: VersionShape | None
    #: At most the first hundred; `cause_count` counts them all.
    causes: list[CauseShape]
    cause_count: int
    press: PressShape | None
    decisions: list[DecisionShape]
    jobs: list[JobShape]
    verdict: VerdictShape | None
    versions: list[VersionShape]
    promotions: list[PromotionShape]
    acts: list[ActShape]
    history: list[HistoryShape]


class EventSummary(TypedDict):
    """An event in one line."""

    id: str
    origin: str
    source: str
    source_id: str
    type: str
    subject: str | None
    time: str
    received_at: str
    state: str
    decided_at: str | None
    error: str | None


class HeldShape(TypedDict):
    """What a policy holds now for one key."""

    model: str
    policy: str
    key: str
    stage: str
    since: str | None
    count: int
    #: When it is looked at again; null when it waits for what is named in `waits_for`.
    until: str | None
    waits_for: str | None
    reason: str


class EpisodeShape(TypedDict):
    """An alert from firing to resolved."""

    id: str
    #: Name of the source, or of the dedup domain that it shares.
    origin: str
    key: str
    state: str
    cause: str
    type: str
    subject: str | None
    #: The event that opened it; null for one that was resolved before it was seen firing.
    event_id: str | None
    opened_at: str
    #: The last sign of life …
    seen_at: str
    #: … and when it is given up without another; null for one that was never open.
    expires_at: str | None
    expires_after_seconds: int
    finished_at: str | None


class EventShape(EventSummary):
    """Everything about an event."""

    decided_seq: int | None
    data: Json
    #: When its data were let go of (`retention`); null while they are here, and if there never were any.
    pruned_at: str | None
    extensions: dict[str, Json]
    #: The episode that it belongs to, as it is now.
    episode: EpisodeShape | None
    decisions: list[DecisionShape]
    #: Decisions, without this event, that ended what this event was collected for.
    later: list[DecisionShape]
    #: Where it is still collected.
    held: list[HeldShape]
    runs: list[RunSummary]
    history: list[HistoryShape]


class ModelSummary(TypedDict):
    """A model in one line."""

    name: str
    champion: VersionShape | None
    epoch: int
    promotion_held: bool
    held_until: str | None
    held_reason: str
    last_run: RunSummary | None


class PauseShape(TypedDict):
    """A person's word that nothing is decided for a while."""

    scope: str
    target: str
    actor: str
    reason: str
    at: str


class TallyShape(TypedDict):
    """How often a policy's first stages let nothing through."""

    policy: str
    outcome: str
    count: int


class ModelShape(ModelSummary):
    """Everything about a model."""

    versions: list[VersionShape]
    promotions: list[PromotionShape]
    runs: list[RunSummary]
    held: list[HeldShape]
    pauses: list[PauseShape]
    tallies: list[TallyShape]
    #: The last decision of each policy.
    decisions: list[DecisionShape]


class LeaderShape(TypedDict):
    """Who decides, or decided last."""

    term: int
    owner: str
    host: str
    pid: int
    since: str
    #: Null when the lease was given back and nobody has taken it yet.
    replica: str | None
    #: When the lease ends unless it is renewed, by the database's clock, and in how many seconds; null where it does not end (SQLite).
    expires_at: str | None
    ends_in_seconds: float | None
    #: Whether anybody may take it: then nobody leads.
    is_over: bool


class ReplicaShape(TypedDict):
    """One daemon on the database."""

    id: str
    #: The id of its state directory.
    owner: str
    host: str
    pid: int
    #: Version of its program.
    program: str
    #: Where its API listens.
    address: str
    config_version: str
    #: Whether that is the configuration in force.
    is_in_force: bool
    leads: bool
    #: Whether nothing is complained of there; null for one that is gone.
    ready: bool | None
    #: What it complains of; at most ten sentences.
    reasons: list[str]
    #: How many events wait in it to be stored.
    waiting: int
    started_at: str
    seen_at: str
    #: Seconds since it was seen, by the database's clock; null where a daemon does not need to be seen (SQLite).
    seen_seconds_ago: float | None
    #: It was not seen for 15 seconds.
    is_gone: bool


class LagShape(TypedDict):
    """How far deciding is behind."""

    #: Seconds since the oldest event came that is not decided; 0 when none waits.
    events_seconds: float
    #: How many things that policies hold should have been looked at again by now, and for how long the first of them.
    timers: int
    timers_seconds: float


class OpenWatchShape(TypedDict):
    """A promotion that is being watched."""

    id: str
    model: str
    run_id: str
    version_id: str
    opened_at: str
    until: str
    rolls_back: bool
    needed: int
    samples: int


class EventCounts(TypedDict):
    """What waits, and what could not be understood."""

    pending: int
    oldest_pending_at: str | None
    dead: int


class StandingShape(TypedDict):
    """How many dead letters of one source wait for a person."""

    source: str
    #: What was not understood …
    raw: int
    #: … with so many bytes of bodies.
    bytes: int
    #: Events that could not be decided.
    events: int
    #: How many the quota dropped, ever, and when it last did.
    overflowed: int
    overflowed_at: str | None


class SilentShape(TypedDict):
    """A source that is not heard as often as is expected."""

    source: str
    #: Nothing came since then.
    since: str


class StatusShape(TypedDict):
    """What fits one screen."""

    at: str
    store: str
    leader: LeaderShape | None
    #: Every daemon that was seen within a day and did not say goodbye, the oldest first.
    replicas: list[ReplicaShape]
    #: The version of the configuration that was activated last; null before the first.
    config_in_force: str | None
    events: EventCounts
    lag: LagShape
    models: list[ModelSummary]
    active: list[ActiveRunShape]
    awaiting: list[RunSummary]
    recent: list[RunSummary]
    held: list[HeldShape]
    pauses: list[PauseShape]
    promotions: list[PromotionShape]
    #: Promotions that are being watched, the one that ends soonest first.
    watches: list[OpenWatchShape]
    notifications_pending: int
    #: Messages that were given up.
    notifications_dead: int
    silent: list[SilentShape]
    #: By source; those that never had any are left out.
    dead_letters: list[StandingShape]
    #: What the daemon complains of, as in `/readyz`; None when nobody was there to ask.
    complaints: list[str] | None


class RunPage(TypedDict):
    """Runs, the newest first; `next` is the `before` of the next page."""

    items: list[RunSummary]
    next: str | None


class EventPage(TypedDict):
    """Events, the newest first; `next` is the `before` of the next page."""

    items: list[EventSummary]
    next: str | None
