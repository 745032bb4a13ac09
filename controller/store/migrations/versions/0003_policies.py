"""What the language of policies needs of runs: order, cost, the length of the cause chain, and whether they helped."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this schema from the one before."""
    _policy_states()
    _runs()
    _causes()
    _breakers()
    _versions()
    _watches()
    _notifications()
    _order()


def _order() -> None:
    """Say of each change and act which decision came before it, so that a replay keeps their order."""
    op.add_column("history", sa.Column("after_seq", sa.BigInteger(), nullable=True))
    op.add_column("act", sa.Column("after_seq", sa.BigInteger(), nullable=True))


def _runs() -> None:
    with op.batch_alter_table("run") as run:
        run.add_column(sa.Column("priority", sa.BigInteger(), nullable=False, server_default="0"))
        run.add_column(sa.Column("not_before", sa.BigInteger(), nullable=True))
        run.add_column(sa.Column("cost", sa.Double(), nullable=False, server_default="1"))
        run.add_column(sa.Column("depth", sa.BigInteger(), nullable=False, server_default="0"))
        run.add_column(sa.Column("outcome", sa.Text(), nullable=True))
        run.add_column(sa.Column("outcome_reason", sa.Text(), nullable=False, server_default=""))
        run.create_check_constraint(
            op.f("ck_run_legal_outcome"), "outcome IN ('CURED', 'NOT_CURED', 'WORSE', 'UNKNOWN')"
        )
    op.create_index("ix_run_model_decided_at", "run", ["model", "decided_at"])
    op.create_index("ix_run_decided_at", "run", ["decided_at"])


def _causes() -> None:
    """Say of each cause which run emitted it, so that the loop guard knows the chain."""
    op.add_column("held_cause", sa.Column("emitted_by", sa.Text(), nullable=True))
    op.add_column("run_cause", sa.Column("emitted_by", sa.Text(), nullable=True))


def _breakers() -> None:
    op.create_table(
        "breaker",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("opened_by", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("model", "policy", "key", "opened_by", name=op.f("pk_breaker")),
    )


def _versions() -> None:
    """Find the versions of a policy, and what a model holds, without reading those of all."""
    op.create_index("ix_policy_version_model_policy", "policy_version", ["model", "policy"])
    op.create_index(
        "ix_policy_state_held",
        "policy_state",
        ["model", "policy"],
        sqlite_where=sa.text("stage IS NOT NULL"),
        postgresql_where=sa.text("stage IS NOT NULL"),
    )


def _notifications() -> None:
    """Let a dead message be sent again, several be sent as one, and one be skipped."""
    old = ("ck_notification_legal_state", "ck_notification_finished_when_final")
    with op.batch_alter_table("notification") as notification:
        for name in old:
            notification.drop_constraint(op.f(name), type_="check")
        notification.add_column(sa.Column("reason", sa.Text(), nullable=False, server_default=""))
        notification.add_column(sa.Column("topic", sa.Text(), nullable=True))
        notification.add_column(sa.Column("group_id", sa.Text(), nullable=True))
        notification.add_column(sa.Column("closed_at", sa.BigInteger(), nullable=True))
    # A dead message is not final any more.
    op.execute("UPDATE notification SET finished_at = NULL WHERE state = 'DEAD'")
    op.execute("UPDATE notification SET group_id = id, closed_at = created_at WHERE state <> 'PENDING'")
    with op.batch_alter_table("notification") as notification:
        notification.create_check_constraint(op.f(old[0]), "state IN ('PENDING', 'SENT', 'DEAD', 'SKIPPED')")
        notification.create_check_constraint(op.f(old[1]), "(state IN ('SENT', 'SKIPPED')) = (finished_at IS NOT NULL)")
    op.create_index("ix_notification_group_id", "notification", ["group_id"], unique=False)
    op.create_index("ix_notification_told", "notification", ["channel", "kind", "model", "closed_at"], unique=False)


def _watches() -> None:
    op.create_table(
        "watch",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("promotion_id", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("signal", sa.Text(), nullable=False),
        sa.Column("rolls_back", sa.Boolean(), nullable=False),
        sa.Column("needed", sa.BigInteger(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("broken", sa.BigInteger(), nullable=False),
        sa.Column("broken_reason", sa.Text(), nullable=False),
        sa.Column("came_back", sa.Text(), nullable=True),
        sa.Column("look_at", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("rollback_id", sa.Text(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('OPEN', 'CURED', 'NOT_CURED', 'WORSE', 'UNKNOWN')", name=op.f("ck_watch_legal_state")
        ),
        sa.CheckConstraint(
            "(state IN ('CURED', 'NOT_CURED', 'WORSE', 'UNKNOWN')) = (finished_at IS NOT NULL)",
            name=op.f("ck_watch_finished_when_final"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_watch")),
        sa.UniqueConstraint("run_id", name=op.f("uq_watch_run_id")),
    )
    op.create_index("ix_watch_rollback_id", "watch", ["rollback_id"], unique=False)
    op.create_index(
        "ix_watch_open",
        "watch",
        ["look_at"],
        unique=False,
        sqlite_where=sa.text("state = 'OPEN'"),
        postgresql_where=sa.text("state = 'OPEN'"),
    )


def _policy_states() -> None:
    """Find what waits for something at once, also among the states of many keys."""
    op.create_index(
        "ix_policy_state_waits_for",
        "policy_state",
        ["waits_for"],
        unique=False,
        sqlite_where=sa.text("waits_for IS NOT NULL"),
        postgresql_where=sa.text("waits_for IS NOT NULL"),
    )
