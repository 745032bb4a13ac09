"""Several daemons on one database, the chain over history, and what retention let go of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this schema from the one before."""
    _lease()
    _replicas()
    _sources()
    _notifications()
    _seals()
    _pruned()


def _lease() -> None:
    op.add_column("leader", sa.Column("replica", sa.Text(), nullable=True))
    op.add_column("leader", sa.Column("expires_at", sa.BigInteger(), nullable=True))


def _replicas() -> None:
    op.create_table(
        "replica",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("program", sa.Text(), nullable=False),
        sa.Column("config_version", sa.Text(), nullable=False),
        sa.Column("config_at", sa.BigInteger(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replica")),
    )
    op.create_index("ix_replica_owner", "replica", ["owner"], unique=False)
    op.add_column("config_version", sa.Column("counts_from", sa.BigInteger(), nullable=True))


def _sources() -> None:
    op.add_column("source_stat", sa.Column("quiet_seconds", sa.Float(), nullable=True))


def _notifications() -> None:
    op.create_index(
        "ix_notification_dead",
        "notification",
        ["id"],
        unique=False,
        sqlite_where=sa.text("state = 'DEAD'"),
        postgresql_where=sa.text("state = 'DEAD'"),
    )


def _seals() -> None:
    op.add_column("history", sa.Column("digest", sa.Text(), nullable=True))
    op.create_table(
        "seal",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("marks", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_seal")),
    )


def _pruned() -> None:
    op.add_column("event", sa.Column("pruned_at", sa.BigInteger(), nullable=True))
    op.create_table(
        "pruned",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("row_count", sa.BigInteger(), nullable=False),
        sa.Column("cutoff", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", name=op.f("pk_pruned")),
    )
