"""Runs a case of `policy test` on the same driver as a backtest, and tells what every policy concluded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby

from controller.config import Config
from controller.core.casefile import Case, GivenEvent, Happened, Outcome
from controller.core.conditions import event_scope
from controller.core.decide import select
from controller.core.model import EVENT_ID, PERSON_ORIGIN, Cause, Champion, Decision, Event, Run
from controller.core.past import Fate
from controller.engine.backtest.driver import Driver
from controller.engine.backtest.report import why
from controller.engine.episodes import Episodes, domain_of


def run_case(config: Config, case: Case) -> list[Happened]:
    """Return what the policies concluded, in the order of deciding; what an event did not get past is told of every policy."""
    told = _Told(config, case)
    driver = Driver(config, outcomes=told, witness=told, now=case.start)
    driver.world.expect(case.changes)
    driver.begin()
    number = 0
    for at, group in groupby(case.events, lambda given: given.at):
        if at > case.until:
            break
        events = [_stored(given, number := number + 1) for given in group]
        driver.hear(at, events)
        champions = dict(driver.world.models.champions)
        for event in events:
            told.tell_refusals(event, driver, champions)
    driver.finish(case.until)
    for event_id, error in driver.broken:
        raise RuntimeError(f"{event_id} cannot be decided: {error}")
    return told.happened


class _Told:
    """Hears what policies conclude, and says what becomes of runs as the case does."""

    def __init__(self, config: Config, case: Case) -> None:
        self._config = config
        self._case = case
        self._started: dict[str, int] = {}
        self.happened: list[Happened] = []

    def fate(self, run: Run, causes: Sequence[Cause]) -> Fate:
        """Return the fate of a run that starts."""
        del causes
        given = self._case.runs.get(run.model)
        spec = self._config.models[run.model]
        usual = "PROMOTED" if spec.promoters else "SUCCEEDED"
        if not given:
            from controller.config.cases import DEFAULT_LENGTH

            return Fate(state=usual, length=DEFAULT_LENGTH, cost=run.cost)
        count = self._started.get(run.model, 0)
        self._started[run.model] = count + 1
        mine = given[min(count, len(given) - 1)]
        cost = run.cost if mine.cost is None else mine.cost
        return Fate(state=mine.state or usual, length=mine.length, cost=cost, metrics=mine.metrics)

    def decided(
        self,
        decision: Decision,
        *,
        at: datetime,
        event_id: str | None,
        run_id: str | None,
        held_since: datetime | None,
    ) -> None:
        """Keep a decision."""
        del event_id, run_id, held_since
        outcomes: dict[str, Outcome] = {"HOLD": "held", "SKIP": "skipped", "ERROR": "error", "FIRE": "fired"}
        outcome = outcomes[decision.kind] if decision.joins_run is None else "merged"
        self.happened.append(
            Happened(
                at=at,
                outcome=outcome,
                model=decision.model,
                policy=decision.policy,
                key=decision.key,
                stage=decision.stage,
                reason=why(decision) if decision.kind == "FIRE" else decision.reason,
                lines=tuple(line.reason for line in decision.trace),
                until=decision.until,
            )
        )

    def tell_refusals(self, event: Event, driver: Driver, champions: Mapping[str, Champion]) -> None:
        """Tell which policies an event did not get past the first stages of, which is only counted otherwise, and why."""
        if event.origin == PERSON_ORIGIN:
            return
        mark = Episodes.mark(event)
        name = None if mark is None else (domain_of(self._config, event.origin), mark.key)
        episode = None if name is None else driver.world.episodes.known([name]).get(name)
        for model, spec in self._config.models.items():
            champion = champions.get(model)
            scope = event_scope(event, model=model, labels=spec.labels, champion=champion)
            for policy in spec.policies.values():
                selection = select(policy, event, scope, episode=episode)
                if policy.mode == "off" or selection.outcome != "skip":
                    continue
                last = selection.trace[-1]
                self.happened.append(
                    Happened(
                        at=driver.world.now,
                        outcome="skipped",
                        model=model,
                        policy=policy.name,
                        key="",
                        stage=last.stage,
                        reason=last.reason,
                    )
                )

    def refused(self, refused: Mapping[tuple[str, str, str], int], *, at: datetime) -> None:
        """See `tell_refusals`, which says why."""

    def added(self, run: Run) -> None:
        """Cases are about decisions."""

    def caused(self, run_id: str, causes: Sequence[Cause], *, joins: bool) -> None:
        """Cases are about decisions."""

    def started(self, run: Run, fate: Fate) -> None:
        """Cases are about decisions."""

    def ended(self, run: Run) -> None:
        """Cases are about decisions."""


def _stored(given: GivenEvent, number: int) -> Event:
    return Event(
        id=f"{EVENT_ID}-{number:016d}",
        origin=given.origin,
        source="/case",
        source_id=given.id,
        type=given.type,
        subject=given.subject,
        time=given.time,
        received_at=given.at,
        data=given.data,
        extensions=given.extensions,
    )
