"""A node about a value of many events: `metric`. A level: it stays true, fires once, and re-arms.

The window slides in event time in at most 60 buckets: at an instant *t* it sees (t - over, t], and lets go of a value up to a sixtieth of
`over` early, never late. `distinct` keeps the newest values up to the number that decides, `last` keeps one.
Being beyond the threshold is strict, clearing is inclusive. Sums are rounded to 12 digits, so that 0.1 + 0.2 is not above 0.3.

Between two looks time has passed, and with it values left the window: each such instant is gone through, so that a level that cleared in
between has re-armed, and `for` begins anew. What time will bring is found in the same way.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from controller.core.chain import clock, from_micros, span
from controller.core.conditions import Scope
from controller.core.model import Json
from controller.core.nodes.finding import (
    LATENESS_MICROS,
    Finding,
    Moment,
    ended_since,
    micros,
    named,
    number,
    tamed,
)
from controller.core.on import COUNTING, Leaf, Metric, Place
from controller.errors import ExpressionError

#: A window is at most so many buckets.
BUCKETS = 60
_HOUR = micros(timedelta(hours=1))
#: What the last name of a path may be for its `polarity` to speak of it.
_SCORES = frozenset({"score", "value", "p_value", "pvalue", "statistic", "drift_score"})
#: A bucket: its number, how many values, and their sum, least or greatest.
_Bucket = tuple[int, int, float]


@dataclass(slots=True)
class _Memory:
    """What a metric keeps, taken apart."""

    buckets: list[_Bucket] = field(default_factory=list)
    #: distinct: digest of a value and when it came last, the newest last; last: the value itself.
    values: list[tuple[Any, int]] = field(default_factory=list)
    #: Since when it is beyond the threshold, by our clock.
    since: int | None = None
    #: When the policy fired while it was true; None once it re-armed.
    fired: int | None = None
    #: Whether it only would have fired, because the policy observed.
    observed: bool = False
    #: From when it was listened.
    listening: int | None = None
    #: When the last value was heard, by our clock.
    heard: int | None = None
    #: Event time of the event that took it beyond.
    crossing: int | None = None


def judge_metric(place: Place, leaf: Leaf, slot: dict[str, Any] | None, moment: Moment) -> Finding:
    """Say whether the value is beyond the threshold, for long enough, and was not acted upon yet."""
    metric = leaf.metric
    assert metric is not None  # noqa: S101 - the caller asks only of leaves that have one
    memory = _read(slot, metric, moment.now)
    if memory.listening is None:
        memory.listening = moment.at
    if memory.observed and not moment.observes:
        memory.fired = None
    _pass_time(memory, metric, moment)
    was_beyond = memory.since is not None
    heard = place.path in moment.fits and moment.event is not None
    if heard:
        _take(memory, metric, _value(metric, moment.scope), moment)
    if memory.fired is not None and _again_at(memory, metric, moment, default=math.inf) <= moment.now:
        memory.fired = None
    known, value, count = _look(memory, metric, moment.at, moment.now)
    _step(memory, metric, value if known else None, moment.now)
    if memory.since is None:
        memory.crossing = None
    elif not was_beyond and heard:
        memory.crossing = moment.event_at
    lasting = 0 if metric.lasting is None else micros(metric.lasting)
    beyond = memory.since is not None
    truth: bool | None = None
    if known:
        truth = beyond and memory.fired is None and moment.now >= (memory.since or 0) + lasting
    wakes_at, waits_for = (None, None) if truth else _forecast(memory, metric, moment)
    kept = _write(memory, metric)
    return Finding(
        place=place,
        kind="metric",
        truth=truth,
        text=_text(leaf, metric, memory, moment, known=known, value=value, count=count),
        value=None if value is None else round(value, 12),
        needed=f"{'above' if metric.above is not None else 'below'} {number(metric.threshold)}",
        since=memory.since,
        wakes_at=wakes_at,
        waits_for=waits_for,
        slot=kept,
        fired=_write(_after_fire(memory, moment), metric) if truth else kept,
        over_at=_over_at(memory, metric, moment),
        keeps=() if memory.crossing is None else (memory.crossing,),
        is_news=heard and not was_beyond and beyond,
    )


# ----------------------------------------------------------------------------------------------------- one value


def _value(metric: Metric, scope: Scope) -> Json:
    """Return what an event brings; raises `ExpressionError` for what cannot be meant."""
    if metric.value is None:
        return 1.0
    value = metric.value.evaluate(scope)
    if metric.agg == "distinct":
        if value is None or isinstance(value, list | dict):
            raise ExpressionError(f"value: {metric.value.source!r} gave {value!r}, which is no plain value")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        shown = repr(value)
        raise ExpressionError(f"value: {metric.value.source!r} gave {shown[:80]}, which is no number")
    _check_polarity(metric, scope)
    return float(value)


def _check_polarity(metric: Metric, scope: Scope) -> None:
    """Refuse to compare a p-value as a distance, when the data tell which it is."""
    *steps, last = metric.value.source.split(".") if metric.value is not None else [""]
    if last not in _SCORES:
        return
    found: Json = scope.values
    for step in steps:
        found = found.get(step) if isinstance(found, dict) else None
    polarity = found.get("polarity") if isinstance(found, dict) else None
    asked = "above" if metric.above is not None else "below"
    if polarity in ("above", "below") and polarity != asked:
        what = "a p-value, small when it drifts" if polarity == "below" else "a distance, large when it drifts"
        raise ExpressionError(
            f"value: {'.'.join([*steps, last])!r} is {what} (its polarity says {polarity!r}), and is asked to be {asked}"
        )


# ------------------------------------------------------------------------------------------------------ the window


def _width(metric: Metric) -> int:
    return -(-micros(metric.over) // BUCKETS) if metric.over is not None else 1


def _take(memory: _Memory, metric: Metric, value: Json, moment: Moment) -> None:
    """Put a value into the window; one that came too late for it is not."""
    at = moment.event_at
    memory.heard = moment.now
    if metric.agg == "last":
        if not memory.values or at >= memory.values[-1][1]:
            memory.values = [(value, at)]
        return
    if metric.agg == "distinct":
        text = json.dumps(value, sort_keys=True, ensure_ascii=False)
        digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        at = max([at, *(when for known, when in memory.values if known == digest)])
        kept = [entry for entry in memory.values if entry[0] != digest]
        memory.values = sorted([*kept, (digest, at)], key=lambda entry: entry[1])[-_most_distinct(metric) :]
        return
    width = _width(metric)
    index = at // width
    if index <= max(moment.at // width, memory.buckets[-1][0] if memory.buckets else 0) - BUCKETS:
        return
    for position, (known, count, total) in enumerate(memory.buckets):
        if known == index:
            memory.buckets[position] = (index, count + 1, _join(metric, total, float(value)))
            break
    else:
        memory.buckets = sorted([*memory.buckets, (index, 1, float(value))])
    newest = memory.buckets[-1][0]
    memory.buckets = [bucket for bucket in memory.buckets if bucket[0] > newest - BUCKETS]


def _join(metric: Metric, total: float, value: float) -> float:
    if metric.agg == "min":
        return min(total, value)
    if metric.agg == "max":
        return max(total, value)
    return _rounded(total + value)


def _rounded(value: float) -> float:
    return float(f"{value:.12g}")


def _most_distinct(metric: Metric) -> int:
    """Return how many distinct values decide everything that is asked."""
    above = metric.above if metric.above is not None else metric.clears_at
    return max(math.floor(above) + 1, math.ceil(max(metric.threshold, metric.clears_at)), 1)


def _look(memory: _Memory, metric: Metric, at: int, now: int) -> tuple[bool, float | None, int]:
    """Return whether the value at an instant is known, the value, and of how many it is."""
    over = None if metric.over is None else micros(metric.over)
    if metric.agg in ("last", "distinct"):
        seen = [value for value, when in memory.values if over is None or when > at - over]
        count = len(seen)
        value = float(count) if metric.agg == "distinct" else seen[-1] if seen else None
    else:
        oldest = at // _width(metric) - BUCKETS
        inside = [bucket for bucket in memory.buckets if bucket[0] > oldest]
        count = sum(bucket[1] for bucket in inside)
        value = _aggregate(metric, inside, count)
    return _is_known(memory, metric, at, now, value=value, count=count), value, count


def _aggregate(metric: Metric, inside: list[_Bucket], count: int) -> float | None:
    if metric.agg in ("min", "max"):
        choose = min if metric.agg == "min" else max
        return choose((total for _, _, total in inside), default=None)
    total = _rounded(math.fsum(bucket[2] for bucket in inside))
    if metric.agg == "sum":
        return total
    if metric.agg == "rate":
        return _rounded(total * _HOUR / micros(metric.over)) if metric.over is not None else None
    return _rounded(total / count) if count else None


def _values_at(memory: _Memory, metric: Metric, instants: Sequence[int]) -> Iterator[float | None]:
    """Yield the value at each of some instants in order, None where it is not known; in one pass, however many there are."""
    if metric.agg in ("last", "distinct"):
        for at in instants:
            known, value, _ = _look(memory, metric, at, at)
            yield value if known else None
        return
    # What is left in the window, from the oldest bucket on.
    rest: list[tuple[int, float | None]] = [(0, None)]
    for _, count, total in reversed(memory.buckets):
        before, joined = rest[-1]
        rest.append((before + count, total if joined is None else _join(metric, joined, total)))
    rest.reverse()
    width, position = _width(metric), 0
    for at in instants:
        while position < len(memory.buckets) and memory.buckets[position][0] <= at // width - BUCKETS:
            position += 1
        count, left = rest[position]
        value = left
        if metric.agg not in ("min", "max"):
            value = _aggregate(metric, [] if left is None else [(0, count, left)], count)
        yield value if _is_known(memory, metric, at, at, value=value, count=count) else None


def _is_known(memory: _Memory, metric: Metric, at: int, now: int, *, value: float | None, count: int) -> bool:
    if value is None or count < metric.min_samples:
        return False
    if metric.stale_after is not None:
        heard = memory.heard if memory.heard is not None else memory.listening
        if heard is None or now >= heard + micros(metric.stale_after):
            return False
    # A window that was not listened to as a whole may lack what would fill it.
    partial = metric.agg in COUNTING and metric.below is not None and metric.over is not None
    return not (partial and at < (memory.listening or 0) + micros(metric.over or timedelta()))


# ------------------------------------------------------------------------------------------------ how time changes it


def _step(memory: _Memory, metric: Metric, value: float | None, at: int) -> None:
    """Go on to an instant with the value that holds from then; None for one that is not known."""
    if value is None:
        memory.since = None
        return
    beyond = value > metric.above if metric.above is not None else value < metric.threshold
    cleared = value <= metric.clears_at if metric.above is not None else value >= metric.clears_at
    if memory.fired is not None and cleared:
        memory.fired = None
    memory.since = (memory.since if memory.since is not None else at) if beyond else None


def _pass_time(memory: _Memory, metric: Metric, moment: Moment) -> None:
    """Go through what time changed since the last look: values that left the window, and silence."""
    if memory.since is None and memory.fired is None:
        return
    changes = [*_changes(memory, metric, after=moment.before, upto=moment.at)]
    for at, value in zip(changes, _values_at(memory, metric, changes), strict=True):
        _step(memory, metric, value, at)
    if (
        metric.stale_after is not None
        and memory.heard is not None
        and moment.now >= memory.heard + micros(metric.stale_after)
    ):
        memory.since = None


def _changes(memory: _Memory, metric: Metric, *, after: int, upto: float) -> Iterator[int]:
    """Yield the instants at which the window changes by itself, in order."""
    found: set[int] = set()
    if metric.over is not None:
        over = micros(metric.over)
        if metric.agg in ("last", "distinct"):
            found |= {when + over for _, when in memory.values}
        else:
            width = _width(metric)
            found |= {(bucket[0] + BUCKETS) * width for bucket in memory.buckets}
        if metric.agg in COUNTING and metric.below is not None and memory.listening is not None:
            found.add(memory.listening + over)
    yield from sorted(instant for instant in found if after < instant <= upto)


def _forecast(memory: _Memory, metric: Metric, moment: Moment) -> tuple[int | None, str | None]:
    """Return when time alone makes it true, if nothing comes until then; or what must end before."""
    lasting = 0 if metric.lasting is None else micros(metric.lasting)
    again_at = _again_at(memory, metric, moment, default=math.inf)
    waits_for = "run" if memory.fired is not None and again_at == math.inf else None
    is_pending = memory.since is not None and memory.fired is None
    if not is_pending and again_at == math.inf and not _may_rise(memory, metric):
        return None, waits_for
    ahead, cursor = replace(memory), moment.now + 1
    changes = [*_changes(memory, metric, after=moment.at, upto=math.inf)]
    if again_at != math.inf:
        changes = sorted({*changes, int(again_at)})
    stale_at = math.inf
    if metric.stale_after is not None and memory.heard is not None:
        stale_at = memory.heard + micros(metric.stale_after)
    for upto, value in zip([*changes, math.inf], [*_values_at(memory, metric, changes), None], strict=True):
        if ahead.since is not None and ahead.fired is None:
            true_at = max(ahead.since + lasting, cursor)
            if true_at < min(upto, stale_at):
                return true_at, None
        if upto >= stale_at or upto == math.inf:
            break
        at = int(upto)
        if at >= again_at:
            ahead.fired = None
        _step(ahead, metric, value, at)
        cursor = max(at, moment.now + 1)
    return None, waits_for


def _may_rise(memory: _Memory, metric: Metric) -> bool:
    """Say whether values that leave the window can take it beyond the threshold."""
    if metric.over is None or metric.agg == "last":
        return False
    if metric.agg in COUNTING:
        return metric.below is not None or any(bucket[2] < 0 for bucket in memory.buckets)
    count, total = 0, 0.0
    for position, (_, more, value) in enumerate(reversed(memory.buckets)):
        count += more
        total = value if position == 0 else _join(metric, total, value)
        left = total / count if metric.agg == "avg" else total
        if left > metric.above if metric.above is not None else left < metric.threshold:
            return True
    return False


def _after_fire(memory: _Memory, moment: Moment) -> _Memory:
    return replace(memory, fired=moment.now, observed=moment.observes, since=None, crossing=None)


def _again_at(memory: _Memory, metric: Metric, moment: Moment, *, default: float) -> float:
    ended = None if memory.fired is None else ended_since(moment, memory.fired)
    return default if ended is None else ended + micros(metric.again_after)


def _over_at(memory: _Memory, metric: Metric, moment: Moment) -> int | None:
    """Return from when nothing that it keeps matters; None for what matters until something else happens."""
    if metric.over is None or (metric.agg in COUNTING and metric.below is not None):
        return None
    newest = memory.listening or 0
    if memory.values:
        newest = memory.values[-1][1] + micros(metric.over)
    elif memory.buckets:
        newest = (memory.buckets[-1][0] + BUCKETS) * _width(metric)
    over_at = newest + LATENESS_MICROS
    if memory.fired is None:
        return over_at
    again_at = _again_at(memory, metric, moment, default=math.inf)
    return None if again_at == math.inf else max(over_at, int(again_at))


# -------------------------------------------------------------------------------------------------------- what is kept


def _read(slot: dict[str, Any] | None, metric: Metric, now: int) -> _Memory:
    if not slot:
        return _Memory()
    values = slot.get("v", [])
    instants = {name: None if name not in slot else tamed(slot[name], now) for name in "sfohx"}
    flat = slot.get("b", [])
    base = flat[0] if flat else 0
    width = _width(metric)
    buckets = [(base + flat[i], flat[i + 1], float(flat[i + 2])) for i in range(1, len(flat), 3)]
    if buckets and buckets[-1][0] > (now + LATENESS_MICROS) // width:
        buckets = [(min(index, now // width), count, total) for index, count, total in buckets]
    return _Memory(
        buckets=buckets,
        values=[(values[i], tamed(values[i + 1], now)) for i in range(0, len(values), 2)],
        since=instants["s"],
        fired=instants["f"],
        observed="w" in slot,
        listening=instants["o"],
        heard=instants["h"],
        crossing=instants["x"],
    )


def _write(memory: _Memory, metric: Metric) -> dict[str, Any]:
    """Return it as the state keeps it: flat, because brackets and long numbers are most of what there is to store."""
    slot: dict[str, Any] = {}
    if memory.buckets:
        base = memory.buckets[0][0]
        slot["b"] = [base, *(n for index, count, total in memory.buckets for n in (index - base, count, _short(total)))]
    if memory.values:
        slot["v"] = [part for entry in memory.values for part in entry]
    instants = {"s": memory.since, "f": memory.fired, "x": memory.crossing}
    if metric.agg in COUNTING and metric.below is not None:
        instants["o"] = memory.listening
    if metric.stale_after is not None:
        instants["h"] = memory.heard
    if memory.fired is not None and memory.observed:
        slot["w"] = 1
    return slot | {name: at for name, at in instants.items() if at is not None}


def newest_value(slot: dict[str, Any], metric: Metric, now: int) -> int | None:
    """Return no later than when the newest value that is kept happened, to a sixtieth of the window; None when none is."""
    memory = _read(slot, metric, now)
    if memory.buckets:
        return memory.buckets[-1][0] * _width(metric)
    return memory.values[-1][1] if memory.values else None


def _short(total: float) -> float:
    """Write a whole number without its decimals."""
    return int(total) if total.is_integer() and abs(total) < 1e15 else total


def _text(
    leaf: Leaf, metric: Metric, memory: _Memory, moment: Moment, *, known: bool, value: float | None, count: int
) -> str:
    side = "above" if metric.above is not None else "below"
    over = "" if metric.over is None else f" over {span(metric.over)}"
    text = f"{metric.test or named(leaf)} {metric.agg}{over} {side} {number(metric.threshold)}"
    if not known:
        return f"{text} (unknown: {_why_unknown(memory, metric, moment, count)})"
    now = f"{number(value or 0.0)} now"
    if memory.fired is not None:
        at = "most" if metric.above is not None else "least"
        return (
            f"{text} ({now}; disarmed since it fired {clock(from_micros(memory.fired))}: "
            f"until it is at {at} {number(metric.clears_at)}, or {span(metric.again_after)} after that run ended)"
        )
    if memory.since is not None and metric.lasting is not None:
        lasted = timedelta(microseconds=max(moment.now - memory.since, 0))
        return f"{text} for {span(metric.lasting)} ({now}, for {span(lasted)})"
    return f"{text} ({now})"


def _why_unknown(memory: _Memory, metric: Metric, moment: Moment, count: int) -> str:
    if count < metric.min_samples:
        return f"{count} of {metric.min_samples} samples"
    heard = memory.heard if memory.heard is not None else memory.listening
    if metric.stale_after is not None and heard is not None and moment.now >= heard + micros(metric.stale_after):
        return f"no value for {span(timedelta(microseconds=moment.now - heard))}"
    if metric.over is not None and metric.agg in COUNTING and memory.listening is not None:
        listened = timedelta(microseconds=max(moment.at - memory.listening, 0))
        return f"listened for {span(listened)} of {span(metric.over)}"
    return "no value yet"
