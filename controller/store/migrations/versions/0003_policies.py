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
    _runs()


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
