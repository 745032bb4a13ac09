"""Brings the history of a store into a backtest: where it starts from, what persons did, and what became of runs that really happened.

In a *counterfactual* the configuration is another than the one that decided then, so some runs of the backtest never happened. A run that
did (of the same model and policy, led to by one of the same events, or by a timer within the hour) keeps its outcome, length and cost;
any other gets what is usual for its model (`core/past.py`), and the report says *assumed*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from controller.config import Config
from controller.core.duration import format_duration
from controller.core.model import Cause, Event, Run
from controller.core.past import Fate, PastRun, Usual, assumed, fate_of, usual_of
from controller.engine.backtest.driver import Driver, pages_of
from controller.engine.backtest.report import Account, Report
from controller.store.export import Past

#: A run that only a timer led to is taken for a recorded one of the same policy that was decided so near to it.
SAME_OCCASION = timedelta(hours=1)


class Recorded:
    """Says what becomes of a run: what really did, else what is usual."""

    def __init__(self, past: Past | None, usual: Mapping[str, Usual]) -> None:
        self._past = past
        self._usual = usual
        #: Runs of the record that were found; each happened once.
        self._taken: set[str] = set()

    def fate(self, run: Run, causes: Sequence[Cause]) -> Fate:
        """Return the fate of a run that starts."""
        usual = self._usual[run.model]
        if self._past is None or usual.runs == 0:
            return assumed(usual)
        ids = [cause.event_id for cause in causes if cause.event_id is not None]
        if ids:
            found = self._past.of_causes(run.model, run.policy, ids)
        else:
            found = [
                each
                for each in self._past.near(run.model, run.policy, run.decided_at, SAME_OCCASION)
                if each.key == run.key
            ]
        real = next((each for each in found if each.id not in self._taken and each.started_at is not None), None)
        if real is None:
            return assumed(usual)
        self._taken.add(real.id)
        return fate_of(real, usual)


def usual_runs(config: Config, past: Past | None) -> dict[str, Usual]:
    """Return what is usual for the runs of each model, from the whole history."""
    by_model: dict[str, list[PastRun]] = {name: [] for name in config.models}
    if past is not None:
        for run in past.runs():
            if run.model in by_model:
                by_model[run.model].append(run)
    return {
        name: usual_of(runs, promotes=bool(config.models[name].promoters), cost=config.models[name].training.cost)
        for name, runs in by_model.items()
    }


def backtest(
    config: Config,
    past: Past | None,
    *,
    since: datetime,
    until: datetime,
    events: Iterable[Event] | None = None,
    only: str | None = None,
    goes_on: Callable[[datetime], bool] = lambda at: True,
) -> Report:
    """Try a configuration against a span of the past and return what came of it, next to what happened.

    `events` stand in for those of the store, in the order of their receipt; `only` names the model of which the report tells.
    `goes_on` hears how far it is, and ends it by answering False: then the report covers what came before.
    """
    account = Account(only=only)
    usual = usual_runs(config, past)
    driver = Driver(config, outcomes=Recorded(past, usual), witness=account, now=since)
    is_history = events is None
    if past is not None and is_history:
        start_from(driver, config, past, since=since, until=until)
    driver.begin()
    if events is None:
        pages: Iterable[Sequence[Event]] = () if past is None else past.events(since, until)
    else:
        pages = pages_of(events)
    complete = driver.run(pages, until=until, goes_on=goes_on)
    reached = until if complete else driver.world.now
    did = [] if past is None or not is_history else list(past.runs(since=since, until=reached))
    return Report(
        since=since,
        until=reached,
        complete=complete,
        events=driver.events,
        account=account,
        did=[run for run in did if only in (None, run.model)],
        broken=driver.broken,
        notes=[*_gone(past if is_history else None, since), *_notes(usual, account, only, is_history=is_history)],
    )


def start_from(driver: Driver, config: Config, past: Past, *, since: datetime, until: datetime) -> None:
    """Bring the world of a backtest to where the recorded one was: champions, pauses, alerts, and the runs that policies may ask for."""
    world = driver.world
    world.expect(past.changes(list(config.models), since, until))
    for run in past.runs(until=since):
        if run.model in config.models:
            world.runs.remember(run)
    for model, policy, key, at in past.last_fires(since):
        world.policies.remember_fire((model, policy, key), at, "")
    world.episodes.begin(past.open_episodes(since))


def _gone(past: Past | None, since: datetime) -> list[str]:
    """Say that the record does not reach as far back as it was asked for."""
    whole_since = None if past is None else past.whole_since()
    if whole_since is None or since > whole_since:
        return []
    return [f"events from before {whole_since:%Y-%m-%d %H:%M:%SZ}, or their data, were let go of (`retention`)"]


def _notes(usual: Mapping[str, Usual], account: Account, only: str | None, *, is_history: bool) -> list[str]:
    notes = (
        ["what policies held or counted when it begins is not known: windows and holds start empty"]
        if is_history
        else []
    )
    assumed_for = sorted({firing.model for firing in account.firings if firing.assumed})
    for model in assumed_for:
        if only in (None, model):
            known = usual[model]
            whence = f"the median of {known.runs} runs" if known.runs else "nothing is known of its runs"
            length = format_duration(timedelta(seconds=round(known.length.total_seconds())))
            notes.append(f"{model}: assumed are {known.state}, {length} and cost {known.cost:g} ({whence})")
    return notes
