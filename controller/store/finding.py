"""What a person means who types an id, the end of one, a name, or an event's own id.

Ids are long and alike, so the last four characters are enough where they are unique among the newest rows.
An exact answer always wins over a guess; several guesses are never chosen between.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from controller.core import model as ids
from controller.errors import Conflict, NotFound
from controller.store import schema
from controller.store.remnants import hint_of, remnant

if TYPE_CHECKING:
    from controller.store.store import Transaction

#: The shortest end of an id that is looked for.
SHORTEST = 4
#: How many of the newest rows of a kind are looked at for the end of an id, or an event's own id.
NEWEST = 20_000
#: No id is longer; padded with the last letter of their alphabet, a beginning becomes an upper bound.
_LENGTH = 24

_KINDS: dict[str, tuple[str, sa.Table]] = {
    ids.RUN_ID: ("run", schema.run),
    ids.EVENT_ID: ("event", schema.event),
    ids.VERSION_ID: ("version", schema.version),
    ids.JOB_ID: ("job", schema.job),
    ids.PROMOTION_ID: ("promotion", schema.promotion),
    ids.DECISION_ID: ("decision", schema.decision),
}


class Found(NamedTuple):
    """What a text stands for."""

    #: run, event, version, job, promotion, decision, model or policy.
    kind: str
    #: Its id; a model's name, or `model/policy`.
    id: str


def find(tx: Transaction, text: str, *, models: Iterable[str], policies: Iterable[str]) -> Found:
    """Return what `text` stands for: an id, a model, `model/policy`, the beginning or end of an id, or an event's own id.

    `models` and `policies` (as `model/policy`) are those of the configuration, known or not to the database.
    Raises `NotFound` with what comes near, and `Conflict` when it stands for several things.
    """
    text = text.strip()
    names = _names(tx, models, policies)
    found = _exact(tx, text, names) or _guess(tx, text)
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"nothing is called {text!r}", hint=_near(tx, text, names))
    shown = ", ".join(f"{kind} {name}" for kind, name in found[:5])
    raise Conflict(f"{text!r} stands for several things: {shown}", hint="type more of the id")


def _names(tx: Transaction, models: Iterable[str], policies: Iterable[str]) -> dict[str, str]:
    """Return every known name with its kind."""
    version = schema.policy_version
    known = tx.execute(sa.select(version.c.model, version.c.policy).distinct()).all()
    names = {f"{row.model}/{row.policy}": "policy" for row in known} | dict.fromkeys(policies, "policy")
    stored = tx.execute(sa.select(schema.model.c.name)).scalars()
    return names | dict.fromkeys([*stored, *models], "model")


def _exact(tx: Transaction, text: str, names: dict[str, str]) -> list[Found]:
    if text in names:
        return [Found(names[text], text)]
    model, _, number = text.rpartition("/")
    if names.get(model) == "model" and number.removeprefix("v").isdecimal():
        version = tx.models.version_called(model, number)
        return [] if version is None else [Found("version", version.id)]
    kind, table = _KINDS.get(text.partition("-")[0], ("", schema.run))
    if kind and tx.execute(sa.select(table.c.id).where(table.c.id == text)).first() is not None:
        return [Found(kind, text)]
    if kind == "event" and remnant(tx, text) is not None:
        return [Found(kind, text)]
    return []


def _guess(tx: Transaction, text: str) -> list[Found]:
    """Return what the text may stand for; ids are lower case, events' own ids are as their producer wrote them."""
    found: dict[Found, None] = {}
    if len(text) >= SHORTEST:
        prefix = text.partition("-")[0]
        for kind_prefix, (kind, table) in _KINDS.items():
            if prefix == kind_prefix:
                found |= dict.fromkeys(_beginning(tx, kind, table, text))
            elif kind in ("run", "event", "version"):
                found |= dict.fromkeys(_ending(tx, kind, table, text.lower()))
    return list(found or dict.fromkeys(_own_id(tx, text)))


def _beginning(tx: Transaction, kind: str, table: sa.Table, text: str) -> list[Found]:
    statement = sa.select(table.c.id).where(table.c.id >= text, table.c.id <= text.ljust(_LENGTH, "z")).limit(6)
    return [Found(kind, name) for name in tx.execute(statement).scalars()]


def _ending(tx: Transaction, kind: str, table: sa.Table, text: str) -> list[Found]:
    newest = sa.select(table.c.id).order_by(table.c.id.desc()).limit(NEWEST)
    return [Found(kind, name) for name in tx.execute(newest).scalars() if name.endswith(text)]


def _own_id(tx: Transaction, text: str) -> list[Found]:
    event = schema.event
    newest = sa.select(event.c.id, event.c.source_id).order_by(event.c.id.desc()).limit(NEWEST)
    return [Found("event", row.id) for row in tx.execute(newest) if row.source_id == text]


def _near(tx: Transaction, text: str, names: dict[str, str]) -> str:
    recent = tx.execute(sa.select(schema.run.c.id).order_by(schema.run.c.id.desc()).limit(200)).scalars()
    near = difflib.get_close_matches(text, [*names, *recent], n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    if text.startswith(f"{ids.EVENT_ID}-") and (hint := hint_of(tx, text)):
        return hint
    if text.startswith(f"{ids.DEAD_LETTER_ID}-"):
        return f"of a dead letter no policy ever heard; see `retrainctl dead show {text}`"
    return "give a model, model/policy, an id, or at least its last four characters"
