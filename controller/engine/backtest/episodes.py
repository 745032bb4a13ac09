"""The episodes of a backtest, in memory; the store's counterpart is `controller/store/episodes.py`, and the janitor gives them up."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from controller.core.episode import Episode, Mark, expiry

if TYPE_CHECKING:
    from controller.engine.backtest.world import World

#: So many that are over are remembered, because a late repeat is no news; the oldest go first.
MOST_ENDED = 100_000

#: Where its key is unique, and the key.
Name = tuple[str, str]


class MemoryEpisodes:
    """Alerts from firing to resolved."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._open: dict[Name, Episode] = {}
        self._ended: dict[Name, Episode] = {}
        self._due: list[tuple[datetime, Name]] = []

    def known(self, wanted: Iterable[Name]) -> dict[Name, Episode]:
        """Return those of the wanted (origin, key) that are known."""
        found = {}
        for name in wanted:
            episode = self._open.get(name) or self._ended.get(name)
            if episode is not None:
                found[name] = episode
        return found

    def begin(self, episodes: Iterable[Episode]) -> None:
        """Take in episodes nobody knew of, in the state that they are in."""
        for episode in episodes:
            name = (episode.origin, episode.key)
            if episode.state != "OPEN":
                self._put_away(name, episode)
                continue
            self._open[name] = episode
            if episode.expires_at is not None:
                heapq.heappush(self._due, (episode.expires_at, name))

    def end(self, episode: Episode, *, target: str, cause: str, reason: str) -> None:
        """End an open episode."""
        del reason
        name = (episode.origin, episode.key)
        known = self._open.pop(name, None)
        if known is not None:
            now = self._world.now
            seen_at = now if target == "RESOLVED" else known.seen_at
            self._put_away(name, replace(known, state=target, cause=cause, seen_at=seen_at, finished_at=now))
            self._world.policies.wake(model=None, waits_for=("episode",))
            self._world.policies.wake(model=None, waits_for=("episode",))

    def alive(self, signs: Mapping[Name, Mark]) -> None:
        """Take in the last signs of life of now."""
        now = self._world.now
        for name, mark in signs.items():
            known = self._open.get(name)
            if known is not None:
                expires_at = expiry(now, mark)
                self._open[name] = replace(
                    known, seen_at=now, expires_at=expires_at, expires_after_seconds=mark.expire_seconds
                )
                heapq.heappush(self._due, (expires_at, name))

    def open_of(self, origins: Sequence[str] | None) -> list[Episode]:
        """Return open episodes of these origins, or of all for None, the oldest first."""
        found = [each for each in self._open.values() if origins is None or each.origin in origins]
        return sorted(found, key=lambda each: (each.opened_at, each.id))

    def next_expiry(self) -> datetime | None:
        """Return when the next open episode is given up."""
        while self._due and not self._is_true(self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def expire(self) -> None:
        """Give up the episodes whose time without a sign of life is over, as the janitor does."""
        while (at := self.next_expiry()) is not None and at <= self._world.now:
            _, name = heapq.heappop(self._due)
            self.end(self._open[name], target="EXPIRED", cause="expired", reason="")

    def _put_away(self, name: Name, episode: Episode) -> None:
        self._ended[name] = episode
        while len(self._ended) > MOST_ENDED:
            del self._ended[next(iter(self._ended))]

    def _is_true(self, entry: tuple[datetime, Name]) -> bool:
        episode = self._open.get(entry[1])
        return episode is not None and episode.expires_at == entry[0]
