"""What people are told of, and how several messages become one.

The outbox (`engine/outbox.py`) asks this module what may wait and what is sent; it computes only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from controller.core.model import Json, Notification

#: Every kind of message, and what it says; `only` of a channel names some of these.
KINDS: Mapping[str, str] = {
    "approval_required": "a person must decide about a promotion",
    "promoted": "a version became the champion",
    "rejected": "a challenger did not pass the gate",
    "failed": "a retraining or a promotion failed",
    "timed_out": "a retraining took too long",
    "unknown": "nobody knows whether a job was started",
    "rolled_back": "the previous champion serves again",
    "held": "a promotion waits",
    "breaker_open": "a policy was stopped because its retrainings did not help",
    "not_cured": "a retraining did not cure the signal that asked for it",
    "watch_ended": "what the watch after a promotion came to",
    "source_silent": "a source is not heard any more, or is heard again",
    "dead_letters": "something came in that could not be understood or decided",
    "test": "somebody tries a channel",
}
#: These are told at once, each by itself: somebody must act.
URGENT = frozenset({"approval_required", "breaker_open", "test"})
#: So many messages become one; those beyond wait for the next.
MOST = 200
#: A group says in its title what it is about, of so many characters at most.
_LONGEST_TITLE = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundling:
    """How messages of one channel, kind and model come together."""

    #: The first one waits so long for others.
    wait: timedelta
    #: After one was sent, the next ones are sent together when this has passed.
    repeat: timedelta


def ready_at(grouping: Bundling | None, kind: str, *, first: datetime, told: datetime | None) -> datetime | None:
    """Return when messages that wait are sent; None at once, each by itself.

    `first` is when the oldest of them was written, `told` when the last of their kind and model was closed for sending.
    """
    if not is_grouped(grouping, kind) or grouping is None:
        return None
    waited = first + grouping.wait
    return waited if told is None else max(waited, told + grouping.repeat)


def is_grouped(grouping: Bundling | None, kind: str) -> bool:
    """Say whether messages of this kind are sent together."""
    return grouping is not None and kind not in URGENT and bool(grouping.wait or grouping.repeat)


def gathered(messages: Sequence[Notification]) -> Notification:
    """Return the one message that stands for these, of one channel, kind and model, the oldest first.

    Its id is that of the first, whatever happens in between.
    """
    first = messages[0]
    if len(messages) == 1:
        return first
    titles = dict.fromkeys(message.title for message in messages)
    runs = {message.run_id for message in messages}
    about = first.title if len(titles) == 1 else _in_general(first)
    return replace(
        first,
        title=f"{len(messages)} × {about}"[:_LONGEST_TITLE],
        run_id=first.run_id if len(runs) == 1 else None,
        body=first.body if all(message.body == first.body for message in messages) else {},
        messages=tuple(messages),
    )


def _in_general(message: Notification) -> str:
    kind = message.kind.replace("_", " ")
    return kind if message.model is None else f"{message.model}: {kind}"


def as_json(message: Notification) -> dict[str, Json]:
    """Return a message as programs are given it: on standard input, in the body of a webhook, in a template."""
    every = message.messages or (message,)
    return {
        "id": message.id,
        "channel": message.channel,
        "kind": message.kind,
        "model": message.model,
        "run_id": message.run_id,
        "title": message.title,
        "body": dict(message.body),
        "created_at": _written(message.created_at),
        "count": len(every),
        "messages": [
            {
                "id": each.id,
                "title": each.title,
                "run_id": each.run_id,
                "body": dict(each.body),
                "created_at": _written(each.created_at),
            }
            for each in every
        ],
    }


def _written(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
