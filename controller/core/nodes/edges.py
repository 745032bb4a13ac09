"""Nodes about events that came: a plain leaf, a count, a sequence.

A plain leaf is true for its own event only. A count is true while its window is: at an instant *t* it sees the events in (t - within, t],
so the older edge is exclusive. A sequence is true from its last step until the window that began with its first is over.
All three begin anew after a FIRE.
"""

from __future__ import annotations

from collections.abc import Sequence

from controller.core.chain import span
from controller.core.nodes.finding import LATENESS_MICROS, Finding, Moment, micros, named, tamed
from controller.core.on import InSequence, Leaf, Place


def judge_plain(place: Place, leaf: Leaf, moment: Moment) -> Finding:
    """Say whether it is the leaf's own event."""
    fits = place.path in moment.fits
    truth = fits or place.number in moment.latched
    text = f"{named(leaf)} came" if truth else f"{named(leaf)} to come"
    return Finding(place=place, kind="leaf", truth=truth, text=text, is_news=fits, is_edge=truth)


def slide(known: Sequence[int], at: int, *, count: int, within: int) -> tuple[list[int], bool]:
    """Return a window with an event in it, the newest `count` of what it sees, and whether that event came too late for it."""
    newest = max(at, known[-1]) if known else at
    window = sorted(
        [instant for instant in known if instant > newest - within] + ([at] if at > newest - within else [])
    )
    return window[-count:], at <= newest - within


def judge_count(place: Place, leaf: Leaf, slot: list[int] | None, moment: Moment) -> Finding:
    """Say whether `count` events are in the window."""
    within = micros(leaf.within) if leaf.within is not None else 0
    window = sorted(tamed(instant, moment.now) for instant in slot or ())
    newest = max([moment.at, *window])
    window = [instant for instant in window if instant > newest - within]
    is_news = False
    if place.path in moment.fits and moment.event_at > newest - within:
        was = window
        window, _ = slide(window, moment.event_at, count=leaf.count, within=within)
        is_news = window != was
    truth = len(window) >= leaf.count or place.number in moment.latched
    length = "" if leaf.within is None else span(leaf.within)
    text = f"{named(leaf)} {leaf.count} within {length} (has {len(window)})"
    return Finding(
        place=place,
        kind="count",
        truth=truth,
        text=text,
        value=len(window),
        needed=leaf.count,
        slot=window or None,
        over_at=window[-1] + within + LATENESS_MICROS if window else None,
        keeps=tuple(window),
        is_news=is_news,
        is_edge=truth,
    )


def judge_sequence(place: Place, node: InSequence, slot: list[list[int]] | None, moment: Moment) -> Finding:
    """Say whether the steps came in order, and how far they have come.

    For each step it keeps the way that leads to it and began last. A step that comes after the next one was seen is not put before it.
    """
    within = micros(node.within)
    ways = [[tamed(instant, moment.now) for instant in way] for way in slot or [[] for _ in node.steps]]
    prefix = f"{place.path}.sequence.steps".lstrip(".")
    is_news = False
    # From the last step to the first, so that one event is not two steps.
    for position in range(len(node.steps) - 1, -1, -1):
        if f"{prefix}[{position}]" in moment.fits:
            is_news |= _step(ways, position, moment.event_at, within)
    newest = max([moment.at, *(way[-1] for way in ways if way)])
    ways = [way if way and way[0] > newest - within else [] for way in ways]
    truth = bool(ways[-1]) or place.number in moment.latched
    done = max((position + 1 for position, way in enumerate(ways) if way), default=0)
    names = " → ".join(named(step) for step in node.steps)
    text = f"{names} within {span(node.within)} (step {done} of {len(node.steps)})"
    starts = [way[0] for way in ways if way]
    return Finding(
        place=place,
        kind="sequence",
        truth=truth,
        text=text,
        value=done,
        needed=len(node.steps),
        slot=ways if starts else None,
        over_at=max(starts) + within + LATENESS_MICROS if starts else None,
        keeps=tuple(sorted({instant for way in ways for instant in way})),
        is_news=is_news,
        is_edge=truth,
    )


def _step(ways: list[list[int]], position: int, at: int, within: int) -> bool:
    """Take a step, if it leads on; return whether it did."""
    if position == 0:
        way = [at]
    else:
        before = ways[position - 1]
        if not before or at < before[-1] or at - before[0] >= within:
            return False
        way = [*before, at]
    if ways[position] and ways[position][0] > way[0]:
        return False
    ways[position] = way
    return True
