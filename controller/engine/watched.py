"""Opens a watch with the champion's change, and counts in the transaction that decides what is seen while it lasts.

Every event passes here, and watches are few: those that are open are kept in memory, by the words of their `rollback_on`
and by the kinds of alert that would mean that the signal came back.
The rows are the truth; what is kept is read anew when a watch was opened or ended.
What a watch comes to is not concluded here but by the watcher (`watcher.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.core.conditions import event_scope
from controller.core.decide import select
from controller.core.episode import Episode
from controller.core.index import PolicyIndex
from controller.core.levels import has_levels
from controller.core.model import CONTROLLER_ORIGIN, Event, Promotion, Run
from controller.core.policy import ModelSpec, Policy
from controller.core.stages.count import event_time
from controller.core.watch import (
    DEFAULT_LASTING,
    MAX_EVIDENCE,
    Signal,
    Watching,
    came_back,
    evidence_of,
    is_about,
    signal_of,
)
from controller.store import Transaction

if TYPE_CHECKING:
    from controller.engine.runtime import Runtime

#: So many causes are searched for alerts, and so many alerts are remembered.
MAX_CAUSES = 500
MAX_EPISODES = 50
#: So many types of causes are named for people.
NAMED = 3


@dataclass(frozen=True, slots=True)
class _Open:
    """An open watch, ready to be asked."""

    watching: Watching
    labels: Mapping[str, str]
    #: Its signal's episodes: they are known, and no news.
    episodes: frozenset[str]


class Watched:
    """The watches that are open, as the evaluator needs them."""

    def __init__(self) -> None:
        self._stale = True
        self._open: dict[str, _Open] = {}
        self._index = PolicyIndex(())
        self._kinds: dict[tuple[str, str | None], list[_Open]] = {}

    def forget(self) -> None:
        """Have the rows read anew: a watch was opened or ended."""
        self._stale = True

    def refresh(self, runtime: Runtime, tx: Transaction) -> bool:
        """Bring what is kept up to date; return whether there is any watch at all."""
        if self._stale:
            self._stale = False
            try:
                self._read(runtime, tx)
            except BaseException:
                self._stale = True
                raise
        return bool(self._open)

    def worse(self, event: Event) -> Sequence[Policy]:
        """Return the `rollback_on` that an event may fit, each as a policy whose name is the id of its watch."""
        return self._index.candidates(event)

    def signals(self, episode: Episode) -> Sequence[_Open]:
        """Return the watches whose signal is of the type and subject of an episode."""
        return self._kinds.get((episode.type, episode.subject), ())

    def get(self, watch_id: str) -> _Open:
        """Return an open watch."""
        return self._open[watch_id]

    def _read(self, runtime: Runtime, tx: Transaction) -> None:
        self._open, leaves = {}, []
        kinds: dict[tuple[str, str | None], list[_Open]] = defaultdict(list)
        for watching in tx.watches.open():
            run = tx.runs.get(watching.run_id)
            spec = None if run is None else runtime.spec_of(tx, run)
            signal = signal_of(watching.signal)
            found = _Open(watching, {} if spec is None else spec.labels, frozenset(signal.episodes))
            self._open[watching.id] = found
            for kind in signal.kinds:
                kinds[kind].append(found)
            if spec is not None and spec.watch is not None and spec.watch.rollback_on is not None:
                leaves.append(
                    Policy(
                        model=watching.model,
                        name=watching.id,
                        on=spec.watch.rollback_on,
                        version="",
                        on_hash=watching.id,
                    )
                )
        self._index, self._kinds = PolicyIndex(leaves), dict(kinds)


class Lookout:
    """What the open watches see in one transaction of deciding."""

    def __init__(self, runtime: Runtime, tx: Transaction) -> None:
        self._runtime = runtime
        self._tx = tx
        self._watched = runtime.watched
        self._is_any = self._watched.refresh(runtime, tx)
        #: Whether the watcher has something to conclude.
        self.has_news = False

    def hear(self, event: Event, episode: Episode | None) -> None:
        """Count an event where it says worse, and note where it says that a signal came back; each event is heard once."""
        if not self._is_any:
            return
        for policy in self._watched.worse(event):
            self._ask(policy, event, episode)
        if episode is not None and episode.event_id == event.id and episode.state == "OPEN":
            for each in self._watched.signals(episode):
                self._note_return(each, episode)

    def _ask(self, policy: Policy, event: Event, episode: Episode | None) -> None:
        entry = self._watched.get(policy.name)
        if event.origin == CONTROLLER_ORIGIN:
            return  # that a source is silent or fails is missing data, which never rolls back
        if not is_about(entry.watching.opened_at, entry.watching.until, event_time(event)):
            return
        champion = self._tx.models.champion(policy.model) if _reads_champion(policy) else None
        scope = event_scope(event, model=policy.model, labels=entry.labels, champion=champion)
        selection = select(policy, event, scope, episode=episode)
        if selection.outcome == "skip":
            return
        watching = self._tx.watches.lock(policy.name)
        if watching is None or watching.state != "OPEN":
            return
        if selection.outcome == "error":
            reason = selection.trace[-1].reason
            self._tx.watches.set(watching.id, broken=watching.broken + 1, broken_reason=reason)
            self._runtime.log.warning(
                "watch.not_understood", model=policy.model, run_id=watching.run_id, event_id=event.id, error=reason
            )
            return
        samples = watching.samples + 1
        evidence = [*watching.evidence, evidence_of(event)][:MAX_EVIDENCE]
        look_at = self._tx.now if samples >= watching.needed else watching.look_at
        self._tx.watches.set(watching.id, samples=samples, evidence=evidence, look_at=look_at)
        self.has_news = self.has_news or samples >= watching.needed

    def _note_return(self, entry: _Open, episode: Episode) -> None:
        """Note that the signal came back; its run did not help, and the breaker is to know before the policies are asked."""
        began = entry.watching
        if episode.id in entry.episodes or not is_about(began.opened_at, began.until, episode.opened_at):
            return
        watching = self._tx.watches.lock(began.id)
        if watching is None or watching.state != "OPEN" or watching.came_back is not None:
            return
        self._tx.watches.set(watching.id, came_back=episode.event_id, look_at=self._tx.now)
        reason = came_back(episode.type, episode.subject, str(episode.event_id))
        self._tx.runs.set(watching.run_id, outcome="NOT_CURED", outcome_reason=reason)
        self.has_news = True


def open_watch(tx: Transaction, spec: ModelSpec, run: Run, promotion: Promotion) -> None:
    """Open the watch of a run, in the transaction that makes its version the champion."""
    watch = spec.watch
    tx.watches.add(
        run,
        promotion,
        _signal(tx, spec, run),
        until=tx.now + (DEFAULT_LASTING if watch is None else watch.lasting),
        rolls_back=watch is not None and watch.rollback_on is not None,
        needed=1 if watch is None else watch.min_samples,
    )


def _signal(tx: Transaction, spec: ModelSpec, run: Run) -> Signal:
    """Return what asked for a run, as far as it can be seen to end."""
    causes = tx.runs.causes(run.id)
    episodes = _episodes_behind(tx, run)
    kinds = list(dict.fromkeys((episode.type, episode.subject) for episode in episodes.values()))
    for kind, subject in kinds:  # the alert may have flapped while its retraining went on
        for episode in tx.watches.open_episodes_of(kind, subject, MAX_EPISODES):
            episodes.setdefault(episode.id, episode)
    levels = [
        (name, key)
        for name, key in tx.watches.asked_by(run.id)
        if (policy := spec.policies.get(name)) is not None and has_levels(policy.on)
    ]
    return Signal(
        episodes=tuple(episodes)[:MAX_EPISODES],
        kinds=tuple(kinds),
        levels=tuple(levels),
        asked_by=", ".join(list(dict.fromkeys(cause.type for cause in causes))[:NAMED]),
    )


def _episodes_behind(tx: Transaction, run: Run) -> dict[str, Episode]:
    found: dict[str, Episode] = {}
    for event in tx.watches.causes(run.id, MAX_CAUSES):
        episode = tx.episodes.of_event(event)
        if episode is not None:
            found[episode.id] = episode
        if len(found) >= MAX_EPISODES:
            break
    return found


def _reads_champion(policy: Policy) -> bool:
    when = getattr(policy.on, "when", None)
    return when is not None and "champion" in when.variables
