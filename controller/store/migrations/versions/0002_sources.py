"""Episodes, dead letters, and how each source has been."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this schema from the one before."""
    op.create_table(
        "dead_letter",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("identity", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("meta", sa.Text(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('DEAD', 'REPLAYED', 'DROPPED')", name=op.f("ck_dead_letter_legal_state")),
        sa.CheckConstraint(
            "(state IN ('REPLAYED', 'DROPPED')) = (finished_at IS NOT NULL)",
            name=op.f("ck_dead_letter_finished_when_final"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letter")),
    )
    op.create_index("uq_dead_letter_identity", "dead_letter", ["identity"], unique=True)
    op.create_index(
        "ix_dead_letter_dead",
        "dead_letter",
        ["origin", "id"],
        unique=False,
        sqlite_where=sa.text("state = 'DEAD'"),
        postgresql_where=sa.text("state = 'DEAD'"),
    )
    op.create_table(
        "dead_letter_total",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("standing", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("overflowed", sa.BigInteger(), nullable=False),
        sa.Column("overflowed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_dead_letter_total")),
    )
    op.create_index(
        "ix_event_given_up",
        "event",
        ["id"],
        unique=False,
        sqlite_where=sa.text("state = 'PROCESSED' AND error IS NOT NULL"),
        postgresql_where=sa.text("state = 'PROCESSED' AND error IS NOT NULL"),
    )
    op.create_table(
        "episode",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("event_id", sa.Text(), nullable=True),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_after_seconds", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('OPEN', 'RESOLVED', 'EXPIRED')", name=op.f("ck_episode_legal_state")),
        sa.CheckConstraint(
            "(state IN ('RESOLVED', 'EXPIRED')) = (finished_at IS NOT NULL)",
            name=op.f("ck_episode_finished_when_final"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_episode")),
        sa.UniqueConstraint("key", "origin", name=op.f("uq_episode_key_origin")),
    )
    op.create_index(
        "ix_episode_open",
        "episode",
        ["expires_at"],
        unique=False,
        sqlite_where=sa.text("state = 'OPEN'"),
        postgresql_where=sa.text("state = 'OPEN'"),
    )
    op.create_table(
        "source_stat",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("stored", sa.BigInteger(), nullable=False),
        sa.Column("duplicates", sa.BigInteger(), nullable=False),
        sa.Column("dead", sa.BigInteger(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.Column("last_event_id", sa.Text(), nullable=True),
        sa.Column("last_at", sa.BigInteger(), nullable=True),
        sa.Column("arrivals", sa.Text(), nullable=False),
        sa.Column("silent_since", sa.BigInteger(), nullable=True),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_source_stat")),
    )
    op.create_index("ix_held_cause_event_id", "held_cause", ["event_id"], unique=False)
