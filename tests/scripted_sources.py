"""Sources that do what a test tells them, well or badly, found through entry points like any plugin.

What they know lives in a `Feed`, one per installation and source, which outlives the daemon.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from controller import plugins
from controller.core.model import Json, LedgerEntry, NewEvent
from controller.errors import InvalidInput
from controller.ports import Batch, PluginOptions, Reply, Request, SourceContext, Stop, Taken

_ENTRY_POINTS = """\
[controller.sources]
scripted = tests.scripted_sources:ScriptedSource
scripted-hook = tests.scripted_sources:ScriptedHook
"""


@dataclass
class Feed:
    """What a source reads."""

    #: A log, with positions from 0.
    records: list[Json] = field(default_factory=list)
    #: How often `run` began.
    runs: int = 0
    #: Lets one go that hangs.
    release: threading.Event = field(default_factory=threading.Event)
    #: What a source that hangs was told when it emitted after its end.
    told: list[Exception] = field(default_factory=list)


#: By the folder of the configuration, and the source's name.
FEEDS: dict[tuple[Path, str], Feed] = defaultdict(Feed)


class ScriptedSource:
    """Reads the log of its feed from the position it remembers; or behaves badly."""

    class Options(PluginOptions):
        """Options."""

        behaviour: Literal["reads", "is not built", "raises", "hangs", "is refused"] = "reads"

    def __init__(self, options: Options, context: SourceContext) -> None:
        if options.behaviour == "is not built":
            raise RuntimeError("no such library")
        self._options = options
        self._context = context
        self.feed = FEEDS[context.base, context.name]

    def run(self, stop: Stop) -> None:
        """Behave as configured."""
        self.feed.runs += 1
        if self._options.behaviour == "raises":
            raise RuntimeError("the broker said something new")
        if self._options.behaviour == "is refused":
            self._context.emit(Batch(events=[NewEvent(source="/x", source_id="1", type="t", data=float("nan"))]))
        if self._options.behaviour == "hangs":
            self._hang()
        while not stop.wait(0.01):
            self._read()

    def _read(self) -> None:
        position = int(self._context.recall("position").get("position", 0))
        self._context.note("lag", len(self.feed.records) - position)
        for number, record in enumerate(self.feed.records[position:], position):
            event = NewEvent(source="/log", source_id=str(number), type="log.line", data=record)
            self._context.note("payload", b'{"password": "hunter2", "line": %d}' % number)
            self._context.note("mapping", "became log.line")
            self._context.emit(Batch(events=[event], ledger=[LedgerEntry(key="position", value=number + 1)]))

    def _hang(self) -> None:
        """Ignore `stop`, and speak when it is long over."""
        number = self.feed.runs
        self.feed.release.wait()
        self._context.complain(f"run {number}", "it hung")
        try:
            self._context.emit(
                Batch(
                    events=[NewEvent(source="/log", source_id="late", type="late")],
                    ledger=[LedgerEntry(key="position", value=10**6)],
                )
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            self.feed.told.append(error)

    def seek(self, where: Mapping[str, str]) -> Sequence[LedgerEntry]:
        """Go on from `earliest`, `latest`, or a number."""
        if where.get("topic") != "log":
            raise InvalidInput(f"there is no topic {where.get('topic')!r}", hint="it has: log")
        ends = {"earliest": 0, "latest": len(self.feed.records)}
        to = where["to"]
        if to not in ends and not to.isdigit():
            raise InvalidInput(f"{to!r} is no position")
        return [LedgerEntry(key="position", value=ends.get(to, int(to) if to.isdigit() else 0))]

    def report(self) -> Mapping[str, Json]:
        """Say where it is."""
        return {"length": len(self.feed.records), "api_key": "s3cr3t"}


class ScriptedHook:
    """Takes whatever is posted to it."""

    class Options(PluginOptions):
        """Options."""

        verify: str | None = None

    def __init__(self, options: Options, context: SourceContext) -> None:
        self._context = context

    def take(self, request: Request) -> Taken:
        """Make one event of a request."""
        event = NewEvent(source="/hook", source_id=str(len(request.body)), type="hook")
        return Taken(batch=Batch(events=[event]), reply=Reply(status=202))


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Let these plugins be found as an installed distribution, whose metadata are written into `folder`."""
    metadata = folder / "scripted_sources-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted-sources\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(_ENTRY_POINTS)
    sys.path.append(str(folder))
    plugins._found.cache_clear()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        plugins._found.cache_clear()
