"""Files that are one data set together: what each is to it, and the look at the folder before it counts as complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from urllib.parse import unquote_to_bytes

from controller.core.datasets import Change, DataSets, Plan
from controller.core.grouping import Group, Grouping, Part, judge
from controller.core.manifest import MANIFEST_BYTES, Listed, read_manifest
from controller.core.model import Json, LedgerEntry
from controller.errors import InvalidInput
from controller.ports import Batch, SourceContext
from controller.sources.files.names import escape_name
from controller.sources.files.notes import Notes
from controller.sources.files.records import Finding, Known
from controller.sources.files.tree import Stamp, Tree

#: Names of files of which each line is a record …
_LINES = (".jsonl", ".ndjson")
#: … and of those whose first line names the columns.
_TABLES = (".csv", ".tsv")
#: Events, and parts of data sets, that are stored at once.
_BATCH = 100
_BATCH_PARTS = 5_000


class FileGroups:
    """The data sets below a folder."""

    def __init__(
        self,
        grouping: Grouping,
        tree: Tree,
        context: SourceContext,
        notes: Notes,
        *,
        event_type: str,
        emit: Callable[[Batch], bool],
    ) -> None:
        self._grouping = grouping
        self._tree = tree
        self._context = context
        self._notes = notes
        self._event_type = event_type
        self._emit = emit
        self._sets = DataSets(grouping, context.recall)
        #: Files that belong to no data set, since the start.
        self._outside_count = 0

    def load(self) -> None:
        """Read what waits."""
        self._sets.load()

    # -------------------------------------------------------------------------------------------------- what comes

    def counts_lines(self, path: str) -> bool:
        """Return whether the lines of a file are its records."""
        return path.lower().endswith(_LINES + _TABLES)

    def rows(self, path: str, lines: int | None) -> int | None:
        """Return the number of records in a file of so many lines; a table's first line is none."""
        if lines is None:
            return None
        return max(0, lines - 1) if path.lower().endswith(_TABLES) else lines

    def change(self, path: str, known: Known, *, fresh: bool, news: bool) -> Change | None:
        """Return what a file is to its data set; None when it has none, or is a manifest that nobody understands."""
        name = escape_name(path)
        group = self._grouping.group_of(name)
        if group is None:
            self._outside_count += 1
            return None
        role = self._grouping.role_of(name)
        if role == "manifest":
            listed = self._listed(path, known.stamp)
            if listed is None:
                return None
            return Change(path=name, group=group, role=role, listed=listed, news=news)
        if role == "marker":
            return Change(path=name, group=group, role=role, news=news)
        part = Part(name=name, size=known.stamp.size, digest=_content(known), rows=known.rows)
        return Change(path=name, group=group, role=role, part=part, fresh=fresh, news=news)

    def _listed(self, path: str, stamp: Stamp) -> Sequence[Listed] | None:
        name = escape_name(path)
        try:
            if stamp.size > MANIFEST_BYTES:
                raise InvalidInput(f"the manifest has {stamp.size} bytes; at most {MANIFEST_BYTES} are read")
            body = self._tree.read(path, stamp)
            listed = read_manifest(
                body, folder=name.rpartition("/")[0], roots=[self._tree.root, f"file://{self._tree.root}"]
            )
        except InvalidInput as error:
            self._notes.complain("manifest", f"{name!r}: {error.message}")
            return None
        self._notes.complain("manifest", None)
        return listed

    def plan(self, findings: Iterable[Finding]) -> Plan:
        """Return what to write for these findings, beside the files themselves."""
        changes = [finding.change for finding in findings if finding.change is not None]
        return self._sets.plan(changes, self._context.clock.now())

    def kept(self, plan: Plan) -> None:
        """Take over what the store took."""
        self._sets.kept(plan)
        self._notes.complain("group", self._sets.overfull())

    # --------------------------------------------------------------------------------------------- what is complete

    def finish(
        self,
        *,
        sighted: Iterable[str],
        passed: datetime | None,
        look_through: Callable[[str], bool],
        scan_soon: Callable[[], None],
    ) -> int:
        """Emit the data sets that are complete, and return their number.

        Not complete is one of which a file is still settling (`sighted`), or of which the folder shows something new:
        `look_through` finds that for a directory, and a scan that began (`passed`) after the last change for other data sets.
        """
        now = self._context.clock.now()
        ready = self._sets.ready(now)
        if not ready:
            return 0
        settling = {self._grouping.group_of(escape_name(path)) for path in sighted}
        plans: list[Plan] = []
        parts = emitted = 0
        for group in ready:
            if group.name in settling or not self._is_looked_through(group, passed, look_through, scan_soon):
                continue
            plan, count = self._close(group, now)
            if plan is None:
                continue
            plans.append(plan)
            parts += count
            if len(plans) >= _BATCH or parts >= _BATCH_PARTS:
                emitted += self._store(plans)
                plans, parts = [], 0
        return emitted + self._store(plans)

    def _is_looked_through(
        self,
        group: Group,
        passed: datetime | None,
        look_through: Callable[[str], bool],
        scan_soon: Callable[[], None],
    ) -> bool:
        at = self._sets.ready_at(group.name)
        if passed is not None and at is not None and passed >= at:
            return True
        if self._grouping.by is None:
            return not look_through("" if group.name == "." else _real(group.name))
        scan_soon()
        return False

    def _close(self, group: Group, now: datetime) -> tuple[Plan | None, int]:
        """Return what to write for a data set that may be complete, and how many parts it has; None when it is not."""
        parts = self._sets.parts(group.name)
        gone = [part for part in parts.values() if self._is_gone(part)]
        if gone:
            changes = [Change(path=part.name, group=group.name, role="part") for part in gone]
            return self._sets.plan(changes, now), len(gone)
        verdict = judge(self._grouping, group, parts, self._sets.listed(group.name), now)
        if verdict.complete_by is None:
            self._sets.put_off(group.name, verdict.look_at)
            return None, 0
        return (
            self._sets.finish(group, verdict, source=f"/sources/{self._context.name}", type=self._event_type),
            len(parts),
        )

    def _is_gone(self, part: Part) -> bool:
        try:
            return self._tree.stamp(_real(part.name)) is None
        except OSError:
            return False

    def _store(self, plans: Sequence[Plan]) -> int:
        if not plans:
            return 0
        events = [plan.event for plan in plans if plan.event is not None]
        entries: list[LedgerEntry] = [entry for plan in plans for entry in plan.entries]
        if not self._emit(Batch(events=events, ledger=entries)):
            return 0
        for plan in plans:
            self._sets.kept(plan)
        return len(events)

    def report(self) -> Json:
        """Return who waits, for people."""
        return {"waiting": self._sets.report(), "outside": self._outside_count}


def _content(known: Known) -> str:
    return known.digest or f"stamp:{known.stamp.size}-{known.stamp.mtime_ns}"


def _real(name: str) -> str:
    """Return the path that `escape_name` made a name of."""
    return os.fsdecode(unquote_to_bytes(name))
