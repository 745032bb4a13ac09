"""The episodes that the events of one batch belong to: read once before the batch is decided, written once after it.

In between they live here, so that of a firing and a resolved event in the same batch each sees the effects of the one before it.
The evaluator calls this for the events that it decides on, the inbox for the duplicates that it finds:
a repeat that has the identity of the event that it repeats is not stored, and is yet a sign of life.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from controller.config import Config
from controller.core.episode import Episode, Mark, advance, is_marked, read_mark
from controller.core.model import EPISODE_ID, Event, NewEvent
from controller.engine.books import Books
from controller.errors import ExpressionError
from controller.ports import Log

#: What names an episode: the source or dedup domain that its key is unique in, and the key.
Name = tuple[str, str]


def domain_of(config: Config, origin: str) -> str:
    """Return in what an episode's key is unique: the source's `dedup_domain`, which it may share, or the source itself."""
    spec = config.sources.get(origin)
    return origin if spec is None or spec.dedup_domain is None else spec.dedup_domain


class Episodes:
    """The episodes of one batch of events that are decided on."""

    def __init__(self, tx: Books, config: Config, events: Iterable[Event]) -> None:
        self._tx = tx
        self._config = config
        #: As they were stored before this batch, as they were after their first event in it, and as they are now.
        self._before: Mapping[Name, Episode] = {}
        self._first: dict[Name, Episode] = {}
        self._now: dict[Name, Episode] = {}
        #: The last sign of life in this batch.
        self._signs: dict[Name, Mark] = {}
        named = {self._name(event, mark) for event in events if (mark := self.mark(event)) is not None}
        if named:
            self._before = tx.episodes.known(named)

    @staticmethod
    def mark(event: Event) -> Mark | None:
        """Return what an event says of its episode; None for one that belongs to none, or whose mark cannot be read."""
        if not is_marked(event.extensions):
            return None
        try:
            return read_mark(event.extensions)
        except ExpressionError:  # the stage says so, in the decision of each policy that the event concerns
            return None

    def hear(self, event: Event, mark: Mark) -> Episode:
        """Return the episode of an event, as it is after it."""
        name = self._name(event, mark)
        known = self._now.get(name) or self._before.get(name)
        episode = advance(known, mark, event, origin=name[0], now=self._tx.now)
        if known is None:
            episode = replace(episode, id=self._tx.ids.make(EPISODE_ID))
        self._now[name] = episode
        self._first.setdefault(name, episode)
        if episode.state == "OPEN":
            self._signs[name] = mark
        return episode

    def touched(self) -> Mapping[Name, Episode]:
        """Return the episodes that events of this batch belong to, as they are now."""
        return self._now

    def write(self) -> list[Episode]:
        """Write what the batch changed, in one order of keys, and return the episodes that were opened or resolved by it."""
        born = {name: episode for name, episode in self._first.items() if name not in self._before}
        self._tx.episodes.begin(born.values())
        changed = list(born.values())
        for name, episode in sorted(self._now.items(), key=lambda item: item[0][::-1]):
            was = self._before.get(name) or born[name]
            if episode.state != was.state:
                self._tx.episodes.end(was, target=episode.state, cause=episode.cause, reason="")
                changed.append(episode)
            elif episode != was:
                self._tx.episodes.alive({name: self._signs[name]})
        return changed

    def _name(self, event: Event, mark: Mark) -> Name:
        return domain_of(self._config, event.origin), mark.key


def signs_of_life(events: Iterable[NewEvent], *, domain: str) -> dict[Name, Mark]:
    """Return the signs of life in events that were stored before: repeats of what fires."""
    signs: dict[Name, Mark] = {}
    for event in events:
        if not is_marked(event.extensions):
            continue
        try:
            mark = read_mark(event.extensions)
        except ExpressionError:  # said when the event was decided that this one repeats
            continue
        if mark.state == "firing":
            signs[domain, mark.key] = mark
    return signs


def log_episode(log: Log, episode: Episode) -> None:
    """Write the line of an episode that was opened, resolved or given up."""
    log.info(
        "episode",
        episode_id=episode.id,
        state=episode.state,
        cause=episode.cause,
        type=episode.type,
        subject=episode.subject,
        origin=episode.origin,
        event_id=episode.event_id,
    )
