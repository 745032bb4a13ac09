"""Real bugs of the peers, planted into the real code, to see that the oracle catches each.

A simulator that finds nothing proves nothing until it is known what it would find. Each mutant patches one place while it is planted; the
oracle knows none of them. `caught.json` names seeds that catch each; `python -m tests.simulation --mutants` looks for them again.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from controller.core import supervise as supervision
from controller.core.model import Receipt
from controller.core.replica import Holding
from controller.core.supervise import Supervision, after_failure
from controller.engine import dispatcher, gatekeeper, inbox, lease, loop_thread, monitor, training
from controller.engine.crew import Crew
from controller.engine.desk import Desk
from controller.engine.dispatcher import Dispatcher, _not_started, _Round, _Said
from controller.engine.evaluator import Evaluator
from controller.engine.finder import Finder
from controller.engine.gatekeeper import Gatekeeper
from controller.engine.inbox import Inbox
from controller.engine.lease import Lease
from controller.engine.monitor import Monitor
from controller.engine.runtime import Bells, Ticked
from controller.ports import Observation
from controller.sources import cron
from controller.store import Store, Transaction, schema
from controller.store.intake import EventRows
from controller.store.outbox import OutboxRows
from controller.store.policies import PolicyRows
from controller.store.replicas import ReplicaRows
from controller.store.runs import RunRows
from tests.simulation.world import _present

Plant = Callable[[contextlib.ExitStack], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """One bug."""

    name: str
    #: What is wrong, in a sentence.
    sentence: str
    #: Who had it; empty for one that is only feared.
    issue: str
    plant: Plant

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """Let the code have this bug."""
        with contextlib.ExitStack() as stack:
            self.plant(stack)
            yield


MUTANTS: dict[str, Mutant] = {}


def mutant(sentence: str, *, issue: str = "") -> Callable[[Plant], Plant]:
    """Register what plants a bug; its name is the function's."""

    def register(plant: Plant) -> Plant:
        name = plant.__name__.strip("_").replace("_", "-")
        MUTANTS[name] = Mutant(name=name, sentence=sentence, issue=issue, plant=plant)
        return plant

    return register


def _put(stack: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    """Replace an attribute until the stack is left; it must be there."""
    before = owner.__dict__[name]
    setattr(owner, name, value)
    stack.callback(setattr, owner, name, before)


# ---------------------------------------------------------------------------------------------------- the lease


@mutant("Who leads is told by the name of its host and its process id.", issue="oban-bg/oban-py#32")
def _leader_by_host_name(stack: contextlib.ExitStack) -> None:
    look = Lease._look

    def look_by_name(self: Lease) -> timedelta:
        with self._runtime.store.reading() as tx:
            holding = tx.replicas.holding()
        if holding is not None and (holding.host, holding.pid) == (self._me.host, self._me.pid):
            self._begin(holding.term, self._runtime.clock.monotonic())
            return lease.RENEW
        return look(self)

    def set_by_term(self: ReplicaRows, replica_id: str, term: int, **values: Any) -> bool:
        statement = sa.update(schema.leader).where(schema.leader.c.term == term).values(values)
        return self._tx.execute(statement).rowcount == 1

    _put(stack, Lease, "_look", look_by_name)
    _put(stack, ReplicaRows, "_set", set_by_term)


@mutant("The end of the lease is compared with the replica's own clock.", issue="client-go's package documentation")
def _lease_by_own_clock(stack: contextlib.ExitStack) -> None:
    _put(stack, Transaction, "database_now", lambda self: self.now)


@mutant("A term is not checked when something is written.")
def _stale_term_writes(stack: contextlib.ExitStack) -> None:
    _put(stack, Transaction, "check_term", lambda self: None)


@mutant("The order of deciding is given to whoever asks, whatever its term.")
def _stale_term_decides(stack: contextlib.ExitStack) -> None:
    def take(self: PolicyRows, count: int) -> int:
        table = schema.leader
        statement = sa.update(table).values(decided_seq=table.c.decided_seq + count).returning(table.c.decided_seq)
        return int(self._tx.execute(statement).scalar_one()) - count + 1

    _put(stack, PolicyRows, "take_numbers", take)


@mutant("Another replica takes the lease over, and the term stays as it was.")
def _term_is_not_raised(stack: contextlib.ExitStack) -> None:
    take = ReplicaRows._take

    def take_same(self: ReplicaRows, *arguments: Any, **settings: Any) -> int | None:
        before = self.holding()
        term = take(self, *arguments, **settings)
        if term is None or before is None:
            return term
        self._tx.execute(sa.update(schema.leader).values(term=before.term))
        return before.term

    _put(stack, ReplicaRows, "_take", take_same)


@mutant("A lease that has ended is not taken as long as its holder's row is there.", issue="oban-bg/oban#1488")
def _dead_leader_stays(stack: contextlib.ExitStack) -> None:
    _put(stack, Holding, "is_over", lambda self, now: self.replica is None)


@mutant("What was launched is written without asking who leads now.", issue="dbos-inc/dbos-transact-py#742")
def _recovery_after_the_lease(stack: contextlib.ExitStack) -> None:
    transaction = Store.transaction

    def unfenced(self: Store, name: str, *, fenced: bool = True, **settings: Any) -> Any:
        recovers = name in ("launched", "launch_failed", "launch_unknown", "cancel_launch", "observe")
        return transaction(self, name, fenced=fenced and not recovers, **settings)

    _put(stack, Store, "transaction", unfenced)


@mutant("The loops of a term live on when the term is lost, and go on in the next.")
def _state_survives_demotion(stack: contextlib.ExitStack) -> None:
    new = Crew.new_loops
    kept_loops: dict[Crew, Any] = {}

    def kept(self: Crew) -> Any:
        if not self._runtime.lease.leads:
            return new(self)
        if self not in kept_loops:
            kept_loops[self] = (new(self), self._evaluator)
        loops, self._evaluator = kept_loops[self]
        return loops

    _put(stack, Crew, "new_loops", kept)
    _put(stack, Crew, "stop_sending", lambda self, timeout=0: True)


@mutant("A replica whose configuration is older than another's leads all the same.")
def _old_configuration_decides(stack: contextlib.ExitStack) -> None:
    _put(stack, lease, "newer_configuration", lambda mine, others, now: None)


# ---------------------------------------------------------------------------------------------------- what comes in


@mutant("Events are acknowledged, and then stored.")
def _acknowledged_before_commit(stack: contextlib.ExitStack) -> None:
    def tick(self: Inbox, now: Any) -> Ticked:
        group = self._take()
        if not group:
            return Ticked()
        kept = {id(waiting): Inbox._prepare(self, waiting, now) for waiting in group}
        for waiting in group:
            prepared = kept[id(waiting)]
            ids = () if prepared is None else prepared.ids
            waiting.done.set_result([Receipt(event_id=event_id, duplicate=False) for event_id in ids])
        vars(self)["_prepare"] = lambda waiting, now: kept[id(waiting)]
        self._commit(group)
        self._runtime.bells.ring("evaluator")
        return Ticked(worked=len(group))

    _put(stack, Inbox, "tick", tick)


@mutant("The identity of an event includes the replica that took it in.")
def _identity_of_each_replica(stack: contextlib.ExitStack) -> None:
    from controller.engine import inbox

    prepare = vars(inbox)["prepare"]

    def prepare_here(origin: str, events: Any, *, domain: str | None, **settings: Any) -> Any:
        caller = _present[-1].caller
        return prepare(origin, events, domain=f"{domain}@{caller.host.name if caller else ''}", **settings)

    _put(stack, inbox, "prepare", prepare_here)


@mutant(
    "An event that comes again after a while counts as new.",
    issue="duplicate windows shorter than the senders' retries",
)
def _duplicates_for_a_second_only(stack: contextlib.ExitStack) -> None:
    from controller.engine import inbox

    prepare = vars(inbox)["prepare"]

    def prepare_now(origin: str, events: Any, *, domain: str | None, now: Any, **settings: Any) -> Any:
        return prepare(origin, events, domain=f"{domain}@{now:%H%M%S}", now=now, **settings)

    _put(stack, inbox, "prepare", prepare_now)


@mutant(
    "The position in a topic is stored before its records, in a transaction of its own.",
    issue="enable_auto_commit of kafka-python",
)
def _position_before_records(stack: contextlib.ExitStack) -> None:
    commit = Inbox._commit

    def in_two(self: Inbox, group: Any) -> Any:
        with self._runtime.store.transaction("position", fenced=False) as tx:
            for waiting in group:
                if waiting.batch.ledger:
                    tx.events.remember(waiting.origin, waiting.batch.ledger)
        return commit(self, group)

    _put(stack, Inbox, "_commit", in_two)


@mutant("Waiting events are found by a cursor over ids, although those of several replicas do not commit in order.")
def _cursor_over_ids(stack: contextlib.ExitStack) -> None:
    pending = EventRows.pending_or_more
    cursors: dict[Any, str] = {}

    def behind(self: EventRows, limit: int) -> Any:
        found, are_more = pending(self, limit)
        place = self._tx.ids
        found = [event for event in found if event.id > cursors.get(place, "")]
        if found:
            cursors[place] = max(event.id for event in found)
        return found, are_more

    _put(stack, EventRows, "pending_or_more", behind)


@mutant(
    "Nobody tells the evaluator that events came in, and nobody looks by itself.", issue="argoproj/argo-events#2958"
)
def _no_bell_and_no_sweep(stack: contextlib.ExitStack) -> None:
    ring = Bells.ring

    def silent(self: Bells, *loops: str) -> None:
        ring(self, *(loop for loop in loops if loop != "evaluator"))

    _put(stack, Bells, "ring", silent)
    _put(stack, loop_thread, "SWEEP", timedelta(days=365))


# ---------------------------------------------------------------------------------------------------- deciding


@mutant(
    "A decision is written, and its run in another transaction after it.",
    issue="two transactions where one is needed: apache/airflow#57618",
)
def _run_after_its_decision(stack: contextlib.ExitStack) -> None:
    add, add_causes, batch = RunRows.add, RunRows.add_causes, Evaluator._batch
    waiting: list[Any] = []

    def later(self: RunRows, run: Any) -> None:
        waiting.append((add, (run,), {}))

    def causes_later(self: RunRows, *arguments: Any, **settings: Any) -> None:
        waiting.append((add_causes, arguments, settings))

    def in_two(self: Evaluator, **settings: Any) -> Any:
        waiting.clear()
        done = batch(self, **settings)
        calls = list(waiting)
        waiting.clear()
        if calls:
            with self._runtime.store.transaction("fire") as tx:
                for call, arguments, more in calls:
                    call(tx.runs, *arguments, **more)
        return done

    _put(stack, RunRows, "add", later)
    _put(stack, RunRows, "add_causes", causes_later)
    _put(stack, Evaluator, "_batch", in_two)


@mutant("A press that is repeated under its idempotency key is another press.")
def _idempotency_key_ignored(stack: contextlib.ExitStack) -> None:
    retrain = Desk.retrain

    def without_key(self: Desk, model: str, *, key: str | None, **settings: Any) -> Any:
        del key
        return retrain(self, model, key=None, **settings)

    _put(stack, Desk, "retrain", without_key)


@mutant("A message to people is written after what it tells of, in a transaction of its own.")
def _message_in_another_transaction(stack: contextlib.ExitStack) -> None:
    add, transaction = OutboxRows.add, Store.transaction
    waiting: list[tuple[Transaction, Any, Any]] = []

    def later(self: OutboxRows, *arguments: Any, **settings: Any) -> None:
        waiting.append((self._tx, arguments, settings))

    @contextlib.contextmanager
    def in_two(self: Store, name: str, **settings: Any) -> Iterator[Transaction]:
        with transaction(self, name, **settings) as tx:
            yield tx
        calls = [call for call in waiting if call[0] is tx]
        waiting[:] = [call for call in waiting if call[0] is not tx]
        if calls:
            with transaction(self, "tell", fenced=False) as another:
                for _, arguments, more in calls:
                    add(another.outbox, *arguments, **more)

    _put(stack, OutboxRows, "add", later)
    _put(stack, Store, "transaction", in_two)


# ---------------------------------------------------------------------------------------------------- launching


@mutant("A job that is there already under its name counts as one that failed to start.", issue="apache/airflow#66905")
def _conflict_is_failure(stack: contextlib.ExitStack) -> None:
    look_up = Dispatcher._look_up

    def refused(self: Dispatcher, launcher: Any, order: Any, task: Any) -> Any:
        said = look_up(self, launcher, order, task)
        if said is not None and said.cause == "adopted":
            return _not_started("409: it exists already")
        return said

    _put(stack, Dispatcher, "_look_up", refused)


@mutant("A launch without an answer is launched again, without a look.", issue="PrefectHQ/prefect#10263")
def _relaunched_without_a_look(stack: contextlib.ExitStack) -> None:
    _put(stack, Dispatcher, "_look_up", Dispatcher._call)


@mutant("A look-up that failed counts as: not there.")
def _failed_look_up_is_not_there(stack: contextlib.ExitStack) -> None:
    look_up = Dispatcher._look_up

    def believed(self: Dispatcher, launcher: Any, order: Any, task: Any) -> Any:
        try:
            launcher.find(order)
        except AssertionError:
            pass  # it cannot be searched
        except Exception:  # noqa: BLE001 - this is the bug
            return _not_started("it is not there")
        return look_up(self, launcher, order, task)

    _put(stack, Dispatcher, "_look_up", believed)


@mutant("A look-up that says: not there, is believed at once, though the call may be on its way.")
def _not_there_is_final(stack: contextlib.ExitStack) -> None:
    look_up = Dispatcher._look_up

    def believed(self: Dispatcher, launcher: Any, order: Any, task: Any) -> Any:
        if launcher.searchable and launcher.find(order) is None:
            return _not_started("it is not there")
        return look_up(self, launcher, order, task)

    _put(stack, Dispatcher, "_look_up", believed)


@mutant(
    "A job of which nobody knows whether it was started is started once more.", issue="the rescuers of Oban and River"
)
def _unknown_is_relaunched(stack: contextlib.ExitStack) -> None:
    write = Dispatcher._write

    def again(self: Dispatcher, task: Any, said: _Said) -> None:
        write(
            self, task, replace(said, target="RETRYABLE", cause="launch_failed") if said.target == "UNKNOWN" else said
        )

    _put(stack, Dispatcher, "_write", again)


@mutant(
    "A job that takes too long is started once more, whether it still runs or not.",
    issue="Oban's rescuer: by time only",
)
def _rescue_by_time_only(stack: contextlib.ExitStack) -> None:
    running = supervision._running

    def rescued(job: Any, attempt: Any, seen: Any, spec: Any, *, stop_wanted: bool, now: Any) -> Supervision:
        found = running(job, attempt, seen, spec, stop_wanted=stop_wanted, now=now)
        if found.cause == "timed_out":
            return after_failure(job, spec, cause="failed", reason="rescued", now=now)
        return found

    _put(stack, supervision, "_running", rescued)


@mutant("A launcher that does not answer counts as one that does not know the job.")
def _unreachable_is_lost(stack: contextlib.ExitStack) -> None:
    running = supervision._running

    def lost(job: Any, attempt: Any, seen: Any, spec: Any, **settings: Any) -> Supervision:
        if seen.state == "unreachable":
            return after_failure(job, spec, cause="failed", reason=seen.reason, now=settings["now"])
        return running(job, attempt, seen, spec, **settings)

    _put(stack, supervision, "_running", lost)


@mutant(
    "A job on a host that does not answer counts as gone, and is started elsewhere.",
    issue="dbos-inc/dbos-transact-py#804",
)
def _host_away_is_job_gone(stack: contextlib.ExitStack) -> None:
    seen = Monitor._seen

    def gone(self: Monitor, launcher: Any, job: Any, attempt: Any, place: Any) -> Any:
        if place == "elsewhere":
            return Observation(state="lost", reason="its host does not answer"), None, "", None
        return seen(self, launcher, job, attempt, place)

    _put(stack, Monitor, "_seen", gone)


@mutant("Attempts are counted in memory, so a restart gives them all back.")
def _attempts_counted_in_memory(stack: contextlib.ExitStack) -> None:
    counts: Counter[Any] = Counter()

    def counted(job: Any, spec: Any, **settings: Any) -> Supervision:
        caller = _present[-1].caller
        place = (caller, job.id)
        counts[place] += 1
        return after_failure(replace(job, attempt=counts[place]), spec, **settings)

    _put(stack, supervision, "after_failure", counted)
    _put(stack, dispatcher, "after_failure", counted)


@mutant("A cancelled run's jobs that wait for another attempt are launched all the same.")
def _cancelled_run_is_launched(stack: contextlib.ExitStack) -> None:
    intend = _Round.intend

    def careless(self: _Round) -> Any:
        self._runs = {name: replace(run, stop_as=None) for name, run in self._runs.items()}
        return intend(self)

    _put(stack, _Round, "intend", careless)
    _put(stack, training, "cancel_waiting", lambda tx, run, actor: None)
    _put(stack, monitor, "cancel_waiting", lambda tx, run, actor: None)


@mutant("A job is asked to end once, and never again, nor killed.")
def _stop_is_never_repeated(stack: contextlib.ExitStack) -> None:
    stopping = supervision._stopping

    def patient(*arguments: Any) -> Supervision:
        return replace(stopping(*arguments), stop=None)

    _put(stack, supervision, "_stopping", patient)


@mutant("A job that is found after all is not adopted: it stays as it is for ever.")
def _late_answer_is_dropped(stack: contextlib.ExitStack) -> None:
    look_up = Dispatcher._look_up

    def deaf(self: Dispatcher, launcher: Any, order: Any, task: Any) -> Any:
        said = look_up(self, launcher, order, task)
        return None if said is not None and said.cause == "adopted" else said

    _put(stack, Dispatcher, "_look_up", deaf)
    _put(stack, Finder, "look", lambda self, launcher, sought: False)


# ---------------------------------------------------------------------------------------------------- promoting


@mutant("An older run promotes over a newer champion.")
def _older_run_promotes(stack: contextlib.ExitStack) -> None:
    _put(stack, gatekeeper, "_newer_champion", lambda tx, run: None)


@mutant("An artifact is digested when it is judged, and not again before it is promoted.")
def _digest_not_checked_again(stack: contextlib.ExitStack) -> None:
    _put(stack, Gatekeeper, "_changed", staticmethod(lambda version: None))


@mutant("When a promoter gives up, those that had moved stay where they are.")
def _promotion_not_undone(stack: contextlib.ExitStack) -> None:
    undo = Gatekeeper._undo

    def left(self: Gatekeeper, promotion: Any, run: Any, spec: Any, order: Any, steps: Any, *why: Any) -> Any:
        return undo(self, promotion, run, spec, order, [], *why)

    _put(stack, Gatekeeper, "_undo", left)


@mutant("A step of a promotion counts as done although its promoter never answered.")
def _promotion_not_read_back(stack: contextlib.ExitStack) -> None:
    apply = Gatekeeper._apply

    def trusting(self: Gatekeeper, spec: Any, order: Any, step: Any) -> Any:
        outcome = apply(self, spec, order, step)
        if outcome is None or not hasattr(outcome, "tzinfo"):
            return outcome
        with self._runtime.store.transaction("promote_step") as tx:
            tx.models.move_step(step, "APPLIED", cause="applied", attempts=step.attempts + 1)
        return None

    _put(stack, Gatekeeper, "_apply", trusting)


# ---------------------------------------------------------------------------------------------------- schedules


@mutant(
    "The id of a schedule's event is made when it fires, not of the instant it stands for.", issue="oban-bg/oban#1488"
)
def _cron_id_without_its_instant(stack: contextlib.ExitStack) -> None:
    # What a former leader still reads is refused since; its ids would have made it harmless anyway.
    _put(stack, inbox, "_by_term", lambda tx, group: (group, ()))
    event = cron.CronSource._event

    def anew(self: Any, instant: Any, now: Any, memory: Any) -> Any:
        return replace(event(self, instant, now, memory), source_id=f"{self._context.random.getrandbits(64):x}")

    _put(stack, cron.CronSource, "_event", anew)


@mutant("A clock that was set back lets a schedule fire again what it fired.")
def _cron_repeats_after_a_jump(stack: contextlib.ExitStack) -> None:
    _cron_id_without_its_instant(stack)
    _put(stack, cron, "_CLOCK_WAS_WRONG", timedelta(0))


@mutant("Instants that were missed are left out and not counted.")
def _missed_instants_dropped(stack: contextlib.ExitStack) -> None:
    def at_most(self: Any, after: Any, until: Any) -> int:
        return len(self.newest(after, until, 1))

    _put(stack, cron.Schedule, "count", at_most)


@mutant("Where a schedule stands is stored before its event is.")
def _schedule_moves_first(stack: contextlib.ExitStack) -> None:
    store = cron.CronSource._store

    def in_two(self: Any, memory: Any, events: Any = ()) -> None:
        store(self, memory)
        if events:
            from controller.ports import Batch

            self._context.emit(Batch(events=events))

    _put(stack, cron.CronSource, "_store", in_two)


def describe() -> Mapping[str, str]:
    """Return the sentence of each mutant by its name."""
    return {name: each.sentence for name, each in MUTANTS.items()}
