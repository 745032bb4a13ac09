"""Is the `when` expression true of this event?"""

from __future__ import annotations

import re
from collections.abc import Mapping

from controller.core.chain import Answer, Question, Stage, passed, skipped
from controller.core.conditions import Expression, Scope
from controller.core.model import Event, Json
from controller.core.on import Leaf
from controller.core.policy import Policy

#: A path, without the method that may be called on its end.
_PATH = re.compile(r"\b(?:event|model|champion)(?:\.[A-Za-z_]\w*\b(?!\s*\())+")
#: A longer text is shown by its beginning, so that no decision grows with its event.
_MAX_SHOWN = 200


def ask(question: Question) -> Answer | None:
    """Pass when the expression is true; an expression that fails raises, and becomes an ERROR decision."""
    on = question.policy.on
    if not isinstance(on, Leaf) or on.when is None or question.event is None:
        return None
    seen = values_read(on.when, question.scope)
    shown = ", ".join(f"{path} = {value!r}" for path, value in seen.items())
    if on.when.test(question.scope):
        return passed(f"{on.when.source}: true ({shown})", **seen)
    return skipped(f"{on.when.source}: false ({shown})", **seen)


def values_read(expression: Expression, scope: Scope) -> dict[str, Json]:
    """Return the plain values behind the paths that the expression names, such as `event.data.size`."""
    seen: dict[str, Json] = {}
    for path in dict.fromkeys(_PATH.findall(expression.source)):
        value = _look_up(scope.values, path)
        if isinstance(value, str) and len(value) > _MAX_SHOWN:
            seen[path] = f"{value[:_MAX_SHOWN]}…"
        elif value is None or isinstance(value, str | int | float | bool):
            seen[path] = value
    return seen


def _look_up(values: Mapping[str, Json], path: str) -> Json:
    found: Json = values
    for name in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(name)
    return found


def admits(policy: Policy, event: Event, scope: Scope) -> bool:
    """Say whether `ask` would let the event pass."""
    del event
    on = policy.on
    return not isinstance(on, Leaf) or on.when is None or on.when.test(scope)


STAGE = Stage(name="when", ask=ask, admits=admits)
