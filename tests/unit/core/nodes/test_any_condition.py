"""Any condition, whatever comes: it fires exactly when it is met, its state is bounded, and what it holds always ends.

The oracle knows the whole history and keeps no state: it looks back at every event since the last FIRE.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from controller.core.chain import to_micros
from controller.core.nodes.finding import micros
from controller.core.on import Absent, AllOf, AnyOf, InSequence, Leaf, Metric, Node, NoEpisode
from tests.factories import make_champion, make_debounce, make_leaf, make_max_age, make_metric, make_policy, minutes
from tests.unit.core.story import Story

types = st.sampled_from("abc")
lengths = st.integers(1, 30).map(minutes)
plain = types.map(lambda name: make_leaf(type=name))
counts = st.builds(
    lambda name, count, within: make_leaf(type=name, count=count, within=within), types, st.integers(1, 4), lengths
)
sequences = st.builds(
    lambda steps, within: InSequence(steps=tuple(steps), within=within),
    st.lists(plain, min_size=2, max_size=3),
    lengths,
)
#: Levels that the oracle knows.
simple_levels = st.builds(
    lambda agg, limit, over: make_leaf(type="m", metric=make_metric(agg, above=float(limit), over=over, min_samples=0)),
    st.sampled_from(["max", "sum"]),
    st.integers(0, 8),
    lengths,
) | st.integers(0, 8).map(lambda limit: make_leaf(type="m", metric=make_metric("last", above=float(limit))))
parts = plain | counts | sequences | simple_levels


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.builds(
            lambda cls, found: cls(parts=tuple(found)),
            st.sampled_from([AllOf, AnyOf]),
            st.lists(inner, min_size=2, max_size=3),
        ),
        max_leaves=6,
    )


happenings = st.lists(st.tuples(st.integers(0, 15), types | st.integers(0, 9)), max_size=25)


@dataclass
class Oracle:
    """Everything that ever happened, as (microsecond, what), since the last FIRE; levels know all of it."""

    since: list[tuple[int, str]] = field(default_factory=list)
    values: list[tuple[int, float]] = field(default_factory=list)
    #: When each level that was true fired last.
    disarmed: dict[int, int] = field(default_factory=dict)

    def met(self, node: Node, now: int, name: str) -> bool:
        """Say whether a node is true of the event that came now."""
        match node:
            case AllOf(parts=found):
                return all(self.met(part, now, name) for part in found)
            case AnyOf(parts=found):
                return any(self.met(part, now, name) for part in found)
            case InSequence(steps=steps, within=within):
                return self._in_order([step.type.text for step in steps], now, micros(within))
            case Leaf(metric=Metric()):
                return self.beyond(node, now) and not self._is_disarmed(node, now)
            case Leaf(within=None):
                return node.type.text == name
            case Leaf(within=within, count=count):
                edge = now - micros(within)
                return sum(1 for at, what in self.since if what == node.type.text and at > edge) >= count
        raise AssertionError(node)

    def _in_order(self, wanted: list[str], now: int, within: int) -> bool:
        """Try every beginning, and take each further step as soon as it comes."""
        for position, (start, what) in enumerate(self.since):
            if what != wanted[0] or start <= now - within:
                continue
            left = wanted[1:]
            for at, other in self.since[position + 1 :]:
                if left and other == left[0] and at - start < within:
                    left = left[1:]
            if not left:
                return True
        return False

    def beyond(self, leaf: Leaf, now: int) -> bool:
        return (value := self.value(leaf, now, self.values)) is not None and value > leaf.metric.above

    @staticmethod
    def value(leaf: Leaf, now: int, values: list[tuple[int, float]]) -> float | None:
        metric = leaf.metric
        if metric.agg == "last":
            return values[-1][1] if values else None
        width = -(-micros(metric.over) // 60)
        inside = [value for at, value in values if at // width > now // width - 60]
        if metric.agg == "sum":
            return sum(inside)
        return max(inside, default=None)

    def _is_disarmed(self, leaf: Leaf, now: int) -> bool:
        fired_at = self.disarmed.get(id(leaf))
        if fired_at is None:
            return False
        # It cleared at any instant since, at which a value came or left.
        known = [entry for entry in self.values if entry[0] <= now]
        instants = {at for at, _ in known if at > fired_at} | {now}
        if leaf.metric.over is not None:
            width = -(-micros(leaf.metric.over) // 60)
            instants |= {(at // width + 60) * width for at, _ in known}
        for instant in sorted(i for i in instants if fired_at < i <= now):
            # Just before a value came, and with it.
            for upto in (lambda at, i=instant: at < i, lambda at, i=instant: at <= i):
                value = self.value(leaf, instant, [entry for entry in known if upto(entry[0])])
                if value is not None and value <= leaf.metric.above:
                    return False
        return True

    def fire(self, node: Node, now: int) -> None:
        for leaf in _levels(node):
            if self.beyond(leaf, now) and not self._is_disarmed(leaf, now):
                self.disarmed[id(leaf)] = now
        self.since = []


def _levels(node: Node) -> list[Leaf]:
    if isinstance(node, AllOf | AnyOf):
        return [leaf for part in node.parts for leaf in _levels(part)]
    return [node] if isinstance(node, Leaf) and node.metric is not None else []


@given(trees(parts).filter(lambda on: not isinstance(on, Leaf)), happenings)
def test_it_fires_exactly_when_it_is_met(on: Node, script: list[tuple[int, Any]]) -> None:
    """Of no tree and no stream of events does it fire when it is not met, or miss when it is."""
    told = Story(make_policy(on), run_length=None).begin()
    oracle = Oracle()
    for wait, what in script:
        told.now += minutes(wait + 1)  # without timers: nothing here becomes true by time alone
        now = to_micros(told.now)
        name = what if isinstance(what, str) else "m"
        if isinstance(what, str):
            oracle.since.append((now, what))
            told.send(what)
        else:
            oracle.values.append((now, float(what)))
            told.send("m", data={"x": what})
        expected = oracle.met(on, now, name)
        assert (told.said == "FIRE") is expected, (told.reason, script)
        if expected:
            oracle.fire(on, now)


# ---------------------------------------------------------------------------------------------- whatever there is

any_metric = st.builds(
    lambda agg, side, limit, over, lasting, stale, samples: make_metric(
        agg,
        **{side: float(limit)},
        over=over,
        lasting=lasting,
        stale_after=stale,
        min_samples=samples if agg in ("avg", "min", "max") else 0,
        again_after=minutes(30),
    ),
    st.sampled_from(["avg", "sum", "min", "max", "last", "distinct", "rate"]),
    st.sampled_from(["above", "below"]),
    st.integers(0, 9),
    lengths,
    st.none() | lengths,
    st.none() | lengths,
    st.integers(1, 3),
).map(lambda metric: make_leaf(type="m", metric=metric))
absents = st.builds(
    lambda expect, within, after, again: Absent(expect=expect, within=within, after=after, again_after=again),
    plain,
    lengths,
    st.none() | plain,
    st.none() | lengths,
)
anything = plain | counts | sequences | any_metric | absents | st.just(make_max_age(0.01, 0.005))
blocked = trees(anything).map(lambda on: AllOf(parts=(on, NoEpisode(source="api"))))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("event"), types | st.integers(0, 9), st.integers(-90, 90)),
        st.tuples(st.just("wait"), st.integers(0, 40), st.none()),
        st.tuples(st.just("sleep"), st.integers(0, 300), st.none()),
        st.tuples(st.just("set the clock"), st.integers(-300, 300), st.none()),
        st.tuples(st.sampled_from(["open", "close", "crown", "pause", "resume", "run ends"]), st.none(), st.none()),
    ),
    max_size=30,
)


@given(trees(anything) | blocked, steps, st.none() | st.just(make_debounce(5)))
def test_its_state_is_bounded_and_what_it_holds_always_ends(on: Node, script: list[Any], debounce: Any) -> None:
    """Whatever comes, early, late, or on a clock that jumps: the state stays small, the causes few, every hold has an end.

    The story checks of each decision that it is the same when made twice, and that a hold has a time to come or a named condition.
    """
    told = Story(make_policy(on, debounce=debounce), run_length=None).begin()
    for what, value, offset in script:
        match what:
            case "event":
                fields = {"type": value} if isinstance(value, str) else {"type": "m", "data": {"x": value}}
                told.send(ago=offset, **fields)
            case "wait":
                told.wait(minutes=value)
            case "sleep":
                told.sleep(minutes=value)
            case "set the clock":
                told.now += timedelta(minutes=value)
            case "open":
                told.open(type="incident")
            case "close":
                told.close()
            case "crown":
                told.crown(make_champion(promoted_at=told.now, version_id=f"ver-{told.number}"))
            case "pause":
                told.paused = True
            case "resume":
                told.paused = False
                told.wake("resume")
            case "run ends":
                told.end_run()
        told.look()
        state = told.states.get("")
        if state is not None and state.stage is None:
            assert len(told.collected.get("", {})) <= 40
    assert told.largest <= 6 * 1024
    told.paused = False
    told.wake("resume")
    told.close()
    told.crown(make_champion(promoted_at=told.now, version_id="ver-last"))
    told.wait(minutes=30)
    state = told.states.get("")
    # An absence goes on being one; whatever is held now began to be a moment ago.
    assert state is None or state.stage is None or state.held_since >= told.now - minutes(6), (state, told.reason)


def test_a_state_survives_being_stored() -> None:
    """What is kept is JSON."""
    told = Story(make_policy(AllOf(parts=(make_leaf(type="a", count=2, within=minutes(5)), make_leaf(type="b")))))
    told.send("a")

    assert json.loads(json.dumps(told.states[""].slots)) == told.states[""].slots
    assert isinstance(told.now, datetime)
