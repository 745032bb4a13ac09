"""Secrets by reference: a configuration says where a secret is, never what it is.

`env:NAME` is an environment variable, `file:PATH` a file, whose last line break is not part of the secret.
The value is read when it is needed, each time anew, so that a rotated file counts at once; it is in no repr, no error and no stored form.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controller.errors import RetryLater

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+", re.DOTALL)
_FORM = "a secret is given by reference: env:NAME or file:PATH"


class Secret:
    """A reference to a secret; use it as the type of a field in a plugin's `Options`.

    A relative path starts at `base`: the folder of the configuration, which the loader hands in as the validation context `base`.
    """

    __slots__ = ("_base", "reference")

    def __init__(self, reference: str, *, base: Path | None = None) -> None:
        if not _REFERENCE.fullmatch(reference):
            raise ValueError(_FORM)  # not with the value: it may be the secret itself
        self.reference = reference
        self._base = base or Path()

    @property
    def path(self) -> Path | None:
        """The file it is read from; None for an environment variable."""
        return self._base / self.reference.removeprefix("file:") if self.reference.startswith("file:") else None

    def reveal(self) -> str:
        """Return the secret's present value; raises `RetryLater` when there is none."""
        value = self._read()
        if not value:
            raise RetryLater(f"secret {self.reference} is empty", hint=self._remedy())
        return value

    def _read(self) -> str:
        path = self.path
        if path is None:
            name = self.reference.removeprefix("env:")
            if name not in os.environ:
                raise RetryLater(f"secret {self.reference} is not set", hint=self._remedy())
            return os.environ[name]
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise RetryLater(
                f"secret {self.reference} cannot be read: {error.strerror or error}",
                hint=self._remedy(),
            ) from error
        except ValueError:
            # Without the cause: it carries the bytes.
            raise RetryLater(f"secret {self.reference} is not UTF-8 text", hint=self._remedy()) from None
        return text.removesuffix("\n").removesuffix("\r")

    def _remedy(self) -> str:
        return "set the variable" if self.path is None else "write the secret into that file, readable for the daemon"

    def readable_by_all(self) -> bool:
        """Say whether it lies in a file that every user of the machine can read."""
        path = self.path
        try:
            return path is not None and bool(stat.S_IMODE(path.stat().st_mode) & stat.S_IROTH)
        except OSError:
            return False

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self.reference, self._base) == (
            other.reference,
            other._base,
        )

    def __hash__(self) -> int:
        return hash((self.reference, self._base))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic read the reference; in its dumps it stays the reference."""
        from pydantic_core import core_schema

        def validate(value: Any, info: core_schema.ValidationInfo[Any]) -> Secret:
            if isinstance(value, Secret):
                return value
            if not isinstance(value, str):
                raise ValueError(_FORM)  # noqa: TRY004 - pydantic takes a ValueError
            return cls(value, base=(info.context or {}).get("base"))

        return core_schema.with_info_plain_validator_function(
            validate,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda secret: secret.reference),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the reference to editors."""
        return {
            "type": "string",
            "pattern": "^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$",
            "description": _FORM,
        }
