"""Conditions made of several parts: when they are met, what they say is missing, and what becomes of what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from controller.core.conditions import Pattern
from controller.core.model import TEST_EVENT
from controller.core.on import Absent, AllOf, AnyOf, InSequence, Node, NoEpisode, traits
from tests.factories import (
    NOON,
    at,
    make_champion,
    make_debounce,
    make_leaf,
    make_mark,
    make_max_age,
    make_metric,
    make_policy,
    minutes,
)
from tests.unit.core.story import Story

HOUR = minutes(60)
A, B, C = (make_leaf(type=name) for name in "abc")
THREE_A = make_leaf(type="a", count=3, within=HOUR)
AB = AllOf(parts=(make_leaf(type="a", count=1, within=HOUR), make_leaf(type="b", count=1, within=HOUR)))
LEVEL = make_leaf(type="m", metric=make_metric())
NO_INCIDENT = NoEpisode(type=Pattern("incident"))


def story(on: Node, **fields: Any) -> Story:
    return Story(make_policy(on, **fields)).begin()


#: Events a minute apart, by their types; a number is `event.data.x` of type m, "+30" lets minutes pass.
Script = Sequence[str | float]


def play(told: Story, script: Script) -> list[int]:
    """Let the script happen; return the positions at which the policy fired."""
    fired = []
    for position, step in enumerate(script):
        if isinstance(step, str) and step.startswith("+"):
            told.wait(minutes=float(step))
            continue
        before = len(told.fires)
        if isinstance(step, str):
            told.send(step)
        else:
            told.send("m", data={"x": step})
        if len(told.fires) > before:
            fired.append(position)
        told.wait(minutes=1)
    return fired


TREES: dict[str, tuple[Node, Script, list[int]]] = {
    "all of two counts": (AB, "ab", [1]),
    "all, in any order": (AB, "ba", [1]),
    "all, one of them alone": (AB, "aaa", []),
    "all begins anew after it fired": (AB, "abab", [1, 3]),
    "a window that is over": (AB, ["a", "+60", "b"], []),
    "a window that is almost over": (AB, ["a", "+58.9", "b"], [2]),
    "a plain leaf is true for its own event only": (AllOf(parts=(A, THREE_A)), "aaa", [2]),
    "a plain leaf does not wait": (AllOf(parts=(B, THREE_A)), "baaa", []),
    "a plain leaf that comes last": (AllOf(parts=(B, THREE_A)), "aaab", [3]),
    "a count with a level": (AllOf(parts=(THREE_A, LEVEL)), ["a", "a", "a", 5, 11], [4]),
    "a level first": (AllOf(parts=(THREE_A, LEVEL)), [11, "a", "a", "a"], [3]),
    "a level that cleared before": (AllOf(parts=(THREE_A, LEVEL)), [11, "a", "a", 9, "a"], []),
    "a level that fired is disarmed": (AllOf(parts=(THREE_A, LEVEL)), [11, "a", "a", "a", "a", "a", "a"], [3]),
    "… until it cleared": (AllOf(parts=(THREE_A, LEVEL)), [11, "a", "a", "a", 3, 11, "a", "a", "a"], [3, 8]),
    "any of two": (AnyOf(parts=(A, B)), "abc", [0, 1]),
    "any with a count": (AnyOf(parts=(THREE_A, B)), "aabaaa", [2, 5]),
    "any of all": (AnyOf(parts=(AllOf(parts=(A, LEVEL)), B)), [11, "a", "b"], [1, 2]),
    "a sequence": (InSequence(steps=(A, B, C), within=HOUR), "abc", [2]),
    "a sequence in another order": (InSequence(steps=(A, B, C), within=HOUR), "acb", []),
    "a sequence with others in between": (InSequence(steps=(A, B, C), within=HOUR), "abbac", [4]),
    "a sequence that begins again": (InSequence(steps=(A, B), within=minutes(5)), ["a", "+5", "a", "b"], [3]),
    "a sequence that took too long": (InSequence(steps=(A, B), within=minutes(5)), ["a", "+4", "b"], []),
    "a sequence just in time": (InSequence(steps=(A, B), within=minutes(5)), ["a", "+3.9", "b"], [2]),
    "a sequence begins anew after it fired": (InSequence(steps=(A, B), within=HOUR), "abb", [1]),
    "one event is one step": (InSequence(steps=(A, A), within=HOUR), "aaa", [1]),
    "a sequence is true while its window is": (AllOf(parts=(InSequence(steps=(A, B), within=HOUR), C)), "abc", [2]),
}  # fmt: skip


@pytest.mark.parametrize("on, script, fires", TREES.values(), ids=TREES)
def test_when_it_is_met(on: Node, script: Script, fires: list[int]) -> None:
    """It fires at exactly these events."""
    assert play(story(on), script) == fires


def test_it_says_what_is_missing() -> None:
    """The reason names how many parts are true, and of the others what they need and have; the facts say it of every node."""
    told = story(AllOf(parts=(A, make_leaf(type="drift", count=3, within=HOUR), LEVEL)))
    told.send("drift")
    told.send("drift")
    told.send("m", data={"x": 4})
    told.send("a")

    assert told.reason == "1 of 3: all needs drift 3 within 1h (has 2), m last above 10 (4 now)"
    nodes = told.decisions[-1].trace[-1].facts["nodes"]
    assert [(node["path"], node["kind"], node["truth"]) for node in nodes] == [
        ("", "all", "false"),
        ("all[0]", "leaf", "true"),
        ("all[1]", "count", "false"),
        ("all[2]", "metric", "false"),
    ]
    assert (nodes[2]["value"], nodes[2]["needed"]) == (2, 3)


def test_every_event_that_counts_is_a_cause() -> None:
    """A FIRE has the events in its windows and steps, and none that left them."""
    told = story(AllOf(parts=(make_leaf(type="a", count=2, within=minutes(10)), B)))
    play(told, ["a", "+20", "a", "a", "b"])

    assert [causes for _, _, causes in told.fires] == [[f"evt-{number:016d}" for number in (2, 3, 4)]]


def test_an_event_that_fits_nothing_is_refused_at_match() -> None:
    """A tree listens to the events of its leaves; what tests a source is none."""
    told = story(AllOf(parts=(A, make_leaf(type="b", when="event.data.n > 1.0"))))

    assert [told.send("x"), told.decisions[-1].stage] == ["SKIP", "match"]
    assert [told.send(TEST_EVENT), told.decisions[-1].stage] == ["SKIP", "match"]
    assert [told.send("b", data={"n": 1}), told.decisions[-1].stage] == ["SKIP", "when"]
    assert [told.send("b", data={}), told.decisions[-1].stage] == ["ERROR", "when"]


# ------------------------------------------------------------------------------------------------------------- keys


def keyed(name: str, **fields: Any) -> Any:
    return make_leaf(type=name, by="event.subject", **fields)


def test_each_key_has_a_state_of_its_own() -> None:
    """What came for one key is nothing to another."""
    on = AllOf(parts=(keyed("a", count=1, within=HOUR), keyed("b", count=1, within=HOUR)))
    told = story(on)
    said = [told.send(name, subject=subject) for name, subject in [("a", "eu"), ("b", "us"), ("b", "eu"), ("a", "us")]]

    assert said == ["SKIP", "SKIP", "FIRE", "FIRE"]
    assert [key for _, key, _ in told.fires] == ["eu", "us"]


def test_keys_expire() -> None:
    """An hour (for late events) after its windows are over, nothing is left of a key."""
    on = AllOf(parts=(keyed("a", count=2, within=HOUR), InSequence(steps=(keyed("b"), keyed("c")), within=HOUR)))
    told = story(on)
    for subject in ("eu", "us"):
        told.send("a", subject=subject)
        told.send("b", subject=subject)
    told.wait(minutes=119)
    assert set(told.states) == {"eu", "us"}
    told.wait(minutes=1)

    assert told.states == {}
    assert told.collected["eu"] == {}


def test_an_event_with_two_keys_is_an_error() -> None:
    """An event that fits two leaves belongs to one key."""
    on = AnyOf(parts=(make_leaf(type="a", by="event.subject"), make_leaf(type="?", by="event.type")))
    told = story(on)
    told.send("a", subject="eu")

    assert told.said == "ERROR"
    assert told.reason == "by: the event has more than one key: 'eu' at any[0], 'a' at any[1]"


# --------------------------------------------------------------------------------------------------- open episodes


def test_an_open_episode_holds() -> None:
    """What is met but for an open episode waits for its end, and nothing that comes meanwhile is lost."""
    told = story(AllOf(parts=(A, NO_INCIDENT)))
    told.open(type="incident")
    assert [told.send("a"), told.send("a")] == ["HOLD", "HOLD"]
    assert told.decisions[-1].waits_for == "episode"
    assert "no open incident (incident from api since" in told.reason
    told.wait(hours=5)
    told.close()

    assert [causes for _, _, causes in told.fires] == [["evt-0000000000000001", "evt-0000000000000002"]]


def test_another_episode_does_not_hold() -> None:
    """Source, type and subject must fit."""
    told = story(AllOf(parts=(A, NoEpisode(source="api", type=Pattern("incident"), subject=Pattern("eu")))))
    told.open(type="incident", subject="us")
    told.open(type="other", subject="eu")
    told.open(type="incident", subject="eu", origin="elsewhere")

    assert told.send("a") == "FIRE"


def test_what_waits_for_an_episode_is_let_go_when_a_level_clears() -> None:
    """A condition that is no longer met when the episode ends does not fire."""
    told = story(AllOf(parts=(LEVEL, NO_INCIDENT)))
    told.open(type="incident")
    told.send("m", data={"x": 11})
    told.send("m", data={"x": 3})
    told.close()

    assert told.fires == []
    assert not any(told.collected.values())


def test_a_held_condition_is_asked_again_before_it_goes_on() -> None:
    """What came stays, what is a state of affairs must still be so: at the end of a debounce the level has cleared."""
    told = story(AllOf(parts=(THREE_A, LEVEL)), debounce=make_debounce(30))
    play(told, [11, "a", "a", "a"])
    assert told.said == "HOLD"
    told.send("m", data={"x": 3})
    told.wait(hours=1)
    assert told.fires == []

    told = story(AllOf(parts=(make_leaf(type="a", count=3, within=minutes(5)), LEVEL)), debounce=make_debounce(30))
    play(told, [11, "a", "a", "a", "+60"])

    assert len(told.fires) == 1


def test_a_hold_that_is_over_leaves_what_still_counts() -> None:
    """When a level clears, what is held goes, but the events that are still in a window remain causes of a later run."""
    told = story(AllOf(parts=(THREE_A, LEVEL, B)), debounce=make_debounce(30))
    play(told, [11, "a", "a", "a", "b"])
    assert told.said == "HOLD"
    play(told, [3, 12, "b"])
    told.wait(minutes=30)

    assert [causes for _, _, causes in told.fires] == [[f"evt-{number:016d}" for number in (2, 3, 4, 7, 8)]]


def test_repeats_of_an_alert_are_no_news_to_a_tree() -> None:
    """An event of an episode that did not open it goes no further; it may be the only cause of what is held."""
    told = story(AnyOf(parts=(A, B)))
    told.send("a", extensions=make_mark("k", "resolved"))

    assert (told.said, told.decisions[-1].stage) == ("SKIP", "episode")


# ------------------------------------------------------------------------------------------------------- absence


def absent(*, after: bool = False, by: bool = False, **fields: Any) -> Absent:
    word = "event.subject" if by else None
    return Absent(
        expect=make_leaf(source="api", type="a", by=word),
        within=HOUR,
        after=make_leaf(type="b", by=word) if after else None,
        **fields,
    )


def test_what_is_expected_and_does_not_come() -> None:
    """It fires exactly `within` after the last one, and not again before another one came."""
    told = story(absent())
    told.wait(minutes=30)
    told.send("a")
    told.wait(minutes=59.9)
    assert told.fires == []
    told.wait(hours=30)
    told.send("a")
    told.wait(hours=2)

    since = told.now - timedelta(hours=1)
    assert [fired for fired, _, _ in told.fires] == [at(minutes=90), since]


def test_what_did_not_come_stays_absent_while_it_is_held() -> None:
    """A hold that lasts longer than a timer may be late does not make it look as if nobody had listened."""
    told = story(absent(), debounce=make_debounce(45))
    told.wait(hours=5)

    assert [fired for fired, _, _ in told.fires] == [at(minutes=105)]


def test_what_comes_while_its_absence_is_held_ends_the_hold() -> None:
    """It is there after all: what was held for its absence is let go."""
    told = story(absent(), debounce=make_debounce(45))
    told.wait(minutes=75)
    told.send("a")
    told.wait(minutes=40)

    assert told.fires == []


def test_absent_from_the_first_day_on() -> None:
    """Without any event it counts from when the policy was activated."""
    told = story(absent())
    told.wait(hours=1)

    assert [fired for fired, _, _ in told.fires] == [at(hours=1)]


def test_absent_fires_again_after() -> None:
    """`again_after` says when it fires again; what comes in between ends that."""
    told = story(absent(again_after=minutes(15)))
    told.wait(minutes=75)
    told.send("a")
    told.wait(minutes=30)

    assert [fired for fired, _, _ in told.fires] == [at(minutes=60), at(minutes=75)]


def test_absent_after_something() -> None:
    """It counts from the last that fits `after`; what was expected, in time and inclusive, ends it; and it waits for the next."""
    told = story(absent(after=True))
    told.wait(hours=5)
    told.send("b")
    told.wait(minutes=59)
    told.send("a")
    told.wait(hours=3)
    assert told.fires == []
    told.send("b")
    told.wait(minutes=30)
    told.send("b")
    told.wait(hours=3)

    ((fired, _, causes),) = told.fires
    assert fired == at(hours=5, minutes=59 + 180 + 30 + 60)
    assert causes == ["evt-0000000000000004"]


def test_absent_per_key() -> None:
    """Each key is expected from when it came first, and after a FIRE only when it came anew."""
    told = story(absent(by=True))
    told.send("a", subject="eu")
    told.wait(minutes=30)
    told.send("a", subject="us")
    told.wait(hours=5)

    assert [(fired, key) for fired, key, _ in told.fires] == [(at(hours=1), "eu"), (at(minutes=90), "us")]
    assert told.states == {}


def test_absence_while_the_source_is_in_trouble_is_unknown() -> None:
    """An open episode of the controller about that source is a hold, never a fire; afterwards it has a tenth of `within` to come."""
    told = story(absent())
    told.open(origin="controller", type="source.failing", subject="api")
    told.wait(hours=3)
    assert told.said == "HOLD"
    assert "its source is in trouble: source.failing" in told.reason
    told.close()
    told.wait(minutes=5.9)
    assert told.fires == []
    told.wait(minutes=0.1)

    assert [fired for fired, _, _ in told.fires] == [at(hours=3, minutes=6)]


def test_trouble_of_another_source_is_nothing_to_it() -> None:
    """Only the source of what is expected counts, and only what the controller says of it."""
    told = story(absent())
    told.open(origin="controller", type="source.failing", subject="other")
    told.open(origin="api", type="source.silent", subject="api")
    told.wait(hours=1)

    assert len(told.fires) == 1


def test_absence_that_nobody_listened_for_gets_a_little_time() -> None:
    """After a night's downtime what was expected has a tenth of `within` to come in."""
    told = story(absent())
    told.sleep(hours=8)
    assert told.fires == []
    assert told.decisions[-1].trace[0].stage == "timer"
    told.wait(minutes=5)
    told.send("a")
    told.wait(minutes=59)

    assert told.fires == []


# --------------------------------------------------------------------------------------------------- levels of a model


def test_max_age_in_a_tree() -> None:
    """Without a champion nothing is old; time alone fires it; it fires once for a champion, and again after its run."""
    told = story(AllOf(parts=(make_max_age(days=10, again_days=1), NO_INCIDENT)))
    told.run_length = None
    assert told.wait(days=30) == []
    told.crown(make_champion(promoted_at=told.now))
    told.wait(days=10)
    assert [fired for fired, _, _ in told.fires] == [at(days=40)]
    told.wait(days=10)
    told.end_run()
    told.wait(days=1)

    assert [fired for fired, _, _ in told.fires] == [at(days=40), at(days=51)]


def test_a_policy_that_only_observes_is_disarmed_as_if_it_had_fired() -> None:
    """Otherwise each event of a level that is true would say again that it would have fired."""
    told = story(AnyOf(parts=(LEVEL, B)), mode="observe")
    play(told, [11, 12, 13])
    stages = [decision.stage for decision in told.decisions]
    told.wait(days=1)

    assert stages == ["mode", "tree", "tree"]
    assert told.decisions[-1].stage == "mode"


@pytest.mark.parametrize("level", [LEVEL, make_max_age(days=10, again_days=1)], ids=["metric", "max_age"])
def test_a_level_that_observed_fires_when_it_becomes_live(level: Node) -> None:
    """What it would have done disarms only the policy that observes: nothing was retrained."""
    told = story(AnyOf(parts=(level, B)), mode="observe")
    told.crown(make_champion(promoted_at=at(days=-20)))
    play(told, [11])
    told.policy = replace(told.policy, mode="live")
    told.states[""] = replace(told.states[""], due_at=told.now)
    told.run_length = None
    told.look()
    told.states[""] = replace(told.states[""], due_at=told.now)
    told.look()

    assert [decision.kind for decision in told.decisions[-2:]] == ["FIRE", "SKIP"]


def test_traits() -> None:
    """What can be said of a condition without an event."""
    assert traits(A).needs_clock is False
    assert traits(LEVEL).begins_by_itself is False
    assert traits(absent()).begins_by_itself is True
    assert traits(absent(after=True)).begins_by_itself is False
    assert traits(make_max_age()).begins_by_itself is True
    assert traits(AllOf(parts=(A, make_max_age()))).reads_champion is True
    assert [path for path, _ in traits(AllOf(parts=(A, absent(after=True)))).leaves] == [
        "all[0]",
        "all[1].absent.expect",
        "all[1].absent.after",
    ]


def test_a_long_window_is_cheap_to_keep() -> None:
    """A count keeps no more than it needs, whatever comes."""
    told = story(AllOf(parts=(THREE_A, B)))
    for _ in range(200):
        told.send("a")
        told.now += timedelta(seconds=1)

    assert told.largest < 200
    assert len(told.collected[""]) == 3
    assert told.now > NOON
