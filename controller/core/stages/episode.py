"""Is it news? An alert is a level: repeats while it fires are one episode, and `resolved` ends it.

Only the event that opened an episode is news.
Which one that was is a fact that does not change, so that the same question asked later has the same answer.
`resolved` never passes, whatever the policy's `when`: it lets go of what is still held (`episode_resolved` in `decide.py`).
An event without the mark is an edge, and this stage leaves no line in its explanation.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from controller.core.chain import Answer, Question, Stage, clock, passed, skipped, span
from controller.core.episode import Episode, Mark, is_marked, read_mark
from controller.core.model import Event


def ask(question: Question) -> Answer | None:
    """Pass when the event opened its episode; a mark that cannot be read raises, and becomes an ERROR decision."""
    event = question.event
    if event is None or not is_marked(event.extensions):
        return None
    mark, known = read_mark(event.extensions), question.facts.episode
    answer = _judge(event, mark, known)
    opener = None if known is None else known.event_id
    return replace(answer, facts={"episode": mark.key, "state": mark.state, "opened_by": opener})


def _judge(event: Event, mark: Mark, known: Episode | None) -> Answer:
    if mark.state == "resolved":
        if known is None or known.event_id is None:
            return skipped("resolved, though it was never seen firing")
        return skipped(f"resolved: what {known.event_id} opened, firing since {clock(known.opened_at)}, is over")
    if known is None or known.event_id == event.id:
        return passed(f"news: the episode opened ({mark.remark})" if mark.remark else "news: the episode opened")
    return skipped(f"not news: {_so_far(known)}")


def _so_far(known: Episode) -> str:
    """Say what was known of an episode before a repeat of it came."""
    if known.event_id is None:
        return f"it was resolved at {clock(known.finished_at or known.seen_at)}, before it was seen firing"
    since = f"firing since {clock(known.opened_at)}, event {known.event_id}"
    if known.state == "RESOLVED" and known.finished_at is not None:
        return f"{since}, resolved at {clock(known.finished_at)}"
    if known.state == "EXPIRED" and known.finished_at is not None:
        patience = span(timedelta(seconds=known.expires_after_seconds))
        return f"{since}, given up at {clock(known.finished_at)} after {patience} without a sign of life"
    return since


STAGE = Stage(name="episode", ask=ask)
