"""A folder on a real file system, an inbox in memory, a clock, and a file source between them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from controller.sources.files import FileOptions, FileSource
from controller.testing import ManualClock, MemoryInbox

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Landing:
    """A folder, an inbox, a clock, and a source between them."""

    def __init__(self, base: Path, **options: Any) -> None:
        self.base = base
        self.root = base / "landing"
        self.root.mkdir(exist_ok=True)
        self.clock = ManualClock(NOW)
        self.inbox = MemoryInbox(name="landing", clock=self.clock)
        self.options = {"path": "landing", "settle": "0s", **options}
        self.restart()

    def restart(self, **options: Any) -> None:
        self.options |= options
        self.source = FileSource(FileOptions(**self.options), self.inbox.context(self.base))

    def write(self, name: str, content: str = "x") -> Path:
        path = self.root / name
        path.write_text(content)
        return path

    def scan(self) -> list[str]:
        """Scan once, and return the ids of the new events."""
        before = len(self.inbox.events)
        self.source.scan()
        return [event.source_id for event in self.inbox.events[before:]]

    def settle(self) -> list[str]:
        """Scan, wait until what was found has settled, and scan again."""
        before = len(self.inbox.events)
        self.source.scan()
        self.clock.advance(10)
        self.source.scan()
        return [event.source_id for event in self.inbox.events[before:]]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [fields for _, name, fields in self.inbox.log.lines if name == event]


class Crash(Exception):
    """The process dies here."""
