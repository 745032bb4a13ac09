"""What a watch concludes from what was seen, and in which order the reasons win."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.states import WATCH
from controller.core.watch import Conclusion, Reading, Sight, Watching, conclude, is_about
from tests.factories import NOON, at, make_episode

DAY = timedelta(days=1)
END = NOON + DAY
LEVEL = [["slow-decay", ""]]


def make_watching(**fields: Any) -> Watching:
    """Return a watch of a day that began at noon, rolls back at the first event, and has nothing to cure."""
    defaults: dict[str, Any] = {
        "id": "wat-1",
        "model": "churn",
        "run_id": "run-1",
        "policy": "drift",
        "key": "",
        "promotion_id": "pro-1",
        "version_id": "ver-1",
        "epoch": 2,
        "state": "OPEN",
        "cause": "promoted",
        "reason": "",
        "signal": {"asked_by": "file.arrived"},
        "rolls_back": True,
        "needed": 1,
        "samples": 0,
        "evidence": [],
        "broken": 0,
        "broken_reason": "",
        "came_back": None,
        "look_at": NOON,
        "opened_at": NOON,
        "until": END,
        "rollback_id": None,
        "finished_at": None,
    }
    return Watching(**(defaults | fields))


def asked_by_an_alert(**fields: Any) -> Watching:
    """Return a watch whose run was asked for by an alert, without a rollback."""
    signal = {"episodes": ["epi-1"], "kinds": [["alert.auc", "churn"]]}
    return make_watching(**({"signal": signal, "rolls_back": False} | fields))


def alert(state: str = "OPEN", hours: float | None = None) -> Any:
    """Return the alert that asked for the run, as it is now; it ended so many hours after the promotion."""
    finished_at = None if hours is None else at(hours=hours)
    return make_episode(
        type="alert.auc", subject="churn", state=state, finished_at=finished_at, expires_at=at(hours=25)
    )


def evidence(number: int) -> list[dict[str, Any]]:
    return [{"event_id": f"evt-{n}", "type": "alert.slo", "subject": "eu", "time": NOON} for n in range(number)]


def reading(stands: Any = "cleared") -> Reading:
    return Reading(policy="slow-decay", key="", stands=stands, text="avg of auc is 0.65")


CASES: dict[str, tuple[Watching, Sight, Any, tuple[str | None, str, bool]]] = {
    "nothing yet": (make_watching(), Sight(), END - timedelta(seconds=1), (None, "", False)),
    "nothing, and it is over": (make_watching(), Sight(), END, ("UNKNOWN", "nothing_to_cure", False)),
    "nothing, but events still wait": (make_watching(), Sight(is_behind=True), END, (None, "", False)),
    "a file asked, without a rollback": (
        make_watching(rolls_back=False), Sight(), NOON, ("UNKNOWN", "nothing_to_cure", False)
    ),
    "enough events": (make_watching(samples=1, evidence=evidence(1)), Sight(), NOON, ("WORSE", "worse", True)),
    "not enough events": (make_watching(samples=1, needed=2), Sight(), NOON, (None, "", False)),
    "not enough events, and it is over": (
        make_watching(samples=1, needed=2), Sight(), END, ("UNKNOWN", "nothing_to_cure", False)
    ),
    "enough events, seen after the end": (
        make_watching(samples=2, needed=2, evidence=evidence(2)), Sight(), END + DAY, ("WORSE", "worse", True)
    ),
    "enough events, but nothing rolls back": (
        make_watching(samples=9, rolls_back=False), Sight(), NOON, ("UNKNOWN", "nothing_to_cure", False)
    ),
    "enough events, but a person decided": (
        make_watching(samples=1), Sight(person="ann adopted v3"), NOON, ("UNKNOWN", "person_decided", False)
    ),
    "a person decided, and another version took over": (
        make_watching(samples=1), Sight(person="ann adopted v3", newer="v3 took over"), NOON,
        ("UNKNOWN", "person_decided", False),
    ),
    "enough events, but another version took over": (
        make_watching(samples=1), Sight(newer="v3 took over"), NOON, ("WORSE", "worse", False)
    ),
    "another version took over": (make_watching(), Sight(newer="v3 took over"), NOON, ("UNKNOWN", "replaced", False)),
    "the alert still fires before the end": (asked_by_an_alert(), Sight(episodes=[alert()]), NOON, (None, "", False)),
    "the alert still fires at the end": (
        asked_by_an_alert(), Sight(episodes=[alert()]), END, ("NOT_CURED", "still_there", False)
    ),
    "the alert was resolved": (
        asked_by_an_alert(), Sight(episodes=[alert("RESOLVED", 1)]), END, ("CURED", "cleared", False)
    ),
    "the alert was resolved in the instant of the promotion": (
        asked_by_an_alert(), Sight(episodes=[alert("RESOLVED", 0)]), END, ("CURED", "cleared", False)
    ),
    "the alert was resolved before the promotion": (
        asked_by_an_alert(), Sight(episodes=[alert("RESOLVED", -1)]), END, ("UNKNOWN", "not_known", False)
    ),
    "the alert is to be given up": (
        asked_by_an_alert(), Sight(episodes=[alert()]), at(hours=25), ("UNKNOWN", "not_known", False)
    ),
    "the alert was given up": (
        asked_by_an_alert(), Sight(episodes=[alert("EXPIRED", 1)]), END, ("UNKNOWN", "not_known", False)
    ),
    "of two alerts one still fires": (
        asked_by_an_alert(), Sight(episodes=[alert("RESOLVED", 1), alert()]), END, ("NOT_CURED", "still_there", False)
    ),
    "of two alerts one was given up": (
        asked_by_an_alert(), Sight(episodes=[alert("RESOLVED", 1), alert("EXPIRED", 2)]), END,
        ("CURED", "cleared", False),
    ),
    "nothing is known of the alert": (asked_by_an_alert(), Sight(), END, ("UNKNOWN", "not_known", False)),
    "it came back": (asked_by_an_alert(came_back="evt-9"), Sight(), NOON, ("NOT_CURED", "came_back", False)),
    "it came back, and may still be worse": (
        asked_by_an_alert(came_back="evt-9", rolls_back=True), Sight(), NOON, (None, "", False)
    ),
    "it came back, and was worse": (
        asked_by_an_alert(came_back="evt-9", rolls_back=True, samples=1), Sight(), NOON, ("WORSE", "worse", True)
    ),
    "it came back, and the time is over": (
        asked_by_an_alert(came_back="evt-9", rolls_back=True), Sight(episodes=[alert("RESOLVED", 1)]), END,
        ("NOT_CURED", "came_back", False),
    ),
    "it came back, then another version took over": (
        asked_by_an_alert(came_back="evt-9", rolls_back=True), Sight(newer="v3 took over"), NOON,
        ("NOT_CURED", "came_back", False),
    ),
    "it came back, then a person decided": (
        asked_by_an_alert(came_back="evt-9", rolls_back=True, samples=1), Sight(person="ann paused the model"), NOON,
        ("NOT_CURED", "came_back", False),
    ),
    "the level is back": (
        make_watching(signal={"levels": LEVEL}), Sight(levels=[reading()]), END, ("CURED", "cleared", False)
    ),
    "the level is still beyond": (
        make_watching(signal={"levels": LEVEL}), Sight(levels=[reading("beyond")]), END,
        ("NOT_CURED", "still_there", False),
    ),
    "nothing was measured": (
        make_watching(signal={"levels": LEVEL}), Sight(levels=[reading("unknown")]), END,
        ("UNKNOWN", "not_known", False),
    ),
    "one of two levels is still beyond, the other is not known": (
        make_watching(signal={"levels": LEVEL}), Sight(levels=[reading("unknown"), reading("beyond")]), END,
        ("NOT_CURED", "still_there", False),
    ),
    "one of two levels is back, the other is not known": (
        make_watching(signal={"levels": LEVEL}), Sight(levels=[reading(), reading("unknown")]), END,
        ("UNKNOWN", "not_known", False),
    ),
    "the alert was resolved, but the level is not known": (
        asked_by_an_alert(), Sight(episodes=[alert("RESOLVED", 1)], levels=[reading("unknown")]), END,
        ("UNKNOWN", "not_known", False),
    ),
}  # fmt: skip


@pytest.mark.parametrize("watching, sight, now, expected", CASES.values(), ids=CASES)
def test_what_is_concluded(watching: Watching, sight: Sight, now: Any, expected: tuple[str | None, str, bool]) -> None:
    """Outcome, cause and rollback follow from what was seen, each with a reason."""
    found = conclude(watching, sight, now)

    assert (found.outcome, found.cause, found.rolls_back) == expected
    assert bool(found.reason) == (found.outcome is not None)


def test_worse_names_its_evidence() -> None:
    """The reason has the number of events, and the first of them."""
    found = conclude(make_watching(samples=5, needed=2, evidence=evidence(4)), Sight(), NOON)

    assert found.reason.startswith(
        "5 events that fit rollback_on since the promotion (2 needed): alert.slo about eu (evt-0)"
    )
    assert "evt-3" not in found.reason


def test_a_person_is_named() -> None:
    """The reason of a watch that a person ended says who did what."""
    assert conclude(make_watching(), Sight(person="ann rolled back to v1"), NOON).reason == "ann rolled back to v1"


def test_what_is_about_the_promoted_version() -> None:
    """From the promotion to the end of the watch, both instants inside; what happened before is about another version."""
    instants = [NOON - timedelta(microseconds=1), NOON, END, END + timedelta(microseconds=1)]

    assert [is_about(NOON, END, instant) for instant in instants] == [False, True, True, False]


sights = st.builds(
    Sight,
    person=st.sampled_from(["", "ann adopted v3"]),
    newer=st.sampled_from(["", "v3 took over"]),
    episodes=st.lists(
        st.sampled_from([alert(), alert("RESOLVED", 1), alert("RESOLVED", -1), alert("EXPIRED", 2)]), max_size=3
    ),
    levels=st.lists(st.sampled_from([reading(), reading("beyond"), reading("unknown")]), max_size=3),
    is_behind=st.booleans(),
)
watchings = st.builds(
    make_watching,
    rolls_back=st.booleans(),
    samples=st.integers(0, 3),
    needed=st.integers(1, 3),
    came_back=st.sampled_from([None, "evt-9"]),
    signal=st.sampled_from([{}, {"episodes": ["epi-1"]}, {"levels": LEVEL}]),
)
instants = st.sampled_from([NOON, END - timedelta(seconds=1), END, END + DAY])


@given(watching=watchings, sight=sights, now=instants)
def test_rules_that_always_hold(watching: Watching, sight: Sight, now: Any) -> None:
    """Deciding twice is the same; every end is in the table of states; only enough events roll back, and never past a person."""
    found = conclude(watching, sight, now)

    assert conclude(watching, sight, now) == found
    if found.outcome is not None:
        WATCH.check("OPEN", found.outcome, found.cause)
        assert found.reason
    if found.rolls_back:
        assert found.outcome == "WORSE"
        assert watching.rolls_back
        assert watching.samples >= watching.needed
        assert not sight.person
        assert not sight.newer
    if now >= END and not sight.is_behind:
        assert found.outcome is not None


@given(sight=sights, now=instants)
def test_missing_data_never_rolls_back(sight: Sight, now: Any) -> None:
    """Without an event that says worse nothing is rolled back, whatever else is seen or not seen."""
    found: Conclusion = conclude(make_watching(samples=0), sight, now)

    assert found.outcome != "WORSE"
    assert not found.rolls_back
