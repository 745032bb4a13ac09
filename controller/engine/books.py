"""What a sitting looks up and writes, whoever keeps it: the store's transaction, or the world of a backtest in memory.

`sitting.py` and `episodes.py` know only this, so that deciding in a backtest is deciding live: the same code, in the same order.
The store's rows (`controller/store`) fit as they are; `backtest/world.py` is the other implementation.
Nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from controller.clock import Ids
from controller.config import Config
from controller.core.chain import Facts, PolicyState
from controller.core.episode import Episode, Mark
from controller.core.index import PolicyIndex
from controller.core.model import Cause, Champion, Decision, Event, Pause, Run
from controller.core.policy import Budget, Policy
from controller.ports import Log
from controller.telemetry import Metrics


class Setting(Protocol):
    """What decides, and where it is said."""

    @property
    def config(self) -> Config:
        """The configuration in force."""
        ...

    @property
    def index(self) -> PolicyIndex:
        """Its policies."""
        ...

    @property
    def log(self) -> Log:
        """Where decisions are logged."""
        ...

    @property
    def metrics(self) -> Metrics:
        """Where decisions are counted."""
        ...


class PolicyBook(Protocol):
    """What policies concluded, hold and remember; see `controller/store/policies.py`."""

    def take_numbers(self, count: int) -> int: ...

    def state(self, model: str, policy: str, key: str) -> PolicyState | None: ...

    def save_state(self, policy: Policy, key: str, state: PolicyState) -> None: ...

    def drop_state(self, model: str, policy: str, key: str) -> None: ...

    def states(self) -> list[tuple[str, str, str, str, PolicyState]]: ...

    def touch(self, model: str, policy: str, key: str) -> None: ...

    def wake(self, *, model: str | None, waits_for: Sequence[str], policy: str | None = None) -> int: ...

    def collect(self, model: str, policy: str, key: str, cause: Cause) -> None: ...

    def collected(self, model: str, policy: str, key: str) -> list[Cause]: ...

    def drop_causes(self, model: str, policy: str, key: str, *, before: datetime | None = None) -> None: ...

    def let_go(self, model: str, policy: str, key: str, event_id: str) -> None: ...

    def drop_causes_of(self, model: str, policy: str, key: str, instants: Sequence[datetime]) -> None: ...

    def key_count(self, model: str, policy: str) -> int: ...

    def longest_untouched(self, model: str, policy: str, limit: int) -> list[str]: ...

    def holds_of(self, event_id: str) -> list[tuple[str, str, str, PolicyState, int]]: ...

    def add_decision(self, decision: Decision, *, seq: int, event_id: str | None, run_id: str | None) -> str: ...

    def count_refusals(self, refused: Mapping[tuple[str, str, str], int]) -> None: ...

    def facts(
        self,
        policy: Policy,
        key: str,
        *,
        champion: Champion | None,
        labels: Mapping[str, str],
        pauses: Iterable[Pause],
        event: Event | None = None,
        held: int = 0,
        sharing: Sequence[str] | None = None,
    ) -> Facts: ...

    def spent(self, budget: Budget, models: Sequence[str]) -> Sequence[tuple[datetime, float]]: ...


class RunBook(Protocol):
    """Runs and their causes; see `controller/store/runs.py`."""

    def new_id(self) -> str: ...

    def add(self, run: Run) -> None: ...

    def add_causes(self, run_id: str, decision_id: str, causes: Sequence[Cause], *, joins: bool) -> None: ...

    def causes(self, run_id: str) -> list[Cause]: ...

    def emitters(self, run_ids: Iterable[str]) -> dict[str, tuple[str, int]]: ...

    def get(self, run_id: str) -> Run | None: ...

    def set(self, run_id: str, **values: Any) -> None: ...

    def move(
        self, run: Run, target: str, *, cause: str, reason: str = "", actor: str = "controller", **values: Any
    ) -> None: ...


class EpisodeBook(Protocol):
    """Alerts from firing to resolved; see `controller/store/episodes.py`."""

    def known(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Episode]: ...

    def begin(self, episodes: Iterable[Episode]) -> None: ...

    def end(self, episode: Episode, *, target: str, cause: str, reason: str) -> None: ...

    def alive(self, signs: Mapping[tuple[str, str], Mark]) -> None: ...

    def open_of(self, origins: Sequence[str] | None) -> list[Episode]: ...


class EventBook(Protocol):
    """What came in."""

    def mark_processed(self, decided: Sequence[tuple[str, int]]) -> None: ...


class ModelBook(Protocol):
    """Who serves."""

    def champion(self, name: str) -> Champion | None: ...


class PeopleBook(Protocol):
    """What persons did."""

    def pauses(self) -> list[Pause]: ...


class Books(Protocol):
    """Everything that is looked up and written while it is decided at one instant."""

    @property
    def now(self) -> datetime:
        """The instant at which it is decided."""
        ...

    @property
    def ids(self) -> Ids:
        """Where ids come from."""
        ...

    @property
    def policies(self) -> PolicyBook: ...

    @property
    def runs(self) -> RunBook: ...

    @property
    def episodes(self) -> EpisodeBook: ...

    @property
    def events(self) -> EventBook: ...

    @property
    def models(self) -> ModelBook: ...

    @property
    def people(self) -> PeopleBook: ...
