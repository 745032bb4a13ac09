"""Lines that are broken for a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.explain import Line
from controller.core.explain.lines import ends_text, until_text


def test_a_short_line_stays_as_it_is() -> None:
    """What fits is one line, however it is written."""
    line = Line(text="when    event.data.share > 0.3: true", indent=1, mark="✓", hang=8)

    assert line.wrapped(80) == ["  ✓ when    event.data.share > 0.3: true"]


def test_what_follows_stands_under_what_it_belongs_to() -> None:
    """A broken line goes on under its text, not under its stage."""
    line = Line(text="match  type 'a' does not fit 'b'", indent=1, mark="✗", hang=7)

    assert line.wrapped(35) == ["  ✗ match  type 'a' does not fit", "           'b'"]


words = st.text("abc", min_size=1, max_size=12)


@given(st.lists(words, min_size=1, max_size=40), st.integers(0, 4), st.sampled_from(["", "✓"]), st.integers(0, 40))
def test_nothing_is_lost_and_nothing_is_wider(found: list[str], indent: int, mark: str, hang: int) -> None:
    """Every word is there, in order, and a line of words that fit is no wider than the terminal."""
    line = Line(text=" ".join(found), indent=indent, mark=mark, hang=hang)

    parts = line.wrapped(80)

    assert " ".join(parts).split() == [*([mark] if mark else []), *found]
    assert max(map(len, parts)) <= 80


def test_a_long_word_stays_whole() -> None:
    """A path or an id can be copied."""
    path = "/" + "x" * 100

    assert path in [part.strip() for part in Line(text=f"at {path}", indent=1).wrapped(40)]


@pytest.mark.parametrize(
    "until, waits_for, expected",
    [
        ("2026-01-01T12:00:00Z", None, "until 2026-01-01T12:00:00Z"),
        (None, "resume", "until a person resumes"),
        (None, "champion or run", "until there is a champion or that run ends"),
        (None, "something new", "until something new"),
        (None, None, "until more come"),
    ],
)
def test_until(until: str | None, waits_for: str | None, expected: str) -> None:
    """A hold says until when, or until what."""
    assert until_text(until, waits_for, str) == expected


def test_each_name_of_a_wait_has_words() -> None:
    """What a stage waits for is said in words."""
    for name in ("rows", "episode", "resume", "run", "champion"):
        assert ends_text(name) != name
