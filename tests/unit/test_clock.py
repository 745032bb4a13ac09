"""Time, randomness and ids."""

from __future__ import annotations

import re
import threading
from datetime import UTC, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.clock import Ids, SystemClock, made_at, system_random
from controller.testing import ManualClock, SeededRandom
from tests.factories import NOON, at

FORM = re.compile(r"run-[0-9abcdefghjkmnpqrstvwxyz]{16}")


class FixedRandom:
    """Gives the same bits each time: the largest number there is, or zero."""

    def __init__(self, bit: int) -> None:
        self._bit = bit

    def getrandbits(self, bits: int) -> int:
        return (1 << bits) - 1 if self._bit else 0

    def random(self) -> float:
        return 0.5


def test_an_id_is_a_kind_and_sixteen_safe_characters() -> None:
    """Ids may be file names and names in Kubernetes."""
    assert FORM.fullmatch(Ids(ManualClock(), SeededRandom()).make("run"))
    assert FORM.fullmatch(Ids(SystemClock(), system_random()).make("run"))


@given(
    st.lists(st.integers(-5000, 5000), max_size=50), st.sampled_from([FixedRandom(0), FixedRandom(1), SeededRandom(1)])
)
def test_ids_of_one_maker_rise_whatever_the_clock_does(
    steps: list[int], randomness: FixedRandom | SeededRandom
) -> None:
    """Also within one millisecond, and when the clock is set back."""
    clock = ManualClock(NOON)
    ids = Ids(clock, randomness)
    made = [ids.make("run")]
    for step in steps:
        clock.set_now(clock.now() + timedelta(milliseconds=step / 10))
        made += [ids.make("run"), ids.make("run")]

    assert all(one < two for one, two in pairwise(made))
    assert all(FORM.fullmatch(made_id) for made_id in made)


def test_ids_of_two_makers_sort_by_time() -> None:
    """A millisecond apart is enough, whatever the randomness."""
    early = Ids(ManualClock(NOON), FixedRandom(1)).make("run")
    late = Ids(ManualClock(at(milliseconds=1)), FixedRandom(0)).make("run")

    assert early < late


def test_a_full_millisecond_borrows_from_the_next() -> None:
    """When the numbers of a millisecond are used up, ids go on rising."""
    ids = Ids(ManualClock(NOON), FixedRandom(1))
    first = ids.make("run")
    ids._tail = (1 << 35) - 1
    second = ids.make("run")

    assert first < second
    assert first[4:13] != second[4:13]


def test_threads_never_make_the_same_id() -> None:
    """One maker serves every thread of the process."""
    ids = Ids(ManualClock(NOON), SeededRandom(3))
    made: list[list[str]] = [[] for _ in range(4)]
    threads = [
        threading.Thread(target=lambda mine=mine: mine.extend(ids.make("evt") for _ in range(500))) for mine in made
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({made_id for mine in made for made_id in mine}) == 2000


def test_the_system_clock_speaks_utc_and_never_jumps() -> None:
    """Instants have a zone; intervals do not go back."""
    clock = SystemClock()

    assert clock.now().tzinfo is UTC
    assert clock.monotonic() <= clock.monotonic()


@pytest.mark.parametrize("bits", [1, 35, 256])
def test_the_system_random_gives_as_many_bits_as_asked(bits: int) -> None:
    """Numbers stay within their range."""
    assert 0 <= system_random().getrandbits(bits) < 1 << bits
    assert 0 <= system_random().random() < 1


def test_an_id_says_when_it_was_made() -> None:
    """To the millisecond; what is no id of ours is refused."""
    clock = ManualClock()
    clock.advance(1234.567)

    assert abs(made_at(Ids(clock, SeededRandom()).make("evt")) - clock.now()) < timedelta(milliseconds=1)
    with pytest.raises(ValueError, match="no id of ours"):
        made_at("evt-1")
