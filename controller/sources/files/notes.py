"""What the source tells people about trouble with single paths, and with the folder."""

from __future__ import annotations

import os

from controller.ports import SourceContext
from controller.sources.files.names import escape_name

_LOG_AGAIN_SECONDS = 3600.0
#: Paths about which something is remembered.
_NOTES_LIMIT = 1_000
_UNREADABLE = "unreadable"


class Notes:
    """What people are told: complaints that stand while something is wrong, and log lines, not too
    many of either.
    """

    def __init__(self, root: str, context: SourceContext) -> None:
        self._root = root
        self._context = context
        self._standing: dict[str, str | None] = {}
        #: Path to (reason, scan in which it was last met).
        self._unreadable: dict[str, tuple[str, int]] = {}
        self._scan = 0
        self._vanished_count = 0
        #: Path to the time of its last log line.
        self._logged: dict[str, float] = {}

    def complain(self, name: str, reason: str | None) -> None:
        """Pass a complaint on, and log it, when it is another one than before."""
        if self._pass_on(name, reason) and reason is not None:
            self._context.log.warning("files.complaint", source=self._context.name, complaint=name, reason=reason)

    def _pass_on(self, name: str, reason: str | None) -> bool:
        if name in self._standing and self._standing[name] == reason:
            return False
        self._standing[name] = reason
        self._context.complain(name, reason)
        return True

    def begin(self) -> None:
        """Begin a scan: what is still wrong will be met again."""
        self._scan += 1

    def end(self) -> None:
        """End a scan: what was not met again is well, or gone."""
        self._unreadable = {path: note for path, note in self._unreadable.items() if note[1] == self._scan}
        self._say_unreadable()

    def met(self, path: str) -> None:
        """Keep a complaint about a path until it is read again."""
        if note := self._unreadable.get(path):
            self._unreadable[path] = (note[0], self._scan)

    def unreadable(self, path: str, error: OSError) -> None:
        """Complain about a path."""
        reason = error.strerror or repr(error)
        if path in self._unreadable or len(self._unreadable) < _NOTES_LIMIT:
            self._unreadable[path] = (reason, self._scan)
        if self._may_log(path):
            self._context.log.warning(
                "files.unreadable_path",
                source=self._context.name,
                path=self._shown(path),
                reason=reason,
            )
        self._say_unreadable()

    def readable(self, path: str) -> None:
        """Withdraw the complaint about a path."""
        if self._unreadable.pop(path, None) is not None:
            self._say_unreadable()

    def vanished(self, path: str) -> None:
        """Note that a file was gone before it was read."""
        self._vanished_count += 1
        self._unreadable.pop(path, None)
        if self._may_log(path):
            self._context.log.info(
                "files.vanished",
                source=self._context.name,
                path=self._shown(path),
                count=self._vanished_count,
            )

    def _say_unreadable(self) -> None:
        reason = None
        if self._unreadable:
            path, (error, _) = next(iter(self._unreadable.items()))
            others = len(self._unreadable) - 1
            reason = f"cannot read {self._shown(path)!r}: {error}" + (f", nor {others} more" if others else "")
        self._pass_on(_UNREADABLE, reason)

    def _may_log(self, path: str) -> bool:
        """Return whether the last line about a path is an hour old."""
        now = self._context.clock.monotonic()
        if now - self._logged.get(path, -_LOG_AGAIN_SECONDS) < _LOG_AGAIN_SECONDS:
            return False
        self._logged.pop(path, None)
        if len(self._logged) >= _NOTES_LIMIT:
            del self._logged[next(iter(self._logged))]
        self._logged[path] = now
        return True

    def _shown(self, path: str) -> str:
        return escape_name(os.path.normpath(f"{self._root}/{path}"))
