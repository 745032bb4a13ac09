"""Every error the controller raises on purpose, in one tree.

::

    ControllerError
    ├── ConfigError            the configuration is wrong; carries every problem with its place
    ├── ExpressionError        an expression is refused at load, or fails on real data
    ├── StoreError
    │   ├── IllegalTransition  the state table has no such row
    │   ├── SchemaMismatch     the database has another schema than this program
    │   ├── StoreBusy          the database cannot take this now (down, locked, full); try later
    │   ├── StoreBroken        what was written can no longer be trusted to be on disk; the process ends
    │   └── AlreadyRunning     another daemon holds this installation
    ├── PluginError            a plugin is unknown, cannot be imported, or refuses its options
    ├── RetryLater             a plugin's outward call failed; the same call may succeed later
    ├── GiveUp                 a plugin's outward call failed for good
    ├── NotFound               no such run, event, model, policy, …
    ├── Conflict               the request does not fit the present state
    ├── InvalidInput           a request, event or file is malformed
    │   └── NotUnderstood      its content type is none that is taken
    └── Unauthorized           a caller did not prove who it is

`RetryLater` and `GiveUp` are the two that decide control flow: they are how a plugin says what to do next.
"""

from __future__ import annotations

from dataclasses import dataclass


class ControllerError(Exception):
    """The root: something went wrong that we can name.

    `hint` says what an operator can do about it; it may be empty.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong in a configuration, and where."""

    #: Display path of the file as the user named it; empty when the problem has no file.
    file: str
    #: 1-based line; 0 when unknown.
    line: int
    #: 1-based column; 0 when unknown.
    column: int
    #: Dotted path to the value, as `models.churn.policies.drift.cooldown`.
    path: str
    #: What is wrong, with the value and what was expected.
    message: str
    #: What to write instead, such as the nearest known key; may be empty.
    hint: str = ""
    #: "error" refuses the configuration, "warning" is shown and lets it pass.
    severity: str = "error"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: " if self.file else ""
        path = f"{self.path}: " if self.path else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}{path}{self.message}{hint}"


class ConfigError(ControllerError):
    """The configuration is refused; `problems` lists everything that is wrong, in file order."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class ExpressionError(ControllerError):
    """A CEL expression is refused at load, or fails on real data."""


class StoreError(ControllerError):
    """The database refuses something."""


class IllegalTransition(StoreError):
    """The state table has no row for this change of state."""


class SchemaMismatch(StoreError):
    """The database's schema is not the one this program was written for."""


class StoreBusy(StoreError):
    """The database cannot take this now; nothing was written and the caller may try again.

    `after_seconds` is the wait we suggest to a producer (`Retry-After`), `code` the stable name of the reason (`docs/operations.md`).
    """

    def __init__(
        self, message: str, *, after_seconds: float = 5.0, hint: str = "", code: str = "store.unavailable"
    ) -> None:
        super().__init__(message, hint=hint)
        self.after_seconds = after_seconds
        self.code = code


class StoreBroken(StoreError):
    """The database is damaged, or the disk did not keep what it was told to: nothing is written any more, and the process ends."""


class AlreadyRunning(StoreError):
    """Another daemon holds this installation; the message names its pid."""


class PluginError(ControllerError):
    """A plugin is unknown, cannot be imported, or refuses its options."""


class RetryLater(ControllerError):
    """An outward call failed; the same call may succeed after `after_seconds` (None: the caller's backoff)."""

    def __init__(self, message: str, *, after_seconds: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.after_seconds = after_seconds


class GiveUp(ControllerError):
    """An outward call failed for good; repeating it cannot help."""


class NotFound(ControllerError):
    """There is no such thing."""


class Conflict(ControllerError):
    """The request does not fit the present state."""


class InvalidInput(ControllerError):
    """A request, an event or a file is malformed."""


class NotUnderstood(InvalidInput):
    """The content type is none that is taken (HTTP 415)."""


class Unauthorized(ControllerError):
    """A caller did not prove who it is (HTTP 401); the message names no secret and is the same for every wrong proof."""
