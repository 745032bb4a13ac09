"""What every table is made of: the names of constraints, and the kinds of columns that both databases read alike."""

from __future__ import annotations

import sqlalchemy as sa

from controller.core import states
from controller.store.dialect import Instant, JsonText

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def text_column(name: str, *, null: bool = False, default: str | None = None) -> sa.Column[str]:
    """Return a column of text."""
    return sa.Column(name, sa.Text, nullable=null, server_default=default)


def id_column(name: str = "id") -> sa.Column[str]:
    """Return the column of the primary key."""
    return sa.Column(name, sa.Text, primary_key=True)


def whole_column(name: str, *, null: bool = False) -> sa.Column[int]:
    """Return a column of whole numbers."""
    return sa.Column(name, sa.BigInteger, nullable=null)


def instant_column(name: str, *, null: bool = False) -> sa.Column[object]:
    """Return a column of instants."""
    return sa.Column(name, Instant, nullable=null)


def json_column(name: str, *, null: bool = False) -> sa.Column[object]:
    """Return a column of JSON."""
    return sa.Column(name, JsonText, nullable=null)


def words(of: tuple[str, ...]) -> str:
    """Return words as SQL writes them in a list."""
    return ", ".join(f"'{word}'" for word in of)


def legal_states(machine: states.Machine) -> sa.CheckConstraint:
    """Return the constraint that a machine's rows are in its states."""
    return sa.CheckConstraint(f"state IN ({words(machine.states)})", name="legal_state")


def finished_when_final(machine: states.Machine) -> sa.CheckConstraint:
    """Return the constraint that a row has its finish time in a final state, and in no other."""
    return sa.CheckConstraint(
        f"(state IN ({words(machine.final)})) = (finished_at IS NOT NULL)",
        name="finished_when_final",
    )
