"""Deciding in a backtest is deciding live: the same events give the same decisions, in the same order, at the same instants."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.house import House
from tests.engine.walk import Backtested, Ending, Happening, Live
from tests.factories import make_mark

MakeHouse = Callable[..., House]

GOOD = [Ending(state="PROMOTED", length=timedelta(minutes=7, seconds=13))]
MIXED = [
    Ending(state="PROMOTED", length=timedelta(minutes=7, seconds=13)),
    Ending(state="FAILED", length=timedelta(minutes=3, seconds=1)),
    Ending(state="REJECTED", length=timedelta(minutes=20, seconds=7)),
]


def model(*, concurrency: str = "queue", **policies: Any) -> dict[str, Any]:
    return {
        "policies": {"!": None, **policies},
        "train": {"concurrency": concurrency, "retries": {"attempts": 1}},
    }


def tell(house: House, happenings: list[Happening], *, endings: list[Ending], hours: float = 12) -> Live:
    """Live through a story, tell it again in a backtest, and compare every decision."""
    live, until = Live(house, endings), timedelta(hours=hours)
    live.tell(happenings, until=until)
    again = Backtested(endings)
    again.tell(house, house.events(), began_at=live.began_at, until=until)

    said, decided = again.decisions(), live.decisions()
    for expected, found in zip(decided, said, strict=False):
        assert found == expected
    assert len(said) == len(decided)
    return live


def every(minutes: float, count: int, **fields: Any) -> list[Happening]:
    """So many events, one every so many minutes."""
    return [Happening(after=timedelta(minutes=minutes * n, microseconds=n), **fields) for n in range(1, count + 1)]


POLICIES: dict[str, dict[str, Any]] = {
    "plain": {"on": {"type": "drift"}},
    "when": {"on": {"type": "drift", "when": "event.data.share > 0.3"}},
    "count": {"on": {"type": "drift", "count": 3, "within": "10m"}},
    "count-by": {"on": {"type": "drift", "count": 2, "within": "30m", "by": "event.data.region"}},
    "debounce": {"on": {"type": "drift"}, "debounce": {"quiet": "4m", "max_wait": "20m"}},
    "cooldown-decision": {"on": {"type": "drift"}, "cooldown": {"after": "decision", "period": "25m"}},
    "cooldown-launch": {"on": {"type": "drift"}, "cooldown": {"after": "launch", "period": "25m"}},
    "cooldown-success": {
        "on": {"type": "drift"},
        "cooldown": {"after": "success", "period": "40m", "after_failure": "11m"},
    },
    "cooldown-promotion": {"on": {"type": "drift"}, "cooldown": {"after": "promotion", "period": "1h"}},
    "quiet-hours": {"on": {"type": "drift"}, "quiet_hours": {"between": "00:30-01:30", "timezone": "UTC"}},
    "max-age": {"on": {"max_age": "1h", "again_after": "30m"}},
    "champion": {"on": {"type": "drift", "when": "champion == null || champion.metrics.auc < 0.502"}},
    "all": {"on": {"all": [{"type": "drift"}, {"type": "file", "count": 2, "within": "30m"}]}},
    "sequence": {"on": {"sequence": {"steps": [{"type": "drift"}, {"type": "file"}], "within": "20m"}}},
    "absent": {"on": {"absent": {"expect": {"type": "file"}, "within": "15m", "again_after": "20m"}}},
    "metric": {
        "on": {
            "type": "drift",
            "metric": {"value": "event.data.share", "agg": "avg", "over": "20m", "above": 0.3, "again_after": "30m"},
        }
    },
    "not": {"on": {"all": [{"type": "drift"}, {"not": {"type": "alert"}}]}},
    "ready": {
        "on": {"type": "drift"},
        "ready": {"label_delay": "5m", "unless_open": {"type": "alert"}},
    },
    "budget": {"on": {"type": "drift"}, "budget": {"runs": 2, "per": "1h"}},
    "breaker": {"on": {"type": "drift"}, "breaker": {"after": 1}},
    "jitter": {"on": {"type": "drift"}, "jitter": "10m", "priority": 2},
    "observe": {"on": {"type": "drift"}, "mode": "observe"},
    "both": {
        "on": {"type": "drift", "count": 2, "within": "15m"},
        "debounce": {"quiet": "2m"},
        "cooldown": {"after": "success", "period": "30m"},
        "quiet_hours": {"between": "02:00-03:00", "timezone": "UTC"},
    },
}


@pytest.mark.parametrize("concurrency", ["queue", "forbid", "replace", "allow"])
@pytest.mark.parametrize("name", list(POLICIES))
def test_each_policy_decides_as_it_did(make_house: MakeHouse, name: str, concurrency: str) -> None:
    """Whatever the policy and whatever the concurrency."""
    house = make_house(model=model(concurrency=concurrency, it=POLICIES[name], other={"on": {"type": "file"}}))
    events = every(3, 20, data={"share": 0.5, "region": "eu"}) + every(11, 5, type="file")
    tell(house, events, endings=MIXED, hours=4)


def test_an_alert_is_news_once_and_its_end_lets_go(make_house: MakeHouse) -> None:
    """Episodes open, repeat, are resolved and are given up as they did."""
    house = make_house(model=model(it={"on": {"type": "alert"}, "debounce": {"quiet": "10m"}}))
    events = [
        Happening(after=timedelta(minutes=1), type="alert", extensions=make_mark("a")),
        Happening(after=timedelta(minutes=2), type="alert", extensions=make_mark("b", expire=600)),
        Happening(after=timedelta(minutes=5), type="alert", extensions=make_mark("a", "resolved")),
        Happening(after=timedelta(minutes=30), type="alert", extensions=make_mark("b")),
        Happening(after=timedelta(minutes=31), type="alert", extensions=make_mark("")),
        Happening(after=timedelta(minutes=32), type="alert", extensions=make_mark("c", "resolved")),
    ]
    tell(house, events, endings=GOOD)


def test_events_of_one_instant_see_each_other(make_house: MakeHouse) -> None:
    """The first makes a run, the others of the same batch merge into it."""
    house = make_house(model=model(it={"on": {"type": "drift"}}))
    live = tell(house, [Happening(after=timedelta(minutes=1)) for _ in range(3)], endings=GOOD)

    assert [row["kind"] for row in live.decisions()] == ["FIRE"] * 3
    assert len(house.runs()) == 1


regions = st.sampled_from(["eu", "us", "asia"])
happenings = st.lists(
    st.builds(
        lambda minute, kind, share, region, mark: (minute, kind, {"share": share, "region": region}, mark),
        st.integers(0, 120),
        st.sampled_from(["drift", "file", "alert"]),
        st.sampled_from([0.1, 0.4, 0.9, None]),
        regions,
        st.sampled_from([{}, {}, make_mark("a"), make_mark("a", "resolved"), make_mark("b", expire=900)]),
    ),
    max_size=15,
)
lengths = st.sampled_from(["4m", "17m", "1h"])
on = st.one_of(
    st.just({"type": "drift"}),
    st.just({"type": "*", "when": "event.data.share > 0.3"}),
    st.builds(lambda n, w: {"type": "drift", "count": n, "within": w}, st.integers(2, 4), lengths),
    st.builds(
        lambda n, w: {"type": "*", "count": n, "within": w, "by": "event.data.region"}, st.integers(2, 3), lengths
    ),
    st.builds(lambda age: {"max_age": age, "again_after": "10m"}, lengths),
    st.builds(lambda w: {"all": [{"type": "drift"}, {"type": "file", "count": 2, "within": w}]}, lengths),
    st.builds(lambda w: {"any": [{"type": "alert"}, {"type": "file", "count": 2, "within": w}]}, lengths),
    st.just({"all": [{"type": "drift"}, {"not": {"type": "*"}}]}),
    st.builds(lambda w: {"sequence": {"steps": [{"type": "drift"}, {"type": "file"}], "within": w}}, lengths),
    st.builds(lambda w: {"absent": {"expect": {"type": "file"}, "within": w, "again_after": "20m"}}, lengths),
    st.builds(
        lambda agg, w: {
            "type": "drift",
            "when": "event.data.share != null",
            "metric": {"value": "event.data.share", "agg": agg, "over": w, "above": 0.3, "again_after": "30m"},
        },
        st.sampled_from(["avg", "max", "sum"]),
        lengths,
    ),
)
policies = st.fixed_dictionaries(
    {"on": on},
    optional={
        "debounce": st.builds(lambda q: {"quiet": q, "max_wait": "2h"}, lengths),
        "cooldown": st.builds(
            lambda a, p: {"after": a, "period": p},
            st.sampled_from(["decision", "launch", "success", "promotion"]),
            lengths,
        ),
        "quiet_hours": st.just({"between": "01:00-02:00", "timezone": "UTC"}),
        "ready": st.just({"unless_open": {"type": "alert"}}),
        "budget": st.builds(lambda runs, per: {"runs": runs, "per": per}, st.integers(1, 3), lengths),
        "breaker": st.builds(lambda k: {"after": k}, st.integers(1, 2)),
        "jitter": st.just("3m"),
        "mode": st.sampled_from(["live", "live", "observe"]),
    },
)
endings = st.lists(
    st.builds(
        lambda state, minutes: Ending(state=state, length=timedelta(minutes=minutes, seconds=1, milliseconds=7)),
        st.sampled_from(["PROMOTED", "REJECTED", "FAILED"]),
        st.integers(1, 50),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.timeout(300)
@settings(
    max_examples=25,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    configured=st.dictionaries(st.sampled_from(["a", "b", "c"]), policies, min_size=1, max_size=3),
    concurrency=st.sampled_from(["queue", "queue", "forbid", "replace", "allow"]),
    story=happenings,
    ends=endings,
)
def test_any_policies_and_any_events(
    empty_store: Path,
    scripted_plugins: None,
    configured: dict[str, Any],
    concurrency: str,
    story: list[Any],
    ends: list[Ending],
) -> None:
    """Deciding in the backtest equals deciding live on the same stream, decision for decision."""
    with tempfile.TemporaryDirectory() as folder:
        house = House(Path(folder), empty_store, model=model(concurrency=concurrency, **configured))
        events = [
            Happening(after=timedelta(minutes=minute, microseconds=n + 1), type=kind, data=data, extensions=mark)
            for n, (minute, kind, data, mark) in enumerate(story)
        ]
        try:
            tell(house, events, endings=ends, hours=4)
        finally:
            house.close()
