"""Is the `when` expression true of this event?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from controller.core.chain import Answer, Question, Stage, passed, skipped
from controller.core.conditions import Expression, Scope
from controller.core.model import Event, Json
from controller.core.nodes.judge import fits
from controller.core.on import Leaf, On, traits
from controller.core.policy import Policy

#: A path, without the method that may be called on its end.
_PATH = re.compile(r"\b(?:event|model|champion)(?:\.[A-Za-z_]\w*\b(?!\s*\())+")
#: A longer text is shown by its beginning, so that no decision grows with its event.
_MAX_SHOWN = 200


def ask(question: Question) -> Answer | None:
    """Pass when the expression is true; an expression that fails raises, and becomes an ERROR decision."""
    on = question.policy.on
    if question.event is None:
        return None
    if not isinstance(on, Leaf):
        return _any_leaf(on, question.event, question.scope)
    if on.when is None:
        return None
    seen = values_read(on.when, question.scope)
    shown = ", ".join(f"{path} = {value!r}" for path, value in seen.items())
    if on.when.test(question.scope):
        return passed(f"{on.when.source}: true ({shown})", **seen)
    return skipped(f"{on.when.source}: false ({shown})", **seen)


def _any_leaf(on: On, event: Event, scope: Scope) -> Answer | None:
    """Pass when, of the leaves of a tree whose source and type fit, the `when` of one is true."""
    asked = [(path, leaf) for path, leaf in traits(on).leaves if fits(leaf, event)]
    if not any(leaf.when is not None for _, leaf in asked):
        return None
    seen: dict[str, Json] = {}
    said, true = [], []
    for path, leaf in asked:
        is_true = leaf.when is None or leaf.when.test(scope)
        if leaf.when is not None:
            seen |= values_read(leaf.when, scope)
            said.append(f"{leaf.when.source}: {'true' if is_true else 'false'}")
        if is_true:
            true.append(path)
    shown = ", ".join(f"{path} = {value!r}" for path, value in seen.items())
    reason = f"{'; '.join(said)} ({shown})"
    return passed(reason, leaves=true, **seen) if true else skipped(reason, **seen)


def values_read(expression: Expression, scope: Scope) -> dict[str, Json]:
    """Return the plain values behind the paths that the expression names, such as `event.data.size`."""
    seen: dict[str, Json] = {}
    for path, names in _paths(expression.source):
        value = _look_up(scope.values, names)
        if isinstance(value, str) and len(value) > _MAX_SHOWN:
            seen[path] = f"{value[:_MAX_SHOWN]}…"
        elif value is None or isinstance(value, str | int | float | bool):
            seen[path] = value
    return seen


@lru_cache(maxsize=16384)
def _paths(source: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((path, tuple(path.split("."))) for path in dict.fromkeys(_PATH.findall(source)))


def _look_up(values: Mapping[str, Json], names: tuple[str, ...]) -> Json:
    found: Json = values
    for name in names:
        if type(found) is not dict and not isinstance(found, Mapping):  # the first is ten times as quick
            return None
        found = found.get(name)
    return found


def admits(policy: Policy, event: Event, scope: Scope) -> bool:
    """Say whether `ask` would let the event pass."""
    on = policy.on
    if isinstance(on, Leaf):
        return on.when is None or on.when.test(scope)
    # Every one is tested, for one that fails is an error whatever the others say.
    asked = [leaf.when is None or leaf.when.test(scope) for _, leaf in traits(on).leaves if fits(leaf, event)]
    return not asked or any(asked)


STAGE = Stage(name="when", ask=ask, admits=admits)
