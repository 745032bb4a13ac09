"""The tables, the same on SQLite and PostgreSQL.

What must never happen is refused here: states outside the table of `core/states.py`, a final state without its finish time,
two events of one identity, two runs of one decision, two attempts of one number.
Changes go through a migration (`migrations/`); a test proves that migrating from nothing gives exactly what is defined here.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from controller.core import states
from controller.core.model import OUTCOMES
from controller.store.columns import finished_when_final as _finished_when_final
from controller.store.columns import id_column as _id
from controller.store.columns import instant_column as _at
from controller.store.columns import json_column as _json
from controller.store.columns import legal_states as _legal_states
from controller.store.columns import metadata as metadata  # what migrations and tests build from
from controller.store.columns import text_column as _text
from controller.store.columns import whole_column as _whole
from controller.store.columns import words as _words
from controller.store.schema_upkeep import leader as leader
from controller.store.schema_upkeep import pruned as pruned
from controller.store.schema_upkeep import replica as replica
from controller.store.schema_upkeep import seal as seal

#: Everything that came in. `identity` is a 64-bit digest of (origin or its dedup domain, source, source_id), kept narrow
#: because senders' ids are often random; `intake.py` tells a duplicate from a collision by comparing the text.
event = sa.Table(
    "event",
    metadata,
    _id(),
    _whole("identity"),
    _text("origin"),
    _text("source"),
    _text("source_id"),
    _text("type"),
    _text("subject", null=True),
    _at("time"),
    _at("received_at"),
    _json("data", null=True),
    _json("extensions"),
    _text("state"),
    _whole("decided_seq", null=True),
    _at("decided_at", null=True),
    _text("error", null=True),
    #: When its data were let go of, because nobody needs them any longer; None while they are here, and if there never were any.
    _at("pruned_at", null=True),
    _legal_states(states.EVENT),
    sa.Index("uq_event_identity", "identity", unique=True),
    sa.Index(
        "ix_event_pending",
        "id",
        sqlite_where=sa.text("state = 'PENDING'"),
        postgresql_where=sa.text("state = 'PENDING'"),
    ),
    sa.Index(
        "ix_event_dead",
        "id",
        sqlite_where=sa.text("state = 'DEAD'"),
        postgresql_where=sa.text("state = 'DEAD'"),
    ),
    sa.Index(
        "ix_event_given_up",
        "id",
        sqlite_where=sa.text("state = 'PROCESSED' AND error IS NOT NULL"),
        postgresql_where=sa.text("state = 'PROCESSED' AND error IS NOT NULL"),
    ),
)

#: What each source remembers: a file's fingerprint and generation, a schedule's last instant.
ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    # Compared byte by byte on both, so that a range of keys is a prefix whatever the database's language.
    sa.Column("key", sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql"), primary_key=True),
    _json("value"),
)

#: Alerts from firing to resolved, whatever their repeats. `origin` is the source's name or its dedup domain, in which the key is unique;
#: the key comes first in the index, because `why` looks for an event's episode by it alone. `expires_after` counts from `seen_at`.
episode = sa.Table(
    "episode",
    metadata,
    _id(),
    _text("origin"),
    _text("key"),
    _text("state"),
    _text("cause"),
    _text("type"),
    _text("subject", null=True),
    #: The event that opened it; None when it was resolved before it was seen firing.
    _text("event_id", null=True),
    _at("opened_at"),
    _at("seen_at"),
    _at("expires_at", null=True),
    _whole("expires_after_seconds"),
    _at("finished_at", null=True),
    _legal_states(states.EPISODE),
    _finished_when_final(states.EPISODE),
    sa.UniqueConstraint("key", "origin"),
    sa.Index(
        "ix_episode_open",
        "expires_at",
        sqlite_where=sa.text("state = 'OPEN'"),
        postgresql_where=sa.text("state = 'OPEN'"),
    ),
)

#: What came in and could not be understood, as it came. `identity` is a digest of (origin, place), as an event's is;
#: `error` says why it was not understood, `reason` why it is in its present state. The body goes when it is no longer DEAD.
dead_letter = sa.Table(
    "dead_letter",
    metadata,
    _id(),
    _whole("identity"),
    _text("origin"),
    _text("place"),
    _text("state"),
    _text("cause"),
    _text("error"),
    _text("reason"),
    sa.Column("body", sa.LargeBinary, nullable=True),
    _whole("size"),
    _json("meta"),
    _at("received_at"),
    _at("finished_at", null=True),
    _legal_states(states.DEAD_LETTER),
    _finished_when_final(states.DEAD_LETTER),
    sa.Index("uq_dead_letter_identity", "identity", unique=True),
    sa.Index(
        "ix_dead_letter_dead",
        "origin",
        "id",
        sqlite_where=sa.text("state = 'DEAD'"),
        postgresql_where=sa.text("state = 'DEAD'"),
    ),
)

#: How many dead letters of each source are DEAD, and the bytes of their bodies: kept with every change, because the quota asks at each one.
dead_letter_total = sa.Table(
    "dead_letter_total",
    metadata,
    _id("source"),
    _whole("standing"),
    _whole("bytes"),
    #: How many the quota dropped, ever, and when it last did.
    _whole("overflowed"),
    _at("overflowed_at", null=True),
)

#: How each source has been: counts, the last event, and the instants of the latest arrivals, from which its rhythm is read.
source_stat = sa.Table(
    "source_stat",
    metadata,
    _id("source"),
    _whole("stored"),
    _whole("duplicates"),
    _whole("dead"),
    _whole("refused"),
    _text("last_event_id", null=True),
    _at("last_at", null=True),
    _json("arrivals"),
    _at("silent_since", null=True),
    _at("since"),
    _at("updated_at"),
    sa.Column("quiet_seconds", sa.Float, nullable=True),
)

#: Every configuration that was ever active, in its normal form; runs and `why` need old ones.
config_version = sa.Table(
    "config_version",
    metadata,
    _id("version"),
    _json("body"),
    _at("activated_at"),
    _text("actor"),
    #: Since when it counts among those of several replicas (`core/replica.py`); null: since it was activated.
    _at("counts_from", null=True),
)

#: Every version of every policy that decided something.
policy_version = sa.Table(
    "policy_version",
    metadata,
    _id("version"),
    _text("model"),
    _text("policy"),
    _text("config_version"),
    _at("activated_at"),
    sa.Index("ix_policy_version_model_policy", "model", "policy"),
)

#: What a policy remembers for a key; see `PolicyState`.
policy_state = sa.Table(
    "policy_state",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("policy", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    _text("version"),
    _text("on_hash"),
    _json("slots"),
    _text("stage", null=True),
    _at("held_since", null=True),
    _whole("held_count"),
    _at("due_at", null=True),
    _text("waits_for", null=True),
    _at("updated_at"),
    sa.Index(
        "ix_policy_state_held",
        "model",
        "policy",
        sqlite_where=sa.text("stage IS NOT NULL"),
        postgresql_where=sa.text("stage IS NOT NULL"),
    ),
    sa.Index(
        "ix_policy_state_due_at",
        "due_at",
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    ),
    sa.Index(
        "ix_policy_state_waits_for",
        "waits_for",
        sqlite_where=sa.text("waits_for IS NOT NULL"),
        postgresql_where=sa.text("waits_for IS NOT NULL"),
    ),
)

#: The causes a policy has collected for a key and not yet handed to a run.
held_cause = sa.Table(
    "held_cause",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("policy", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("event_id", sa.Text, primary_key=True),
    _text("type"),
    _text("origin"),
    _text("subject", null=True),
    _at("time"),
    _text("emitted_by", null=True),
    sa.Index("ix_held_cause_event_id", "event_id"),
)

#: What policies concluded; written once.
decision = sa.Table(
    "decision",
    metadata,
    _id(),
    _whole("seq"),
    _text("kind"),
    _text("model"),
    _text("policy"),
    _text("policy_version"),
    _text("key"),
    _text("stage"),
    _text("reason"),
    _json("trace"),
    _at("until", null=True),
    _text("waits_for", null=True),
    _text("event_id", null=True),
    _text("run_id", null=True),
    _at("at"),
    _whole("term"),
    sa.CheckConstraint("kind IN ('FIRE', 'HOLD', 'SKIP', 'ERROR')", name="legal_kind"),
    sa.Index("ix_decision_event_id", "event_id"),
    sa.Index("ix_decision_run_id", "run_id"),
    sa.Index("ix_decision_model_policy_id", "model", "policy", "id"),
    sa.Index(
        "ix_decision_fired",
        "model",
        "policy",
        "key",
        "at",
        sqlite_where=sa.text("kind = 'FIRE'"),
        postgresql_where=sa.text("kind = 'FIRE'"),
    ),
)

#: Breakers that opened, each by the run that was one too many; written once, so that people are told once.
breaker = sa.Table(
    "breaker",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("policy", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("opened_by", sa.Text, primary_key=True),
    _at("opened_at"),
)

#: How often a policy's first stages let nothing through; too many for a row each.
tally = sa.Table(
    "tally",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("policy", sa.Text, primary_key=True),
    sa.Column("outcome", sa.Text, primary_key=True),
    _whole("count"),
)

model = sa.Table(
    "model",
    metadata,
    _id("name"),
    _text("champion_id", null=True),
    _whole("epoch"),
    sa.Column("promotion_held", sa.Boolean, nullable=False),
    _at("held_until", null=True),
    _text("held_reason"),
)

pause = sa.Table(
    "pause",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("target", sa.Text, primary_key=True),
    _text("actor"),
    _text("reason"),
    _at("at"),
    sa.CheckConstraint("scope IN ('all', 'model', 'policy')", name="legal_scope"),
)

run = sa.Table(
    "run",
    metadata,
    _id(),
    _text("model"),
    _text("policy"),
    _text("policy_version"),
    _text("config_version"),
    _text("key"),
    _text("state"),
    _text("cause"),
    _text("reason"),
    _text("decision_id"),
    _at("decided_at"),
    _json("params"),
    _text("actor", null=True),
    _text("traceparent", null=True),
    _at("started_at", null=True),
    _at("finished_at", null=True),
    _text("champion_id", null=True),
    _whole("epoch", null=True),
    _text("stop_as", null=True),
    _at("awaiting_since", null=True),
    sa.Column("priority", sa.BigInteger, nullable=False, server_default="0"),
    _at("not_before", null=True),
    sa.Column("cost", sa.Double, nullable=False, server_default="1"),
    sa.Column("depth", sa.BigInteger, nullable=False, server_default="0"),
    _text("outcome", null=True),
    sa.Column("outcome_reason", sa.Text, nullable=False, server_default=""),
    _legal_states(states.RUN),
    _finished_when_final(states.RUN),
    sa.CheckConstraint("stop_as IN ('CANCELLED', 'SUPERSEDED')", name="legal_stop"),
    sa.CheckConstraint(f"outcome IN ({_words(OUTCOMES)})", name="legal_outcome"),
    sa.UniqueConstraint("decision_id"),
    sa.Index("ix_run_model_id", "model", "id"),
    sa.Index("ix_run_model_started_at", "model", "started_at"),
    sa.Index("ix_run_model_state_finished_at", "model", "state", "finished_at"),
    sa.Index("ix_run_model_policy_finished_at", "model", "policy", "finished_at"),
    sa.Index("ix_run_model_decided_at", "model", "decided_at"),
    sa.Index("ix_run_decided_at", "decided_at"),
    sa.Index(
        "ix_run_open",
        "state",
        "id",
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    ),
)

#: Why a run exists: every event behind it, in the order in which they were taken in.
run_cause = sa.Table(
    "run_cause",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    _text("decision_id"),
    _text("event_id", null=True),
    _text("type"),
    _text("origin"),
    _text("subject", null=True),
    _at("time"),
    _text("emitted_by", null=True),
    sa.UniqueConstraint("run_id", "event_id"),
    sa.Index("ix_run_cause_event_id", "event_id"),
)

job = sa.Table(
    "job",
    metadata,
    _id(),
    _text("run_id"),
    _text("model"),
    _text("candidate"),
    _text("state"),
    _text("cause"),
    _text("reason"),
    _json("params"),
    _whole("attempt"),
    _at("due_at", null=True),
    _at("created_at"),
    _at("finished_at", null=True),
    _legal_states(states.JOB),
    _finished_when_final(states.JOB),
    sa.UniqueConstraint("run_id", "candidate"),
    sa.Index(
        "ix_job_open",
        "state",
        "id",
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    ),
)

attempt = sa.Table(
    "attempt",
    metadata,
    _id(),
    _text("job_id"),
    _whole("number"),
    _text("nonce"),
    _text("launcher"),
    _text("owner"),
    _json("handle", null=True),
    _text("folder"),
    _at("launched_at"),
    _at("started_at", null=True),
    _at("finished_at", null=True),
    _whole("exit_code", null=True),
    _text("reason"),
    sa.UniqueConstraint("job_id", "number"),
)

#: What a job reported; written once, when it is found valid.
result = sa.Table(
    "result",
    metadata,
    _id("job_id"),
    _json("document"),
    _text("digest"),
    _at("received_at"),
)

verdict = sa.Table(
    "verdict",
    metadata,
    _id("run_id"),
    _text("outcome"),
    _text("challenger", null=True),
    _text("reason"),
    _json("lines"),
    _text("champion_id", null=True),
    _at("at"),
    sa.CheckConstraint("outcome IN ('PASSED', 'FAILED', 'INCONCLUSIVE')", name="legal_outcome"),
)

version = sa.Table(
    "version",
    metadata,
    _id(),
    _text("model"),
    _whole("number"),
    _text("state"),
    _text("run_id", null=True),
    _text("job_id", null=True),
    _text("candidate", null=True),
    _text("artifact"),
    _text("artifact_digest", null=True),
    _json("metrics"),
    _json("lineage"),
    _at("created_at"),
    _at("promoted_at", null=True),
    sa.Column("artifact_kept", sa.Boolean, nullable=False),
    _legal_states(states.VERSION),
    sa.UniqueConstraint("model", "number"),
    sa.UniqueConstraint("job_id"),
    sa.Index(
        "uq_version_champion",
        "model",
        unique=True,
        sqlite_where=sa.text("state = 'CHAMPION'"),
        postgresql_where=sa.text("state = 'CHAMPION'"),
    ),
    sa.Index("ix_version_run_id", "run_id"),
)

promotion = sa.Table(
    "promotion",
    metadata,
    _id(),
    _text("model"),
    _text("version_id"),
    _text("previous_id", null=True),
    _text("run_id", null=True),
    _text("kind"),
    _text("state"),
    _text("cause"),
    _whole("epoch"),
    _text("actor"),
    _text("reason"),
    _at("created_at"),
    _at("finished_at", null=True),
    _legal_states(states.PROMOTION),
    _finished_when_final(states.PROMOTION),
    sa.CheckConstraint("kind IN ('promoted', 'override', 'rollback', 'adopted')", name="legal_kind"),
    sa.Index(
        "uq_promotion_pending",
        "model",
        unique=True,
        sqlite_where=sa.text("state = 'PENDING'"),
        postgresql_where=sa.text("state = 'PENDING'"),
    ),
    sa.Index("ix_promotion_model_id", "model", "id"),
    sa.Index("ix_promotion_run_id", "run_id"),
)

step = sa.Table(
    "step",
    metadata,
    _id(),
    _text("promotion_id"),
    _whole("position"),
    _text("promoter"),
    _text("state"),
    _text("cause"),
    _text("reason"),
    _whole("attempts"),
    _at("due_at", null=True),
    _legal_states(states.STEP),
    sa.UniqueConstraint("promotion_id", "position"),
)

notification = sa.Table(
    "notification",
    metadata,
    _id(),
    _text("channel"),
    _text("kind"),
    _text("model", null=True),
    _text("run_id", null=True),
    _text("title"),
    _json("body"),
    _text("state"),
    _text("cause"),
    _whole("attempts"),
    _at("due_at"),
    _at("created_at"),
    _at("finished_at", null=True),
    _text("reason", default=""),
    _text("topic", null=True),
    _text("group_id", null=True),
    _at("closed_at", null=True),
    _legal_states(states.NOTIFICATION),
    _finished_when_final(states.NOTIFICATION),
    sa.Index("ix_notification_group_id", "group_id"),
    # When something of a kind was told last.
    sa.Index("ix_notification_told", "channel", "kind", "model", "closed_at"),
    sa.Index(
        "ix_notification_dead",
        "id",
        sqlite_where=sa.text("state = 'DEAD'"),
        postgresql_where=sa.text("state = 'DEAD'"),
    ),
    sa.Index(
        "ix_notification_pending",
        "due_at",
        sqlite_where=sa.text("state = 'PENDING'"),
        postgresql_where=sa.text("state = 'PENDING'"),
    ),
)

#: What is looked at after a promotion, and what it came to; see `core/watch.py`. Written with the champion's change.
watch = sa.Table(
    "watch",
    metadata,
    _id(),
    _text("model"),
    _text("run_id"),
    _text("policy"),
    _text("key"),
    _text("promotion_id"),
    _text("version_id"),
    _whole("epoch"),
    _text("state"),
    _text("cause"),
    _text("reason"),
    _json("signal"),
    sa.Column("rolls_back", sa.Boolean, nullable=False),
    _whole("needed"),
    _whole("samples"),
    _json("evidence"),
    _whole("broken"),
    _text("broken_reason"),
    _text("came_back", null=True),
    _at("look_at"),
    _at("opened_at"),
    _at("until"),
    _text("rollback_id", null=True),
    _at("finished_at", null=True),
    _legal_states(states.WATCH),
    _finished_when_final(states.WATCH),
    sa.UniqueConstraint("run_id"),
    sa.Index("ix_watch_rollback_id", "rollback_id"),
    sa.Index(
        "ix_watch_open",
        "look_at",
        sqlite_where=sa.text("state = 'OPEN'"),
        postgresql_where=sa.text("state = 'OPEN'"),
    ),
)

#: Every change of state, in order; written with the change, never changed. Events have rows only for DEAD and replay.
history = sa.Table(
    "history",
    metadata,
    sa.Column(
        "seq",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
    ),
    _text("machine"),
    _text("entity"),
    _text("origin"),
    _text("target"),
    _text("cause"),
    _text("reason"),
    _text("actor"),
    _whole("term"),
    _at("at"),
    #: The last number in the order of deciding when it was written; a replay puts it behind that decision.
    _whole("after_seq", null=True),
    #: Of an act's row: the digest of the act, so that the chain covers acts too; see `core/seal.py`.
    _text("digest", null=True),
    sa.Index("ix_history_entity", "entity", "seq"),
)

#: What a person did: who, when, what and why. The client's key makes a repeated press the same press.
act = sa.Table(
    "act",
    metadata,
    _id(),
    _at("at"),
    _text("actor"),
    _text("verb"),
    _text("target"),
    _text("reason"),
    _json("details"),
    _text("idempotency_key", null=True),
    _text("request_digest"),
    _json("response"),
    #: As in `history`.
    _whole("after_seq", null=True),
    sa.UniqueConstraint("idempotency_key"),
    sa.Index("ix_act_target_id", "target", "id"),
)

#: Bearer tokens for the API over TCP; only a digest is kept.
token = sa.Table(
    "token",
    metadata,
    _id(),
    _text("name"),
    _text("digest"),
    _at("created_at"),
    _text("created_by"),
    _at("expires_at", null=True),
    _at("revoked_at", null=True),
    _text("revoked_by", null=True),
    sa.UniqueConstraint("name"),
    sa.UniqueConstraint("digest"),
)

#: The table of each state machine.
TABLES: dict[str, sa.Table] = {
    "event": event,
    "run": run,
    "job": job,
    "version": version,
    "promotion": promotion,
    "step": step,
    "notification": notification,
    "episode": episode,
    "watch": watch,
    "dead_letter": dead_letter,
}
