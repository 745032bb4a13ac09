"""Has it been quiet for long enough, or has it waited for long enough?

The trailing edge: each event starts the quiet time anew, and the last one is never lost.
By our own clock: quiet means that nothing was decided on, whatever times the events carry. Both edges are inclusive.
"""

from __future__ import annotations

from controller.core.chain import (
    Answer,
    Question,
    Stage,
    from_micros,
    hold_until,
    passed,
    span,
    to_micros,
)


def ask(question: Question) -> Answer | None:
    """Pass `quiet` after the last event, or `max_wait` after the first."""
    debounce, now = question.policy.debounce, question.now
    if debounce is None:
        return None
    slot = question.slot or {"first": to_micros(now), "last": to_micros(now)}
    if question.event is not None:
        slot = {"first": slot["first"], "last": to_micros(now)}
    first, last = from_micros(slot["first"]), from_micros(slot["last"])
    quiet_at = last + debounce.quiet
    if now >= quiet_at:
        return passed(f"quiet for {span(now - last)}, {span(debounce.quiet)} asked", slot=slot)
    if debounce.max_wait is None:
        return hold_until(quiet_at, f"quiet for {span(now - last)} of {span(debounce.quiet)}", slot=slot)
    patience_ends_at = first + debounce.max_wait
    if now >= patience_ends_at:
        return passed(
            f"not quiet, but waited {span(now - first)}, max_wait is {span(debounce.max_wait)}",
            slot=slot,
        )
    return hold_until(
        min(quiet_at, patience_ends_at),
        f"quiet for {span(now - last)} of {span(debounce.quiet)}, waiting {span(now - first)} of {span(debounce.max_wait)}",
        slot=slot,
    )


STAGE = Stage(name="debounce", ask=ask, concerns=lambda policy: policy.debounce is not None)
