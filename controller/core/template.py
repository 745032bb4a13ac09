"""Templates: a whole value written as `{{ expression }}` is replaced by what the CEL expression gives.

Never a fragment of a value: what comes from an event becomes an argument of its own, so it cannot turn into an option or into code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from controller.core.conditions import Expression, Scope
from controller.core.model import Json
from controller.errors import ExpressionError

#: What a template may read: `event` is the newest of the causes, `events` all of them.
VARIABLES = ("event", "events", "model", "run", "params")

_WHOLE = re.compile(r"\s*\{\{(.*)\}\}\s*", re.DOTALL)


def expressions(value: Json, *, variables: Sequence[str] = VARIABLES) -> Iterator[Expression]:
    """Yield the expressions in a value, however deep; raises `ExpressionError` for one that is not allowed."""
    if isinstance(value, str):
        if (expression := _parse(value, tuple(variables))) is not None:
            yield expression
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from expressions(item, variables=variables)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from expressions(item, variables=variables)


def fill(value: Json, scope: Scope, *, variables: Sequence[str] = VARIABLES) -> Json:
    """Return the value with every template replaced; raises `ExpressionError` when the data lacks a name."""
    if isinstance(value, str):
        expression = _parse(value, tuple(variables))
        return value if expression is None else expression.evaluate(scope)
    if isinstance(value, Mapping):
        return {key: fill(item, scope, variables=variables) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [fill(item, scope, variables=variables) for item in value]
    return value


@lru_cache(maxsize=4096)
def _parse(text: str, variables: tuple[str, ...]) -> Expression | None:
    if "{{" not in text:
        return None
    whole = _WHOLE.fullmatch(text)
    if whole is None or "{{" in whole[1]:
        raise ExpressionError(
            f"{text!r} has '{{{{' in the middle",
            hint="a template fills a whole value: write it as an item of its own",
        )
    return Expression.load(whole[1].strip(), variables=variables)
