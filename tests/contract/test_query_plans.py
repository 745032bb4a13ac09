"""The statements that run at every step find their rows by an index, however many there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from controller.core import states
from controller.core.episode import read_mark
from controller.core.policy import Breaker, Budget, Cooldown
from controller.store import Store, schema
from controller.store.dialect import insert
from controller.store.store import Transaction
from controller.testing import ManualClock
from tests.factories import (
    NOON,
    at,
    make_decision,
    make_episode,
    make_event,
    make_ids,
    make_job,
    make_mark,
    make_max_age,
    make_new_event,
    make_policy,
    make_run,
    make_state,
    minutes,
)
from tests.statements import deafen, listen

ROWS = 2000
#: Tables that grow with the past.
LARGE = (
    *("event", "run", "job", "attempt", "result", "verdict", "decision", "history", "run_cause", "policy_state"),
    *(
        "held_cause",
        "ledger",
        "episode",
        "version",
        "promotion",
        "step",
        "notification",
        "watch",
        "dead_letter",
        "act",
        "seal",
    ),
)
LEAF = make_policy(cooldown=Cooldown(after="success", period=minutes(1), after_failure=minutes(1)))


def facts(policy: Any) -> Callable[[Transaction], Any]:
    return lambda tx: tx.policies.facts(policy, "", champion=None, labels={}, pauses=())


def cooldown(after: Any) -> Callable[[Transaction], Any]:
    return facts(make_policy(cooldown=Cooldown(after=after, period=minutes(1))))


HOT: dict[str, Callable[[Transaction], Any]] = {
    "pending events": lambda tx: tx.events.pending(100),
    "the oldest pending event": lambda tx: tx.events.oldest_pending(),
    "identities": lambda tx: tx.events._known([1, 2, 3]),
    "an event": lambda tx: tx.events.get("evt-1"),
    "events of a run": lambda tx: tx.events.of_run("run-1"),
    "events that were decided": lambda tx: tx.events.mark_processed([("evt-1", 1)]),
    "what a source remembers": lambda tx: tx.events.recall("files", "a/12"),
    "due states": lambda tx: tx.policies.due(NOON, 100),
    "the next due state": lambda tx: tx.policies.next_due(),
    "a state": lambda tx: tx.policies.state("churn", "drift", "k1"),
    "what waits for something": lambda tx: tx.policies.wake(model=None, waits_for=("episode",)),
    "a key's collected causes of some instants": lambda tx: tx.policies.drop_causes_of("churn", "drift", "k1", [NOON]),
    "how many keys": lambda tx: tx.policies.key_count("churn", "drift"),
    "the keys longest untouched": lambda tx: tx.policies.longest_untouched("churn", "drift", 100),
    "open episodes of some sources": lambda tx: tx.episodes.open_of(["api"]),
    "open episodes of all": lambda tx: tx.episodes.open_of(None),
    "what holds an event": lambda tx: tx.policies.holds_of("evt-000001"),
    "a cause that is let go": lambda tx: tx.policies.let_go("churn", "drift", "k1", "evt-000001"),
    "episodes by their keys": lambda tx: tx.episodes.known([("api", "k1"), ("api", "k2")]),
    "the episode of an event": lambda tx: tx.episodes.of_event(make_event(extensions=make_mark("k1"))),
    "signs of life": lambda tx: tx.episodes.alive({("api", "k1"): read_mark(make_mark("k1"))}),
    "due episodes": lambda tx: tx.episodes.due(NOON, 100),
    "the next due episode": lambda tx: tx.episodes.next_expiry(),
    "open episodes": lambda tx: tx.episodes.open("api", limit=100),
    "dead letters of a source": lambda tx: tx.sources.dead_letters("api"),
    "the last event of a source": lambda tx: tx.sources.last_event("api"),
    "held causes": lambda tx: tx.policies.collected("churn", "drift", "k1"),
    "active runs and the last success and failure": facts(LEAF),
    "the last decision": cooldown("decision"),
    "the last launch": cooldown("launch"),
    "the last promotion": cooldown("promotion"),
    "a level's last run": facts(make_policy(make_max_age())),
    "what a model spent": facts(make_policy(budget=Budget(runs=10, cost=None, per=minutes(60)))),
    "what all spent": facts(make_policy(budget=Budget(runs=None, cost=10, per=minutes(60), scope="all"))),
    "what models with a label spent": lambda tx: tx.policies.spent(
        Budget(runs=10, cost=None, per=minutes(60), scope="label:team"), ["churn", "m1", "m2"]
    ),
    "what did not help": facts(make_policy(breaker=Breaker(after=3))),
    "what lies behind what is held": lambda tx: tx.policies.facts(
        make_policy(), "k1", champion=None, labels={}, pauses=(), held=1
    ),
    "runs that emitted events": lambda tx: tx.runs.emitters(["run-1", "run-2"]),
    "what a stage holds until an instant": lambda tx: tx.policies.look_again("budget"),
    "when a policy was resumed": lambda tx: tx.people.resumed_at("churn/drift"),
    "open runs": lambda tx: tx.runs.in_state("QUEUED", "TRAINING"),
    "a run": lambda tx: tx.runs.get("run-1"),
    "a run's causes": lambda tx: tx.runs.causes("run-1"),
    "a run's jobs": lambda tx: tx.runs.jobs("run-1"),
    "open jobs": lambda tx: tx.runs.open_jobs("PENDING", "RETRYABLE"),
    "jobs that launchers have": lambda tx: tx.runs.watched(),
    "how many jobs launchers have": lambda tx: tx.runs.on_launchers(),
    "the next due job": lambda tx: tx.runs.next_due_job(),
    "who asked for a run": lambda tx: tx.watches.asked_by("run-1"),
    "the first causes of a run": lambda tx: tx.watches.causes("run-1", 10),
    "episodes by their ids": lambda tx: tx.watches.episodes(["epi-1", "epi-2"]),
    "open alerts of a kind": lambda tx: tx.watches.open_episodes_of("drift", None, 10),
    "what was rolled back before": lambda tx: tx.watches.rolled_back_before(make_run(1), "sha256:1"),
}


def fill(connection: sa.Connection, *, under_way: int = 5) -> None:
    """Write some thousand finished things, and a few that are under way."""
    open_run = {"state": "QUEUED", "finished_at": None}
    ended_run = {"state": "FAILED", "finished_at": NOON, "started_at": NOON}
    rows: dict[sa.Table, list[dict[str, Any]]] = {table: [] for table in schema.metadata.tables.values()}
    for number in range(ROWS):
        recent = number >= ROWS - under_way
        run = make_run(
            number, **(open_run if recent else ended_run), model=f"m{number % 50}" if number % 2 else "churn"
        )
        job = make_job(
            id=f"job-{number}",
            run_id=run.id,
            state="RUNNING" if recent else "FAILED",
            finished_at=None if recent else NOON,
        )
        event = make_new_event(number)
        rows[schema.run].append({name: getattr(run, name) for name in run.__dataclass_fields__})
        rows[schema.job].append({name: getattr(job, name) for name in job.__dataclass_fields__})
        rows[schema.event].append(
            {
                "id": f"evt-{number:06d}",
                "identity": number,
                "origin": "api",
                "source": event.source,
                "source_id": event.source_id,
                "type": event.type,
                "time": NOON,
                "received_at": NOON,
                "extensions": {},
                "state": "PENDING" if recent else "PROCESSED",
            }
        )
        decision = make_decision(kind="FIRE" if number % 3 else "SKIP")
        rows[schema.decision].append(
            {name: getattr(decision, name) for name in ("kind", "policy", "policy_version", "key", "stage", "reason")}
            | {"id": f"dec-{number:06d}", "seq": number, "model": run.model, "trace": [], "run_id": run.id}
            | {"event_id": f"evt-{number:06d}", "at": NOON, "term": 1}
        )
        rows[schema.run_cause].append(
            {"run_id": run.id, "position": 1, "decision_id": "d", "event_id": f"evt-{number:06d}"}
            | {"type": "drift", "origin": "api", "time": NOON}
        )
        state = make_state(LEAF, stage="debounce", due_at=at(hours=1) if recent else None, held_count=1)
        rows[schema.policy_state].append(
            {name: getattr(state, name) for name in state.__dataclass_fields__}
            | {"model": "churn", "policy": "drift", "key": f"k{number}", "version": "v1", "updated_at": NOON}
        )
        rows[schema.held_cause].append(
            {"model": "churn", "policy": "drift", "key": f"k{number}", "event_id": f"evt-{number:06d}", "type": "drift"}
            | {"origin": "api", "time": NOON}
        )
        fill_outcome(rows, number, run.id, run.model)
        over = {} if recent else {"state": "RESOLVED", "finished_at": NOON}
        episode = make_episode(number, key=f"k{number}", **over)
        rows[schema.episode].append({name: getattr(episode, name) for name in episode.__dataclass_fields__})
        rows[schema.ledger].append({"source": "files", "key": f"a/{number}", "value": 1})
        rows[schema.history].append(
            {"machine": "run", "entity": run.id, "origin": "", "target": "QUEUED", "cause": "decided", "reason": ""}
            | {"actor": "controller", "term": 1, "at": NOON}
        )
    for table, values in rows.items():
        if values:
            connection.execute(insert(table, connection.dialect.name), values)


def fill_outcome(rows: dict[sa.Table, list[dict[str, Any]]], number: int, run_id: str, model: str) -> None:
    """Add what became of a run: its attempt, result, verdict, version, promotion, watch and messages; and what else there is of people."""
    ended = {"state": "REJECTED", "cause": "past", "reason": ""}
    job, version, promotion = f"job-{number}", f"ver-{number:06d}", f"pro-{number:06d}"
    rows[schema.attempt].append(
        {"id": f"att-{number:06d}", "job_id": job, "number": 1, "nonce": "n", "launcher": "process", "owner": "o"}
        | {"handle": {}, "folder": f"runs/{number}", "launched_at": NOON, "finished_at": NOON, "reason": ""}
    )
    rows[schema.result].append({"job_id": job, "document": {}, "digest": "d", "received_at": NOON})
    rows[schema.verdict].append({"run_id": run_id, "outcome": "FAILED", "reason": "", "lines": [], "at": NOON})
    rows[schema.version].append(
        {"id": version, "model": model, "number": number + 1, "state": "REJECTED", "run_id": run_id, "job_id": job}
        | {"artifact": "a", "metrics": {}, "lineage": {}, "created_at": NOON, "artifact_kept": False}
    )
    rows[schema.promotion].append(
        {"id": promotion, "model": model, "version_id": version, "run_id": run_id, "kind": "promoted", "actor": "a"}
        | ended
        | {"state": "FAILED", "epoch": 1, "created_at": NOON, "finished_at": NOON}
    )
    rows[schema.step].append(
        {"id": f"stp-{number:06d}", "promotion_id": promotion, "position": 1, "promoter": "alias", "attempts": 1}
        | ended
        | {"state": "UNDONE"}
    )
    rows[schema.notification].append(
        {"id": f"ntf-{number:06d}", "channel": "log", "kind": "failed", "model": model, "run_id": run_id, "title": "t"}
        | ended
        | {
            "state": "SENT",
            "group_id": f"ntf-{number:06d}",
            "body": {},
            "attempts": 1,
            "due_at": NOON,
            "created_at": NOON,
            "finished_at": NOON,
        }
    )
    rows[schema.watch].append(
        {"id": f"wat-{number:06d}", "model": model, "run_id": run_id, "policy": "drift", "key": "", "signal": {}}
        | ended
        | {"state": "CURED", "promotion_id": promotion, "version_id": version, "epoch": 1, "rolls_back": False}
        | {"needed": 1, "samples": 0, "evidence": [], "broken": 0, "broken_reason": "", "look_at": NOON}
        | {"opened_at": NOON, "until": NOON, "finished_at": NOON}
    )
    rows[schema.dead_letter].append(
        {"id": f"dlt-{number:06d}", "identity": number, "origin": "api", "place": str(number), "error": "", "size": 0}
        | ended
        | {"state": "DROPPED", "meta": {}, "received_at": NOON, "finished_at": NOON}
    )
    rows[schema.act].append(
        {"id": f"act-{number:06d}", "at": NOON, "actor": "ann", "verb": "retrain", "target": model, "reason": ""}
        | {"details": {}, "request_digest": "d", "response": {}}
    )


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A filled database, once for this file: nothing here changes it."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('plans') / 'retrain.db'}"
    else:
        url = request.getfixturevalue("postgres_server").create_database()
    clock = ManualClock(NOON)
    store = Store.open(url, base=Path("/"), clock=clock, ids=make_ids(clock))
    with store.engine.begin() as connection:
        schema.metadata.create_all(connection)
        fill(connection)
        connection.exec_driver_sql("ANALYZE")
    yield store
    store.close()


def plans(store: Store, ask: Callable[[Transaction], Any]) -> list[tuple[str, str]]:
    """Return every statement that `ask` executes, with the plan that the database has for it."""
    found: list[tuple[str, str]] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT")):
            prefix = "EXPLAIN QUERY PLAN" if store.dialect == "sqlite" else "EXPLAIN"
            one = parameters[0] if many else parameters
            lines = connection.connection.cursor().execute(f"{prefix} {statement}", one).fetchall()
            found.append((statement, "\n".join(str(line[-1]) for line in lines)))

    listen(store, explain)
    try:
        with store.engine.connect() as connection, connection.begin() as transaction:
            if store.dialect == "postgresql":
                # The tables are small for it: what is asked is whether there is another way than reading them whole.
                connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            ask(Transaction(connection, store, now=NOON))
            transaction.rollback()
    finally:
        deafen(store, explain)
    return found


def scans(plan: str) -> list[str]:
    """Return the large tables that a plan reads whole."""
    sqlite = re.findall(
        r"^SCAN (\w+)(?! USING (?:COVERING )?INDEX \w+_(?:pending|open|due_at|dead))", plan, re.MULTILINE
    )
    return [name for name in [*sqlite, *re.findall(r"Seq Scan on (\w+)", plan)] if name in LARGE]


def test_every_hot_statement_finds_its_rows_by_an_index(store: Store) -> None:
    """No statement of the loops reads a table of events, runs, jobs, decisions or history from end to end."""
    for name, ask in HOT.items():
        asked = plans(store, ask)

        assert asked, name
        for statement, plan in asked:
            assert scans(plan) == [], f"{name}:\n{statement}\n{plan}"


def test_small_indexes_serve_what_is_under_way(store: Store) -> None:
    """Pending events, open runs and jobs and due states have indexes of their own, which do not grow with the past."""
    expected = {
        "pending events": "ix_event_pending",
        "open runs": "ix_run_open",
        "open jobs": "ix_job_open",
        "due states": "ix_policy_state_due_at",
        "identities": "uq_event_identity",
        "the last decision": "ix_decision_fired",
        "what a model spent": "ix_run_model_decided_at",
        "what all spent": "ix_run_decided_at",
        "what a stage holds until an instant": "ix_policy_state_due_at",
        "due episodes": "ix_episode_open",
        "the next due episode": "ix_episode_open",
        "open episodes": "ix_episode_open",
        "what holds an event": "ix_held_cause_event_id",
    }
    for name, index in expected.items():
        text = "\n".join(plan for _, plan in plans(store, HOT[name]))

        assert index in text, f"{name}:\n{text}"


def test_every_machine_finds_a_row_by_its_id(store: Store) -> None:
    """A transition of any machine is an update by primary key."""
    for machine in states.MACHINES.values():
        row = machine.rows[0]

        def move(tx: Transaction, machine: states.Machine = machine, row: states.Row = row) -> None:
            with pytest.raises(Exception, match="is no longer"):
                tx.transition(machine, "none", origin=row.origin, target=row.target, cause=min(row.causes))

        (asked,) = plans(store, move)
        assert scans(asked[1]) == []
        assert re.search(r"SEARCH|Index Scan|Bitmap", asked[1]), asked[1]
