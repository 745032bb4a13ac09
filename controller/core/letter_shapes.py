"""What people and programs are shown of dead letters: the JSON that the API answers and `retrainctl dead -o json` prints."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic reads these, and wants this one before Python 3.12

from controller.core.shapes import ActShape, HistoryShape

Json = Any
#: `raw`: bytes that a source did not understand; `event`: an event that could not be decided.
Kind = Literal["raw", "event"]
#: What is listed: those that stand, those that were read again or given up, or all.
Wanted = Literal["dead", "replayed", "dropped", "all"]


class LetterSummary(TypedDict):
    """A dead letter in one line."""

    id: str
    kind: Kind
    #: Name of the source it came to.
    source: str
    #: Where it stood in its source; of an event its own source and id.
    place: str
    #: The event's type; null for bytes.
    type: str | None
    state: str
    #: Why it is dead.
    error: str
    #: How many bytes came; of an event the length of its payload as JSON.
    size: int
    received_at: str
    finished_at: str | None


class LetterPage(TypedDict):
    """Dead letters, the newest first; `next` is the `before` of the page that follows."""

    items: list[LetterSummary]
    next: str | None


class LetterShape(LetterSummary):
    """Everything about a dead letter; what looks secret is masked."""

    cause: str
    #: Why it is in its present state.
    reason: str
    #: Whether all that came is still kept; only then it can be read again.
    whole: bool
    #: Bytes of the body that are kept.
    kept: int
    #: The body for people: JSON laid out, text, or a hex dump, and only its beginning; null when there is none (any more).
    body: str | None
    #: What its source noted beside the bytes: headers, key, content type; of an event its attributes and extensions.
    meta: dict[str, Json]
    acts: list[ActShape]
    history: list[HistoryShape]


class ReplayShape(TypedDict):
    """What replaying or dropping one dead letter came to."""

    id: str
    kind: Kind
    #: Its state now: DEAD when it still makes no sense.
    state: str
    #: Why it is (still) in this state.
    reason: str
    #: Our ids of the events that came of it.
    events: list[str]
    #: True when the same request was carried out before, under the same Idempotency-Key.
    duplicate: bool


class BulkShape(TypedDict):
    """What became of some of a source's dead letters; when `next` is not null, ask again with `after` and `until` from here."""

    #: How many were read again, or given up.
    done: int
    #: Those that stay dead, with the reason.
    failed: list[ReplayShape]
    #: The last one looked at; null when there are no more.
    next: str | None
    #: The newest there was at the first request: later ones are left alone.
    until: str | None
