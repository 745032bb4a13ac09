"""Two sorted arrays behave like a dictionary, and take less memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core import fingerprints as module
from controller.core.fingerprints import Fingerprints

_NUMBERS = st.one_of(st.integers(0, 20), st.integers(0, 2**64 - 1))
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), _NUMBERS, st.integers(-(2**63), 2**63 - 1)),
        st.tuples(st.just("discard"), _NUMBERS, st.just(0)),
        st.tuples(st.just("meet"), _NUMBERS, st.just(0)),
        st.tuples(st.just("begin"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(st.dictionaries(_NUMBERS, st.integers(-(2**63), 2**63 - 1)), _STEPS, st.integers(1, 8))
def test_it_is_a_dictionary_with_marks(start: dict[int, int], steps: list[tuple[str, int, int]], beside: int) -> None:
    """After any history it holds what a dictionary would, and knows what was met since the last `begin`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BESIDE", beside)
        prints, model, met = Fingerprints(), dict(start), set[int]()
        low = {number: value for number, value in start.items() if number < 2**32}
        prints.load([low.items(), [pair for pair in start.items() if pair[0] not in low]])
        for step, number, value in steps:
            if step == "put":
                prints.put(number, value)
                model[number] = value
                met.add(number)
            elif step == "discard":
                prints.discard(number)
                model.pop(number, None)
                met.discard(number)
            elif step == "meet":
                prints.meet(number)
                met |= {number} & model.keys()
            else:
                prints.begin()
                met = set()

    assert len(prints) == len(model)
    assert {number: prints.get(number) for number in model} == {n: v % 2**64 for n, v in model.items()}
    assert all(prints.is_known(number, value) for number, value in model.items())
    assert sorted(prints.unmet()) == sorted(model.keys() - met)
    assert not any(number in prints for number in range(21) if number not in model)


def test_fill_makes_all_the_same() -> None:
    prints = Fingerprints()
    prints.load([[(1, 2), (3, 4)]])
    prints.put(5, 6)

    prints.fill(0)

    assert [prints.get(number) for number in (1, 3, 5, 7)] == [0, 0, 0, None]


def test_it_takes_little_memory() -> None:
    """A hundred thousand pairs are loaded and added in less than five million bytes at the end."""
    step: Any = 2**64 // 200_000
    tracemalloc.start()
    prints = Fingerprints()
    prints.load(
        [[(number * step, number) for number in range(chunk, chunk + 1_000)] for chunk in range(0, 50_000, 1_000)]
    )
    for number in range(50_000, 100_000):
        prints.put(number * step, number)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(prints) == 100_000
    assert taken < 5_000_000
