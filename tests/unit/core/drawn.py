"""Policies as hypothesis draws them, and the parts that they are drawn from."""

from __future__ import annotations

from hypothesis import strategies as st

from controller.core.policy import Cooldown
from tests.factories import LUNCH, make_debounce, make_leaf, make_policy, minutes

lengths = st.integers(1, 30).map(minutes)
leaves = st.one_of(
    st.just(make_leaf()),
    st.builds(lambda count, within: make_leaf(count=count, within=within), st.integers(1, 4), lengths),
)
debounces = st.none() | st.builds(
    lambda quiet, more: make_debounce(quiet, None if more is None else quiet + more),
    st.integers(1, 20),
    st.none() | st.integers(0, 40),
)
cooldowns = st.none() | st.builds(lambda period: Cooldown(after="decision", period=period), lengths)
policies = st.builds(
    lambda on, debounce, cooldown, quiet, concurrency: make_policy(
        on, debounce=debounce, cooldown=cooldown, quiet_hours=quiet, concurrency=concurrency
    ),
    leaves,
    debounces,
    cooldowns,
    st.none() | st.just(LUNCH),
    st.sampled_from(["queue", "replace", "allow"]),
)
