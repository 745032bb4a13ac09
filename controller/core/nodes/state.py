"""Nodes about how things stand: the champion's age, no open episode, and what is expected and did not come."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from controller.core.chain import Facts, clock, from_micros, span, to_micros
from controller.core.episode import Episode
from controller.core.model import CONTROLLER_ORIGIN
from controller.core.nodes.finding import LATENESS, Finding, Moment, ended_since, micros, named, tamed
from controller.core.on import Absent, Leaf, MaxAge, NoEpisode, Place

#: Types of the controller's own episodes that say that a source cannot be relied upon.
SOURCE_TROUBLE = frozenset({"source.silent", "source.failing"})
#: An `absent` that is looked at so long after its time was not listened for at its time.
_PUNCTUAL = micros(timedelta(minutes=1))


def judge_age(place: Place, node: MaxAge, slot: dict[str, Any] | None, moment: Moment) -> Finding:
    """Say whether the champion is too old, and this was not acted upon yet.

    The slot keeps `v`, the version that it fired for; `f`, when; `w` when it only would have fired, because the policy observed.
    """
    champion = moment.facts.champion
    if champion is None:
        return Finding(
            place=place,
            kind="max_age",
            truth=None,
            text=f"champion older than {span(node.age)} (no champion yet)",
            waits_for="champion",
        )
    old_at = to_micros(champion.promoted_at) + micros(node.age)
    age = max(moment.now - to_micros(champion.promoted_at), 0)
    asked = f"champion older than {span(node.age)} (v{champion.number} is {span(timedelta(microseconds=age))} old"
    truth = moment.now >= old_at
    is_mine = slot is not None and slot.get("v") == champion.version_id and (moment.observes or "w" not in slot)
    mark = slot if is_mine else None
    wakes_at, waits_for, said = (None if truth else old_at), None, ""
    if mark is not None:
        ended = ended_since(moment, mark["f"])
        again_at = None if ended is None else ended + micros(node.again_after)
        if again_at is not None and moment.now >= again_at:
            mark = None
        else:
            truth, wakes_at, waits_for = False, again_at, "run" if again_at is None else None
            said = f", fired for it; again {span(node.again_after)} after that run ended"
    return Finding(
        place=place,
        kind="max_age",
        truth=truth,
        text=f"{asked}{said})",
        value=f"{span(timedelta(microseconds=age))}",
        needed=span(node.age),
        since=old_at if truth else None,
        wakes_at=wakes_at,
        waits_for=waits_for,
        slot=mark,
        fired={"v": champion.version_id, "f": moment.now} | ({"w": 1} if moment.observes else {}) if truth else mark,
    )


def judge_no_episode(place: Place, node: NoEpisode, moment: Moment) -> Finding:
    """Say whether no open episode fits."""
    open_ones = [each for each in moment.facts.open_episodes if fits_episode(node, each, moment.facts)]
    what = named(Leaf(source=node.source, type=node.type, subject=node.subject))
    if not open_ones:
        return Finding(place=place, kind="not", truth=True, text=f"no open {what}", value=0, needed=0)
    first = min(open_ones, key=lambda each: (each.opened_at, each.id))
    about = f" about {first.subject}" if first.subject else ""
    more = f" and {len(open_ones) - 1} more" if len(open_ones) > 1 else ""
    text = f"no open {what} ({first.type}{about} from {first.origin} since {clock(first.opened_at)}{more})"
    return Finding(
        place=place,
        kind="not",
        truth=False,
        is_blocked=True,
        text=text,
        value=len(open_ones),
        needed=0,
        since=to_micros(first.opened_at),
        waits_for="episode",
    )


def fits_episode(node: NoEpisode | Leaf, episode: Episode, facts: Facts) -> bool:
    """Say whether an episode is of this source, type and subject; a source that shares a `dedup_domain` is known by it."""
    return (
        (node.source is None or facts.domains.get(node.source, node.source) == episode.origin)
        and (node.type is None or node.type.matches(episode.type))
        and (node.subject is None or node.subject.matches(episode.subject))
    )


def judge_absent(place: Place, node: Absent, slot: dict[str, int] | None, moment: Moment) -> Finding:
    """Say whether what is expected did not come in time.

    The slot keeps `r`, from when it is waited for; `a` when that is a FIRE; `u` once its source was found in trouble after its time;
    `g`, before when nothing is concluded; `s` once it was seen to be absent at its time, which stays so while the policy holds;
    `f` after a FIRE, until it is expected anew.
    """
    kept = {name: tamed(value, moment.now) if name in "rgf" else value for name, value in (slot or {}).items()}
    if not kept and not moment.is_keyed and node.after is None and slot is None:
        kept = {"r": moment.now}
    kept, is_news = _hear(place, node, kept, moment)
    asked = f"{named(node.expect)} absent for {span(node.within)}"
    if node.after is not None:
        asked += f" after {named(node.after)}"
    if "r" not in kept:
        said = "waits for the first" if node.after is None else f"no {named(node.after)} to wait after"
        if "f" in kept:
            said = f"fired at {clock(from_micros(kept['f']))}, waits for the next"
        return Finding(
            place=place, kind="absent", truth=False, text=f"{asked} ({said})", is_news=is_news, slot=kept or None
        )
    length = node.again_after if "a" in kept and node.again_after is not None else node.within
    due = kept["r"] + micros(length)
    trouble = _trouble(node, moment.facts)
    truth: bool | None = False
    waits_for = None
    wakes_at: int | None = max(due, kept.get("g", 0))
    said = f"last {clock(from_micros(kept['r']))}"
    if moment.now >= due:
        if trouble:
            truth, wakes_at, waits_for = None, None, "episode"
            kept = {name: value for name, value in kept.items() if name != "g"} | {"u": 1}
            said += f", its source is in trouble: {trouble[0].type} since {clock(trouble[0].opened_at)}"
        else:
            is_late = "u" in kept or moment.now - due > _PUNCTUAL
            if is_late and not {"g", "s"} & set(kept):
                grace = min(node.within / 10, LATENESS)
                kept = {name: value for name, value in kept.items() if name != "u"} | {"g": moment.now + micros(grace)}
            ready_at = max(due, kept.get("g", 0))
            truth = moment.now >= ready_at
            wakes_at = None if truth else ready_at
            if truth:
                kept = kept | {"s": 1}
            else:
                said += f", was not listened for at its time, so it has until {clock(from_micros(ready_at))}"
    return Finding(
        place=place,
        kind="absent",
        truth=truth,
        is_blocked=bool(waits_for),
        text=f"{asked} ({said})",
        value=clock(from_micros(kept["r"])),
        needed=span(length),
        since=due if truth else None,
        wakes_at=wakes_at,
        waits_for=waits_for,
        slot=kept,
        fired=_after_fire(node, moment) if truth else kept,
        keeps=(kept["r"],) if node.after is not None and "a" not in kept else (),
        is_news=is_news,
    )


def _hear(place: Place, node: Absent, kept: dict[str, int], moment: Moment) -> tuple[dict[str, int], bool]:
    """Take in an event that was expected, or from when something is."""
    prefix = f"{place.path}.absent".lstrip(".")
    came, begins = f"{prefix}.expect" in moment.fits, f"{prefix}.after" in moment.fits
    is_news = False
    if came and moment.event_at >= kept.get("r", 0):
        kept = {"r": moment.event_at} if node.after is None else {}
    if begins and moment.event_at >= kept.get("r", 0):
        kept, is_news = {"r": moment.event_at}, True
    return kept, is_news


def _after_fire(node: Absent, moment: Moment) -> dict[str, int] | None:
    """Return what is kept after a FIRE: it waits until it is expected anew, unless it is to fire again."""
    if node.again_after is not None:
        return {"r": moment.now, "a": 1}
    # Without a key and without `after` it would begin by itself.
    return {"f": moment.now} if node.after is None and not moment.is_keyed else None


def _trouble(node: Absent, facts: Facts) -> Sequence[Episode]:
    """Return the open episodes that say that the source of what is expected cannot be relied upon; of any source, if it names none."""
    return [
        each
        for each in facts.open_episodes
        if each.origin == CONTROLLER_ORIGIN
        and each.type in SOURCE_TROUBLE
        and node.expect.source in (None, each.subject)
    ]
