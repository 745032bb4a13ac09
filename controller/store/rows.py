"""From a row to a record: the single place where one becomes the other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any, TypeVar, cast

R = TypeVar("R")


def columns(row: Any) -> Mapping[str, Any]:
    """Return a row's values by column; `_mapping` is SQLAlchemy's documented name for it."""
    return row._mapping  # type: ignore[no-any-return]  # noqa: SLF001 - public in spite of its name


@lru_cache(maxsize=256)
def _names(cls: Any, keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls) if field.name in keys)


def record(cls: type[R], row: Any) -> R:
    """Return a record of `cls` from a row whose columns carry the names of its fields; other columns are left out."""
    mapping = columns(row)
    return cls(**{name: mapping[name] for name in _names(cast(Hashable, cls), tuple(mapping.keys()))})
