"""What `check` says of policies that add nothing beside another."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.config import check
from tests.unit.config.texts import load

BASE = """\
version: 1
sources:
  hook: {type: webhook, format: cloudevents, insecure: true}
models:
  fares:
    policies:
      one: ONE
      two: TWO
    train: {command: [sh]}
    promote: [{type: alias, path: x}]
    gate: {objective: {metric: auc}}
"""
DRIFT = "{on: {type: drift}}"


def shadowed(one: str, two: str) -> list[str]:
    """Return what is said of either policy being superfluous."""
    found = check(load(BASE.replace("ONE", one).replace("TWO", two)))
    return [f"{p.line}:{p.column} {p.message}" for p in found if "adds nothing" in p.message]


SHADOWED = {
    "the same": (DRIFT, DRIFT),
    "the same, written in another way": ("{on: {type: drift, count: 1}}", DRIFT),
    "one type of a pattern": ("{on: {type: 'dr*'}}", DRIFT),
    "one type of any": ("{on: {source: hook}}", "{on: {source: hook, type: drift}}"),
    "one source of any": (DRIFT, "{on: {source: hook, type: drift}}"),
    "one subject of any": (DRIFT, "{on: {type: drift, subject: 'x*'}}"),
    "one subject of a pattern": ("{on: {type: drift, subject: 'x*'}}", "{on: {type: drift, subject: xy}}"),
    "with a `when` besides": (DRIFT, "{on: {type: drift, when: event.data.x > 3}}"),
    "with one more term": (
        "{on: {type: drift, when: event.data.x > 3}}",
        "{on: {type: drift, when: event.data.y == 'a' && event.data.x > 3}}",
    ),
    "several of what one is enough for": (DRIFT, "{on: {type: drift, count: 3, within: 1h}}"),
    "the same count": ("{on: {type: drift, count: 3, within: 1h}}", "{on: {type: drift, count: 3, within: 60m}}"),
    "an alternative": ("{on: {any: [{type: alert}, {type: drift}]}}", DRIFT),
    "every alternative": ("{on: {type: 'dr*'}}", "{on: {any: [{type: drift}, {type: dry}]}}"),
    "the same tree": (
        "{on: {all: [{type: a}, {type: b, count: 2, within: 1h}]}}",
        "{on: {all: [{type: a}, {type: b, count: 2, within: 1h}]}}",
    ),
    "the same stages": (
        "{on: {type: drift}, cooldown: {period: 1h}, debounce: {quiet: 1m}}",
        "{on: {type: drift}, cooldown: {period: 1h}, debounce: {quiet: 1m}}",
    ),
    "an older champion": ("{on: {max_age: 20d}}", "{on: {max_age: 30d}}"),
    "what is more urgent wins": ("{on: {type: drift}, priority: 5}", DRIFT),
}


@pytest.mark.parametrize("one, two", SHADOWED.values(), ids=SHADOWED)
def test_what_fires_only_with_another_is_pointed_out(folder: Path, one: str, two: str) -> None:
    """The warning stands at the one that adds nothing, and names the place of the other."""
    (said,) = shadowed(one, two)

    words = "fires already at 20d" if "max_age" in one else "fires whenever it does"
    assert said == f"8:7 it adds nothing: policy 'one' at retrain.yaml:7:7 {words}"


def test_the_order_in_the_file_does_not_hide_it(folder: Path) -> None:
    """The narrower one is superfluous also when it stands first."""
    (said,) = shadowed("{on: {type: drift, when: event.data.x > 3}}", DRIFT)

    assert said.startswith("7:7 it adds nothing: policy 'two' at retrain.yaml:8:7")


DIFFERENT = {
    "another type": (DRIFT, "{on: {type: alert}}"),
    "another source": ("{on: {source: hook}}", "{on: {type: drift}}"),
    "other terms": ("{on: {type: drift, when: event.data.x > 3}}", "{on: {type: drift, when: event.data.x > 2}}"),
    "patterns that cross": ("{on: {type: 'a*'}}", "{on: {type: '*b'}}"),
    "fewer in the same time": (
        "{on: {type: drift, count: 3, within: 1h}}",
        "{on: {type: drift, count: 2, within: 1h}}",
    ),
    "another window": ("{on: {type: drift, count: 3, within: 1h}}", "{on: {type: drift, count: 3, within: 2h}}"),
    "a key": (DRIFT, "{on: {type: drift, by: event.subject}}"),
    "another wait": (DRIFT, "{on: {type: drift}, debounce: {quiet: 1m}}"),
    "another cooldown": (DRIFT, "{on: {type: drift}, cooldown: {period: 1h}}"),
    "waits that hang on what was heard": (
        "{on: {type: drift}, debounce: {quiet: 1m}}",
        "{on: {type: drift, when: event.data.x > 3}, debounce: {quiet: 1m}}",
    ),
    "a trial": (DRIFT, "{on: {type: drift}, mode: observe}"),
    "one that is off": ("{on: {type: drift}, mode: off}", DRIFT),
    "one that goes first": (DRIFT, "{on: {type: drift}, priority: 5}"),
    "its own output": (DRIFT, "{on: {type: drift}, own_output: true}"),
    "a longer chain": (DRIFT, "{on: {type: drift}, max_chain: 9}"),
    "all of two is not each": ("{on: {all: [{type: a, count: 1, within: 1h}, {type: drift}]}}", DRIFT),
    "an age that waits otherwise": ("{on: {max_age: 20d}, budget: {runs: 1, per: 1d}}", "{on: {max_age: 30d}}"),
}


@pytest.mark.parametrize("one, two", DIFFERENT.values(), ids=DIFFERENT)
def test_what_differs_is_left_in_peace(folder: Path, one: str, two: str) -> None:
    """Where a difference matters nothing is said."""
    assert shadowed(one, two) == []


def test_policies_of_two_models_have_nothing_to_do_with_each_other(folder: Path) -> None:
    """Only policies of the same model can make each other superfluous."""
    text = BASE.replace("ONE", DRIFT).replace("      two: TWO\n", "")

    assert not [
        p for p in check(load(text + text[text.index("  fares:") :].replace("fares", "seats"))) if "adds" in p.message
    ]
