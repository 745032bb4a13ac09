"""The records everything else speaks about.

Frozen, keyword-only, without behaviour: they are what a row of the store becomes in memory, and what a judgement takes and returns.
Change one with `dataclasses.replace`. Every instant is timezone-aware UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

#: A value that JSON can carry.
Json = Any

#: Prefixes of ids, by kind of row; `run-0f2k9q3x7mabcdef`.
EVENT_ID, DECISION_ID, RUN_ID, JOB_ID, ATTEMPT_ID = "evt", "dec", "run", "job", "att"
VERSION_ID, PROMOTION_ID, NOTIFICATION_ID, ACT_ID, TOKEN_ID = "ver", "pro", "not", "act", "tok"
EPISODE_ID, DEAD_LETTER_ID, WATCH_ID, REPLICA_ID = "epi", "dea", "wat", "rep"

#: The origin of what a person does; no source may have this name.
PERSON_ORIGIN = "person"
#: The origin of what the controller itself observes, such as a source that fell silent; no source may have this name.
CONTROLLER_ORIGIN = "controller"
#: CloudEvents extensions that make an event part of an episode: its key (unique within the origin), `firing` or `resolved`,
#: and after how many seconds without a sign of life it counts as over (by default a day).
EPISODE, EPISODE_STATE, EPISODE_EXPIRE = "episode", "episodestate", "episodeexpire"
#: The CloudEvents extension by which an event says which run emitted it: what its job was told as RETRAIN_RUN_ID.
EMITTED_BY = "retrainrun"
#: The CloudEvents type of a press of the retrain button.
RETRAIN_REQUESTED = "retrain.requested"
#: The CloudEvents type of what the source doctor sends through a source to see it arrive; it never makes a policy act.
TEST_EVENT = "retrain.test"


@dataclass(frozen=True, kw_only=True, slots=True)
class NewEvent:
    """Something that happened, as a source tells it: a CloudEvents 1.0 record before it is stored."""

    #: CloudEvents `source`: where it happened, chosen by the producer.
    source: str
    #: CloudEvents `id`: with `source` the identity under which a redelivery is recognised.
    source_id: str
    #: CloudEvents `type`, such as `file.arrived` or `drift.detected`.
    type: str
    #: CloudEvents `subject`: what it is about; None when the producer gave none.
    subject: str | None = None
    #: When it happened, as the producer says; None means when we received it.
    time: datetime | None = None
    #: The payload, as JSON.
    data: Json = None
    #: CloudEvents extension attributes, among them `traceparent`.
    extensions: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetter:
    """Something that came in and could not be understood: kept as it came, so that it can be read again once the reason is gone."""

    #: Where it stood, unique within its source, so that a redelivery is recognised: `topic/0/42`, `sha256:…`.
    place: str
    #: Why it was not understood.
    reason: str
    #: The bytes as they came, cut at `MAX_DEAD_BODY`; None for one that had none (or is too large to be kept).
    body: bytes | None
    #: How many bytes there were.
    size: int
    #: What its source needs beside the bytes to read it again: headers, key, content type.
    meta: Mapping[str, Json] = field(default_factory=dict)


#: More of a dead letter's body than this is not kept.
MAX_DEAD_BODY = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A stored event; see `NewEvent` for the attributes that come from the producer."""

    #: Our own id; ids sort by the time of storing.
    id: str
    #: Name of the configured source that took it in; part of its identity.
    origin: str
    source: str
    source_id: str
    type: str
    subject: str | None
    #: Event time as the producer gave it, else `received_at`; windows clamp it (design 5.1).
    time: datetime
    #: When we took it in, by our clock.
    received_at: datetime
    data: Json
    extensions: Mapping[str, Json]
    #: PENDING, PROCESSED or DEAD.
    state: str = "PENDING"
    #: Its place in the order of deciding; set with the decision.
    decided_seq: int | None = None
    #: When it was decided.
    decided_at: datetime | None = None
    #: Why it became a dead letter.
    error: str | None = None
    #: When its data were let go of, because nobody needs them any longer.
    pruned_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What storing an event came to."""

    #: Our id of the event; for a duplicate, of the one that was there first.
    event_id: str
    #: True when the same identity was stored before: nothing was written.
    duplicate: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerEntry:
    """What a source remembers of one thing in the world; written in the transaction that stores its events."""

    #: The thing: a path, an object's name, a partition, a schedule.
    key: str
    #: What is remembered of it; None removes the entry.
    value: Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """One reason for a decision; kept after the event's body is pruned."""

    #: Our id of the event; None for a timer or another thing without one.
    event_id: str | None
    #: The event's type, or `timer.max_age` and the like.
    type: str
    origin: str
    subject: str | None
    #: Event time.
    time: datetime
    #: The run of ours that emitted the event, as it says itself; None when it came from outside.
    emitted_by: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """What one stage of the chain said; a list of these is the explanation of a decision."""

    #: Name of the stage: `match`, `when`, `count`, `debounce`, …
    stage: str
    #: "pass", "hold", "skip", "error", or "over" for what a person's press passed over.
    outcome: Literal["pass", "hold", "skip", "error", "over"]
    #: A sentence for people, with the values seen.
    reason: str
    #: The values behind the reason, for programs.
    facts: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What a policy concluded of one occurrence; written once, never changed."""

    #: FIRE starts (or joins) a run, HOLD waits, SKIP ends here, ERROR is an expression that failed on real data.
    kind: Literal["FIRE", "HOLD", "SKIP", "ERROR"]
    model: str
    #: Name of the policy; `manual` for a person's press.
    policy: str
    #: Hash of the policy's normal form.
    policy_version: str
    #: The key of `by`; empty without one.
    key: str
    #: The stage that gave the reason; `fire` when all passed.
    stage: str
    reason: str
    #: The whole chain as far as it went.
    trace: tuple[Trace, ...]
    #: HOLD: when it is looked at again; None when it waits for something named in `waits_for`.
    until: datetime | None = None
    #: HOLD without a time: what ends it, such as `champion`, `resume`.
    waits_for: str | None = None
    #: FIRE: id of the queued run that takes the causes in, when there is one.
    joins_run: str | None = None
    #: FIRE: ids of the runs that this one replaces.
    replaces: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Champion:
    """The version that serves, as policies, gates and jobs see it."""

    version_id: str
    #: Serial number of the version within its model, from 1.
    number: int
    #: URI or path of its artifact.
    artifact: str
    artifact_digest: str | None
    #: The metrics stored when it was judged.
    metrics: Mapping[str, float]
    promoted_at: datetime
    #: When the run that made it was decided; None for an adopted version.
    decided_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One retraining of one model."""

    id: str
    model: str
    policy: str
    policy_version: str
    #: The configuration it was decided under, and keeps.
    config_version: str
    key: str
    state: str
    #: Cause of the last change of state.
    cause: str
    #: A sentence with values: why it ended or waits; empty while there is nothing to say.
    reason: str
    #: The decision that made it.
    decision_id: str
    #: When it was decided; orders promotions.
    decided_at: datetime
    #: Parameters a person gave with the press.
    params: Mapping[str, Json]
    #: Who pressed; None when a policy decided.
    actor: str | None
    #: W3C trace context of the newest cause.
    traceparent: str | None
    #: When the dispatcher gave it the slot; its causes are frozen from then on.
    started_at: datetime | None
    #: Set exactly when the state is final.
    finished_at: datetime | None
    #: The champion pinned at dispatch; None when there was none.
    champion_id: str | None
    #: The model's promotion epoch pinned at dispatch.
    epoch: int | None
    #: CANCELLED or SUPERSEDED once somebody wants it stopped; the monitor carries it out.
    stop_as: str | None
    #: When it entered AWAITING_APPROVAL.
    awaiting_since: datetime | None
    #: Of the runs that wait for the same launcher, the higher goes first.
    priority: int = 0
    #: It is not started before this instant: the policy's jitter; None for at once.
    not_before: datetime | None = None
    #: What it counts for in a budget: as declared by the model when it was decided, as its result says afterwards.
    cost: float = 1.0
    #: How many runs of the cause chain lie before it; 0 when what led to it came from outside.
    depth: int = 0
    #: Whether it helped, one of `OUTCOMES`; None while nobody knows.
    outcome: str | None = None
    #: A sentence with values behind the outcome.
    outcome_reason: str = ""


#: What became of the signal that asked for a run, seen after its promotion.
OUTCOMES = ("CURED", "NOT_CURED", "WORSE", "UNKNOWN")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One candidate of a run at a launcher."""

    id: str
    run_id: str
    model: str
    candidate: str
    state: str
    cause: str
    reason: str
    #: Parameters of the candidate, filled in and merged with those of the run.
    params: Mapping[str, Json]
    #: Number of the present attempt; 0 before the first.
    attempt: int
    #: RETRYABLE: when the next attempt is due. LOST: when the grace period ends. STOPPING: when it is killed.
    due_at: datetime | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One try at a job."""

    id: str
    job_id: str
    #: From 1.
    number: int
    #: Random; part of the folder's name, so that an older attempt's result cannot pass for this one's.
    nonce: str
    #: Name of the launcher that was asked.
    launcher: str
    #: Who may watch it: the id of the state directory, for launchers whose jobs live on its machine.
    owner: str
    #: What the launcher gave back; None until it answered.
    handle: Mapping[str, Json] | None
    #: Folder of its files on the daemon's disk.
    folder: str
    launched_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    exit_code: int | None
    #: How it ended, in a sentence.
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One trained artifact of a model."""

    id: str
    model: str
    #: Serial number within the model, from 1.
    number: int
    state: str
    #: The run and job that made it; None for an adopted version.
    run_id: str | None
    job_id: str | None
    candidate: str | None
    artifact: str
    artifact_digest: str | None
    metrics: Mapping[str, float]
    #: The rest of the result: champion_metrics, evaluation, data, code, slices, report.
    lineage: Mapping[str, Json]
    created_at: datetime
    promoted_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelState:
    """What the store knows of a model beside its configuration."""

    name: str
    champion_id: str | None
    #: Rises with every change of champion; promotions are a compare-and-set on it.
    epoch: int
    #: Automatic promotion is held (after a rollback) …
    promotion_held: bool = False
    #: … until this instant, or for None until a person resumes.
    held_until: datetime | None = None
    held_reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """A person's word that nothing is decided for a while."""

    #: "all", "model" or "policy".
    scope: str
    #: Empty for all; the model; `model/policy`.
    target: str
    actor: str
    reason: str
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """One attempt to make a version the champion."""

    id: str
    model: str
    version_id: str
    #: The champion at the time of asking; what is gone back to when a promoter gives up.
    previous_id: str | None
    run_id: str | None
    #: promoted, override, rollback or adopted.
    kind: str
    state: str
    cause: str
    #: The epoch it expects; another one means that somebody was faster.
    epoch: int
    actor: str
    reason: str
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One promoter's part of a promotion; several go in the order of `position`."""

    id: str
    promotion_id: str
    position: int
    promoter: str
    state: str
    cause: str
    #: What the promoter said when it was read back, or why it gave up.
    reason: str
    attempts: int
    due_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Notification:
    """A message to people, in the outbox."""

    id: str
    #: Name of the notifier that carries it.
    channel: str
    #: One of `KINDS` in `core/notices.py`: approval_required, promoted, rejected, failed, rolled_back, …
    kind: str
    model: str | None
    run_id: str | None
    title: str
    body: Mapping[str, Json]
    state: str
    cause: str
    attempts: int
    due_at: datetime
    created_at: datetime
    finished_at: datetime | None
    #: Why it is in this state, or what the last attempt at it came to.
    reason: str = ""
    #: What it is about beside a model, such as a source; messages that count something are told apart by it.
    topic: str | None = None
    #: The id of the first of those that are sent together with it; None until it is decided with which.
    group_id: str | None = None
    #: When that was decided.
    closed_at: datetime | None = None
    #: What is sent stands for these, the oldest first; empty when it stands for itself alone. No column.
    messages: Sequence[Notification] = ()
