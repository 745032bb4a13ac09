"""Finds policies that can never fire, or hardly as meant: conditions that exclude each other, waits that never end.

Every finding is a warning, because it may be meant, and names where the other half of the contradiction stands.
What this module does not do: compare policies with each other (`shadowed.py`), or guess how often an event will come from outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import combinations
from typing import Any

from controller.config.problems import Findings
from controller.config.problems import Path as Steps
from controller.config.records import Config, SourceSpec
from controller.core.calendar import Calendar
from controller.core.conditions import Expression, Pattern, Scope
from controller.core.duration import format_duration
from controller.core.on import Absent, AllOf, Leaf, MaxAge, Place, traits
from controller.core.policy import ModelSpec, Policy, QuietHours
from controller.core.schedule import WEEKDAYS, Crontab, parse_between, parse_crontab, parse_days
from controller.core.terms import Term, contradiction, read_terms
from controller.errors import ExpressionError

_DAY_MINUTES = 24 * 60
_WEEK_MINUTES = 7 * _DAY_MINUTES
#: When the clocks change, what is an hour apart on the wall may come at once.
_CLOCK_CHANGE = timedelta(hours=1)


def warn_of_dead_policies(config: Config, model: ModelSpec, policy: Policy, findings: Findings) -> None:
    """Note why a policy will never fire, each reason where it stands."""
    if policy.mode == "off":
        return
    judge = _Judge(config, model, policy, findings)
    for path, leaf in traits(policy.on).leaves:
        judge.look_at_leaf(path, leaf)
    for place in traits(policy.on).places:
        judge.look_at_node(place)
    judge.look_at_stages()


@dataclass(frozen=True, slots=True)
class _Rhythm:
    """How often a source emits, by itself."""

    #: Between two events at least, and at most; None when there is no telling.
    shortest: timedelta
    longest: timedelta | None
    #: What says so, for people.
    words: str
    #: Whether one instant brings one event; a probe may see several things at once.
    one_each: bool


class _Judge:
    """Looks at one policy."""

    def __init__(self, config: Config, model: ModelSpec, policy: Policy, findings: Findings) -> None:
        self._config = config
        self._model = model
        self._policy = policy
        self._findings = findings
        self._path: Steps = ("models", model.name, "policies", policy.name)

    # ---- leaves

    def look_at_leaf(self, path: str, leaf: Leaf) -> None:
        """Look for an event that fits it."""
        at: Steps = (*self._path, "on", *steps_of(path))
        self._look_at_patterns(at, leaf)
        if leaf.when is not None:
            self._look_at_when((*at, "when"), leaf, leaf.when)
        rhythm = self._rhythm(leaf)
        if rhythm is not None:
            self._look_at_window(at, leaf, rhythm)

    def _look_at_patterns(self, at: Steps, leaf: Leaf) -> None:
        source = self._source(leaf)
        if source is None:
            return
        emitted = _emitted_type(source)
        if leaf.type is not None and emitted is not None and not leaf.type.matches(emitted):
            self._findings.add(
                (*at, "type"),
                f"it can never match: source {source.name!r} does not emit {leaf.type.text!r}",
                f"it emits: {emitted}; see {self._source_at(source)}",
                severity="error" if leaf.type.literal is not None else "warning",
            )
        subject = getattr(source.options, "subject", None)
        if isinstance(subject, str) and leaf.subject is not None and not leaf.subject.matches(subject):
            self._warn(
                (*at, "subject"),
                f"it can never match: the subject of every event of source {source.name!r} is {subject!r}",
                f"see {self._source_at(source)}",
            )

    def _look_at_when(self, at: Steps, leaf: Leaf, when: Expression) -> None:
        reason = contradiction(read_terms(when.source), _known(leaf), model=self._model.name)
        if reason is None and not when.variables and _is_false(when):
            reason = "it is false"
        if reason is not None:
            self._warn(at, f"it is never true: {reason}")
        if "champion." in when.source and "champion !=" not in when.source and not self._model.promoters:
            self._warn(
                at,
                "it fails on every event: nothing of this model is promoted, so there is no champion",
                self._promote(),
            )

    def _look_at_window(self, at: Steps, leaf: Leaf, rhythm: _Rhythm) -> None:
        metric = leaf.metric
        key, needed, length = (
            ("count", leaf.count, leaf.within) if metric is None else ("metric", metric.min_samples, metric.over)
        )
        if metric is not None and metric.lasting is not None and metric.stale_after is not None:
            self._look_at_patience(at, leaf, rhythm, lasting=metric.lasting, stale_after=metric.stale_after)
        if length is None or needed <= 1:
            return
        most = -(-(length + (_CLOCK_CHANGE if rhythm.one_each else timedelta(0))) // rhythm.shortest)
        if needed > most:
            unless = "" if rhythm.one_each else ", unless it sees several things at once"
            what = "count" if metric is None else "min_samples"
            self._warn(
                (*at, key) if metric is None else (*at, key, "min_samples"),
                f"{what} {needed} is never reached: {rhythm.words}, so {format_duration(length)} holds {most} at most{unless}",
                self._see_source(leaf),
            )

    def _look_at_patience(
        self, at: Steps, leaf: Leaf, rhythm: _Rhythm, *, lasting: timedelta, stale_after: timedelta
    ) -> None:
        if stale_after < rhythm.shortest and stale_after < lasting:
            self._warn(
                (*at, "metric", "for"),
                f"it is never known for {format_duration(lasting)}: it is stale after {format_duration(stale_after)}, "
                f"and {rhythm.words}",
                self._see_source(leaf),
            )

    # ---- nodes

    def look_at_node(self, place: Place) -> None:
        """Look for a moment at which it is true."""
        at: Steps = (*self._path, "on", *steps_of(place.path))
        node = place.node
        if isinstance(node, AllOf):
            self._look_at_all(at, node)
        elif isinstance(node, Absent):
            self._look_at_absent((*at, "absent"), node)
        elif isinstance(node, MaxAge) and not self._model.promoters:
            self._warn(
                (*at, "max_age"),
                "it never comes: nothing of this model is promoted, so there is no champion whose age counts",
                self._promote(),
            )

    def _look_at_all(self, at: Steps, node: AllOf) -> None:
        plain = [(index, part) for index, part in enumerate(node.parts) if isinstance(part, Leaf) and _is_plain(part)]
        for (first_at, first), (second_at, second) in combinations(plain, 2):
            other = self._findings.place((*at, "all", first_at))
            if _disjoint(first, second):
                message = f"it is never true together with the part at {other}: no event fits both, and each counts at its own event only"
            else:
                message = f"only an event that fits also the part at {other} makes both true: each counts at its own event only"
            self._warn(
                (*at, "all", second_at), message, "give one of them `count: 1` and `within: …`, so that it stays true"
            )
            return

    def _look_at_absent(self, at: Steps, node: Absent) -> None:
        rhythm = self._rhythm(node.expect)
        if rhythm is not None and node.within < rhythm.shortest and node.after is None:
            self._warn(
                (*at, "within"),
                f"{format_duration(node.within)} is over before the next one can come: {rhythm.words}",
                self._see_source(node.expect),
            )

    # ---- stages

    def look_at_stages(self) -> None:
        """Look for waits that never end, and for those that never begin."""
        policy = self._policy
        if policy.cooldown is not None and policy.cooldown.after == "promotion" and not self._model.promoters:
            self._warn(
                (*self._path, "cooldown", "after"),
                "nothing of this model is promoted, so this never holds anything back",
                self._promote(),
            )
        if policy.debounce is not None and policy.debounce.max_wait is None:
            self._look_at_debounce(policy.debounce.quiet)
        if policy.quiet_hours is not None and policy.calendars and never_awake(policy.quiet_hours, policy.calendars):
            at = self._findings.place((*self._path, "calendars"))
            self._warn(
                (*self._path, "quiet_hours"),
                f"together with the calendars at {at} it leaves no time at all, so what is held never goes on",
                "make one of them shorter",
            )

    def _look_at_debounce(self, quiet: timedelta) -> None:
        for _, leaf in traits(self._policy.on).leaves:
            rhythm = self._rhythm(leaf)
            if rhythm is None or rhythm.longest is None or leaf.when is not None or not _is_plain(leaf):
                continue
            if quiet > rhythm.longest:
                self._warn(
                    (*self._path, "debounce", "quiet"),
                    f"it is never quiet for {format_duration(quiet)}: {rhythm.words}",
                    f"add `max_wait`; {self._see_source(leaf)}",
                )

    # ---- what others say

    def _source(self, leaf: Leaf) -> SourceSpec | None:
        return None if leaf.source is None else self._config.sources.get(leaf.source)

    def _rhythm(self, leaf: Leaf) -> _Rhythm | None:
        source = self._source(leaf)
        return None if source is None else _rhythm_of(source)

    def _source_at(self, source: SourceSpec) -> str:
        return str(self._findings.place(("sources", source.name), at_key=True))

    def _see_source(self, leaf: Leaf) -> str:
        source = self._source(leaf)
        return "" if source is None else f"see {self._source_at(source)}"

    def _promote(self) -> str:
        return (
            f"give the model at {self._findings.place(('models', self._model.name), at_key=True)} a promoter: `promote`"
        )

    def _warn(self, path: Steps, message: str, hint: str = "") -> None:
        self._findings.add(path, message, hint, severity="warning")


def steps_of(path: str) -> Iterator[str | int]:
    """Yield the steps of a path as `traits` writes it: `any[0].sequence.steps[1]`."""
    for word in path.split("."):
        name, _, position = word.partition("[")
        if name:
            yield name
        if position:
            yield int(position.removesuffix("]"))


def _is_plain(leaf: Leaf) -> bool:
    """Say whether it is true at its own event only."""
    return leaf.within is None and leaf.metric is None


def _known(leaf: Leaf) -> list[Term]:
    """Return what holds of every event that fits a leaf's patterns."""
    literals = (
        ("origin", leaf.source),
        ("type", None if leaf.type is None else leaf.type.literal),
        ("subject", None if leaf.subject is None else leaf.subject.literal),
    )
    return [Term(("event", name), "==", text) for name, text in literals if text is not None]


def _is_false(expression: Expression) -> bool:
    try:
        return expression.evaluate(Scope({})) is False
    except ExpressionError:
        return False


def _disjoint(first: Leaf, second: Leaf) -> bool:
    """Say whether certainly no event fits the patterns of both."""
    if None not in (first.source, second.source) and first.source != second.source:
        return True
    return any(
        one is not None and other is not None and _apart(one, other)
        for one, other in ((first.type, second.type), (first.subject, second.subject))
    )


def _apart(one: Pattern, other: Pattern) -> bool:
    if one.literal is not None:
        return not other.matches(one.literal)
    if other.literal is not None:
        return not one.matches(other.literal)
    begins, starts = _beginning(one.text), _beginning(other.text)
    return not (begins.startswith(starts) or starts.startswith(begins))


def _beginning(text: str) -> str:
    return text[: min(position for sign in "*?[" if (position := text.find(sign)) >= 0)]


# ------------------------------------------------------------------------------------------------------- sources


def _emitted_type(source: SourceSpec) -> str | None:
    """Return the type of a source's events; None when they have several, or nobody can say."""
    emitted = getattr(source.options, "event_type", None) or (
        getattr(source.options, "type", None) if _is_probe(source.options) else None
    )
    return emitted if isinstance(emitted, str) else None


def _is_probe(options: Any) -> bool:
    return isinstance(getattr(options, "every", None), timedelta) and hasattr(options, "emit")


def _rhythm_of(source: SourceSpec) -> _Rhythm | None:
    options = source.options
    if _is_probe(options) and options.emit == "reading":
        every = options.every
        words = f"source {source.name!r} looks every {format_duration(every)}"
        return _Rhythm(every, every + getattr(options, "spread", timedelta(0)), words, one_each=False)
    schedule = getattr(options, "schedule", None)
    if source.type == "cron" and isinstance(schedule, str):
        gaps = _gaps(parse_crontab(schedule))
        words = f"source {source.name!r} is due at {schedule!r}"
        return _Rhythm(min(gaps), max(gaps) if _is_daily(schedule) else None, words, one_each=True)
    return None


def _gaps(crontab: Crontab) -> list[timedelta]:
    """Return how far apart two instants are, as if each day were due."""
    due = [hour * 60 + minute for hour in crontab.hours for minute in crontab.minutes]
    following = [*due[1:], due[0] + _DAY_MINUTES]
    return [timedelta(minutes=after - before) for before, after in zip(due, following, strict=True)]


def _is_daily(schedule: str) -> bool:
    words = parse_crontab(schedule).text.split()
    return words[2:] == ["*", "*", "*"]


# ---------------------------------------------------------------------------------------------------- wall clock


def never_awake(quiet: QuietHours, calendars: tuple[Calendar, ...]) -> bool:
    """Say whether closed weekdays and quiet hours leave no minute of the week; only for those of one time zone."""
    closed = {
        day
        for calendar in calendars
        if calendar.timezone == quiet.timezone
        for day in parse_days(calendar.days)
        if calendar.days
    }
    minutes = bytearray(_WEEK_MINUTES)
    for day in closed:
        minutes[day * _DAY_MINUTES : (day + 1) * _DAY_MINUTES] = b"\1" * _DAY_MINUTES
    start, end = parse_between(quiet.between)
    for day in parse_days(quiet.days):
        for minute in range(day * _DAY_MINUTES + start, day * _DAY_MINUTES + end):
            minutes[minute % _WEEK_MINUTES] = 1
    return all(minutes) and bool(closed) and len(closed) < len(WEEKDAYS)
