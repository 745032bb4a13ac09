"""`debounce` through the chain: the last event of a burst is never lost, and no FIRE is later than it may be."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from tests.factories import make_debounce, make_event, make_policy, minutes
from tests.unit.core.driver import Driver


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.none() | st.integers(5, 30))
def test_the_last_event_of_a_debounce_is_never_lost(gaps: list[int], max_wait: int | None) -> None:
    """However events follow each other, each is in one FIRE, and no FIRE is later than `quiet` or `max_wait` allow."""
    driver = Driver(make_policy(debounce=make_debounce(5, max_wait)))
    for number, gap in enumerate(gaps):
        end = driver.now + timedelta(minutes=gap)
        while driver.state is not None and driver.state.due_at is not None and driver.state.due_at <= end:
            driver.now = driver.state.due_at
            driver.look()
        driver.now = end
        driver.hear(make_event(number, received_at=end))
        if driver.state is not None:
            assert driver.state.due_at is not None
            assert driver.state.due_at <= end + minutes(5)
    driver.let_all_fire()

    assert sorted(cause for causes in driver.fires for cause in causes) == [
        f"evt-{number:016d}" for number in range(len(gaps))
    ]
