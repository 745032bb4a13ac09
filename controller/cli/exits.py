"""What a command's exit code says."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes; the help lists them."""

    OK = 0
    #: The thing that was asked for failed: a run that was waited for, a request the daemon could not carry out.
    FAILED = 1
    #: The command line or the configuration is wrong.
    USAGE = 2
    #: The daemon does not answer.
    UNREACHABLE = 3
    NOT_FOUND = 4
    #: It does not fit the present state.
    CONFLICT = 5
    #: `plan`: retrainings of the past would have been other ones.
    CHANGED = 6


class Failure(Exception):
    """A command ends here, with a code and a sentence."""

    def __init__(self, code: Exit, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
