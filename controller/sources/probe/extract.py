"""Where in an answer the value is: a dotted path, which is followed as it is, or any other CEL expression."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.core.conditions import Expression, Scope
from controller.core.model import Json
from controller.errors import ExpressionError

_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Extract:
    """A path or an expression that was checked."""

    expression: Expression
    #: The names to follow, so that large whole numbers stay exact; None for what CEL computes, in doubles.
    path: tuple[str, ...] | None

    @classmethod
    def load(cls, source: str, *, variables: Sequence[str]) -> Extract:
        """Compile and check; raises `ExpressionError`."""
        try:
            expression = Expression.load(source, variables=variables)
        except ExpressionError as error:
            raise ExpressionError(f"{error.message} in {source!r}", hint=error.hint) from error
        return cls(expression, tuple(source.split(".")) if _PATH.fullmatch(source) else None)

    def read(self, values: Mapping[str, Json]) -> Json:
        """Return the value; raises `ExpressionError` when there is none, or it is no JSON."""
        if self.path is None:
            return _plain(self.expression.evaluate(Scope(values)), self.expression.source)
        value: Json = values
        for name in self.path:
            if not isinstance(value, Mapping) or name not in value:
                raise ExpressionError(f"{self.expression.source!r}: the data has no field {name!r}")
            value = value[name]
        return value


def _plain(value: object, source: str) -> Json:
    """Return what CEL computed as JSON."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, source) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, source) for item in value]
    raise ExpressionError(f"{source!r} gave a {type(value).__name__}, which JSON does not have", hint="string(…) it")
