"""Objects that are one data set together: what each is to it, and the look at the bucket before it counts as complete."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable
from datetime import datetime

from controller.core.datasets import Change, DataSets, Plan
from controller.core.grouping import Group, Grouping, Part, judge
from controller.core.manifest import MANIFEST_BYTES, read_manifest
from controller.core.model import Json
from controller.errors import InvalidInput
from controller.ports import SourceContext
from controller.sources.bucket.names import shown
from controller.sources.bucket.objects import Objects, StoredObject
from controller.sources.bucket.options import Place

#: When more data sets than this may be complete, they wait for the next whole listing instead of one of each.
_LOOKS = 50


class BucketGroups:
    """The data sets in a bucket; emits nothing itself."""

    def __init__(self, grouping: Grouping, place: Place, context: SourceContext, *, event_type: str) -> None:
        self._grouping = grouping
        self._place = place
        self._context = context
        self._event_type = event_type
        self.sets = DataSets(grouping, context.recall)
        #: Objects that belong to no data set, since the start.
        self._outside_count = 0

    def change(
        self,
        found: StoredObject,
        path: str,
        objects: Objects,
        *,
        fresh: bool,
        news: bool,
    ) -> Change | None:
        """Return what an object is to its data set; None when it has none, or is a manifest that nobody understands."""
        name = shown(path)
        group = self._grouping.group_of(name)
        if group is None:
            self._outside_count += 1
            return None
        role = self._grouping.role_of(name)
        if role == "marker":
            return Change(path=name, group=group, role=role, news=news)
        if role == "part":
            part = Part(name=name, size=found.size, digest=_content(found))
            return Change(path=name, group=group, role=role, part=part, fresh=fresh, news=news)
        try:
            if found.size > MANIFEST_BYTES:
                raise InvalidInput(f"the manifest has {found.size} bytes; at most {MANIFEST_BYTES} are read")
            body = objects.read(found.key, found.size)
            folder = posixpath.dirname(name)
            listed = read_manifest(
                body, folder=folder, roots=[self._place.root, f"{self._place.bucket}/{self._place.prefix}"]
            )
        except InvalidInput as error:
            self._context.complain("manifest", f"{name!r}: {error.message}")
            return None
        self._context.complain("manifest", None)
        return Change(path=name, group=group, role=role, listed=listed, news=news)

    def gone(self, path: str) -> Change | None:
        """Return what it means to its data set that an object is gone; None for nothing."""
        name = shown(path)
        group = self._grouping.group_of(name)
        if group is None or self._grouping.role_of(name) != "part":
            return None
        return Change(path=name, group=group, role="part")

    def group_of(self, path: str) -> str | None:
        """Return the data set that an object belongs to."""
        return self._grouping.group_of(shown(path))

    def kept(self, plan: Plan) -> None:
        """Take over what the store took."""
        self.sets.kept(plan)
        self._context.complain("group", self.sets.overfull())

    def candidates(self, now: datetime, *, settling: Iterable[str | None], passed: datetime | None) -> list[Group]:
        """Return the data sets that may be complete at `now`, and of which no object is still settling.

        Those that a whole listing which began (`passed`) after their last change has confirmed come first; a few others may be
        looked through one by one, if they are directories.
        """
        unsettled = set(settling)
        ready = [group for group in self.sets.ready(now) if group.name not in unsettled]
        confirmed = [group for group in ready if self._is_confirmed(group, passed)]
        if self._grouping.by is not None or len(ready) - len(confirmed) > _LOOKS:
            return confirmed
        return confirmed + [group for group in ready if not self._is_confirmed(group, passed)]

    def is_complete(self, group: Group, passed: datetime | None, look_through: Callable[[str], bool]) -> bool:
        """Return whether nothing new of a data set is in the bucket; `look_through` is told a folder and finds out."""
        if self._is_confirmed(group, passed):
            return True
        return not look_through("" if group.name == "." else f"{group.name}/")

    def _is_confirmed(self, group: Group, passed: datetime | None) -> bool:
        at = self.sets.ready_at(group.name)
        return passed is not None and at is not None and passed >= at

    def close(self, group: Group, now: datetime) -> Plan | None:
        """Return what to write for a data set that may be complete; None when it is not."""
        verdict = judge(self._grouping, group, self.sets.parts(group.name), self.sets.listed(group.name), now)
        if verdict.complete_by is None:
            self.sets.put_off(group.name, verdict.look_at)
            return None
        return self.sets.finish(group, verdict, source=self._place.url, type=self._event_type)

    def report(self) -> Json:
        """Return who waits, for people."""
        return {"waiting": self.sets.report(), "outside": self._outside_count}


def _content(found: StoredObject) -> str:
    return f"stamp:{found.mark}" if found.etag is None else f"etag:{found.etag}"
