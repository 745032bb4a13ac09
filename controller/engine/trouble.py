"""Says when a source is failing: it complains, and does so for longer than a moment.

An episode, `source.failing`, as `source.silent` is one: policies may watch it, and `absent` knows by it that nothing can be concluded from
what does not come. A source that is tried again counts as well until it fails anew, so it is well only after a while without a complaint.
The doctor of the replica that leads asks (`doctor.py`), and writes the events; the complaints of other replicas stand in their reports.
What is open is read from the store at the start of a term, and again before something new is said, so neither a restart nor a change of
leader repeats anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from controller.core.model import CONTROLLER_ORIGIN, EPISODE, EPISODE_EXPIRE, EPISODE_STATE, NewEvent
from controller.engine.runtime import Runtime

#: The type of the event that says that a source is failing, or (resolved) no longer.
SOURCE_FAILING = "source.failing"
#: A source is failing when it complained for so long, and well again when it did not for so long.
FAILING_SECONDS, WELL_SECONDS = 30.0, 60.0
#: It ends by being well, however long that takes; this only bounds what a lost configuration would leave open.
_EPISODE_EXPIRES_SECONDS = 365 * 86_400
#: What is looked at again while there is something to look at.
LOOK_AGAIN_SECONDS = 15.0
_READ_AGAIN_SECONDS = 300.0


class Trouble:
    """Which sources complain, since when, and of which that was said."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        #: Monotonic seconds since when each complains, and since when it no longer does.
        self._since: dict[str, float] = {}
        self._well: dict[str, float] = {}
        #: The keys of open episodes, by source, and when (in monotonic seconds) the store was asked for them.
        self._open: dict[str, str] = {}
        self._read_at: float | None = None

    @property
    def is_any(self) -> bool:
        """Whether there is something to look at again soon."""
        return bool(self._since or self._open)

    def judge(self, now: datetime, monotonic: float) -> list[NewEvent]:
        """Return what changed; asked again without having been written (`wrote`), it is the same."""
        self._read(monotonic)
        changes = []
        for name in sorted({*self._runtime.config.sources, *self._open}):
            complaints = self._runtime.complaints.of(name) if name in self._runtime.config.sources else {}
            if complaints:
                self._well.pop(name, None)
                since = self._since.setdefault(name, monotonic)
                is_due = monotonic - since >= FAILING_SECONDS
                if is_due and name not in self._open:
                    self._read(monotonic, at_once=True)
                if is_due and name not in self._open:
                    changes.append(self._event(name, f"failing/{name}/{_written(now)}", "firing", now, complaints))
            elif name in self._since or name in self._open:
                well_since = self._well.setdefault(name, monotonic)
                if name not in self._runtime.config.sources or monotonic - well_since >= WELL_SECONDS:
                    self._since.pop(name, None)
                    if name in self._open:
                        changes.append(self._event(name, self._open[name], "resolved", now, {}))
        return changes

    def wrote(self, events: list[NewEvent]) -> None:
        """Take in that these events were stored."""
        for event in events:
            name, key = str(event.subject), str(event.extensions[EPISODE])
            if event.extensions[EPISODE_STATE] == "firing":
                self._open[name] = key
                self._runtime.log.warning("source.failing", source=name, reason=event.data["reason"])
            else:
                self._open.pop(name, None)
                self._well.pop(name, None)
                self._runtime.log.info("source.well_again", source=name)

    def _read(self, monotonic: float, *, at_once: bool = False) -> None:
        """Find what a process before this one said, now and then: it may have been decided only after our start.

        What has ended may be found once more, and is then told again, with the same identity.
        """
        if not at_once and self._read_at is not None and monotonic - self._read_at < _READ_AGAIN_SECONDS:
            return
        with self._runtime.store.reading() as tx:
            found = tx.episodes.open_of([CONTROLLER_ORIGIN])
        self._read_at = monotonic
        self._open = {str(each.subject): each.key for each in found if each.type == SOURCE_FAILING} | self._open

    @staticmethod
    def _event(name: str, key: str, state: str, now: datetime, complaints: Mapping[str, str]) -> NewEvent:
        reasons = list(complaints.values())
        return NewEvent(
            source=f"/sources/{name}",
            source_id=f"{key}/{state}",
            type=SOURCE_FAILING,
            subject=name,
            time=now,
            data={
                "source": name,
                "state": state,
                "reason": "; ".join(reasons) or "it complains no more",
                "complaints": reasons,
            },
            extensions={EPISODE: key, EPISODE_STATE: state, EPISODE_EXPIRE: _EPISODE_EXPIRES_SECONDS},
        )


def _written(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
