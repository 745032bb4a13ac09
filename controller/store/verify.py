"""Whether a database is sound: undamaged, and true to what the program promises of it.

Most of what must never be is refused by constraints; here is what no constraint can say because it is about several rows: that the history
of each thing leads to its state by legal steps, that a run has its decision and a decision to fire its run, that attempts are numbered
without a gap, that a model's champion is its one champion. Rows that retention let go of are missed nowhere.
A finding is a damage or a bug, never something that mends itself. Reads only; called by `retrainctl db verify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from controller.core import states
from controller.store import schema
from controller.store.store import Store, Transaction

#: So many of the rows that break a rule are named.
MOST = 10
#: Rows of these may have gone, or never had a first row in the history.
_NOT_BORN_IN_HISTORY = {states.EVENT.name, states.STEP.name, states.NOTIFICATION.name, states.DEAD_LETTER.name}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Something that must be true of all rows."""

    name: str
    #: What is promised, in a sentence.
    claim: str
    #: Selects a column of text, `what`: one row for each that breaks it.
    broken: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a rule came to."""

    rule: str
    claim: str
    #: The first of the rows that break it.
    broken: Sequence[str]
    #: How many there are.
    count: int


def _rule(name: str, claim: str, *selects: str) -> Rule:
    return Rule(name=name, claim=claim, broken=" UNION ALL ".join(" ".join(select.split()) for select in selects))


def _state_is_last(table: str) -> Rule:
    ends = f"""
        SELECT t.id || ' is ' || t.state || ', its history ends in ' || h.target AS what
        FROM {table} t JOIN history h ON h.entity = t.id
        WHERE h.machine = '{table}' AND h.target <> t.state
        AND h.seq = (SELECT max(l.seq) FROM history l WHERE l.entity = t.id)"""  # noqa: S608 - the names are ours
    begins = f"""
        SELECT t.id || ' has no history' FROM {table} t
        WHERE NOT EXISTS (SELECT 1 FROM history h WHERE h.entity = t.id)"""  # noqa: S608 - the names are ours
    selects = [ends] if table in _NOT_BORN_IN_HISTORY else [ends, begins]
    return _rule(f"state.{table}", f"the history of each {table.replace('_', ' ')} ends in its state", *selects)


RULES: Sequence[Rule] = (
    # An event that was never dead has no history, and one that was decided after it was replayed has none of that.
    *(_state_is_last(name) for name in schema.TABLES if name != states.EVENT.name),
    _rule(
        "history.steps",
        "each change of state begins where the one before it ended",
        """
        SELECT machine || ' ' || entity || ': ' || before || ', then from ' || origin || ' (seq ' || seq || ')' AS what
        FROM (
            SELECT machine, entity, seq, origin, lag(target) OVER (PARTITION BY machine, entity ORDER BY seq) AS before
            FROM history
        ) AS steps
        WHERE before <> origin AND machine <> 'event'""",
    ),
    _rule(
        "decision.run",
        "every run has its decision, and every decision to fire its run",
        """
        SELECT r.id || ' has no decision ' || r.decision_id AS what FROM run r
        WHERE NOT EXISTS (SELECT 1 FROM decision d WHERE d.id = r.decision_id AND d.kind = 'FIRE')""",
        """
        SELECT d.id || ' fired ' || coalesce(d.run_id, 'nothing') FROM decision d
        WHERE d.kind = 'FIRE' AND NOT EXISTS (SELECT 1 FROM run r WHERE r.id = d.run_id)""",
    ),
    _rule(
        "decision.order",
        "no decision has a place in the order of deciding that was not given yet",
        """
        SELECT d.id || ' has the place ' || d.seq || ' of ' || l.decided_seq AS what
        FROM decision d, leader l WHERE d.seq > l.decided_seq""",
    ),
    _rule(
        "run.causes",
        "every run has causes, and every cause its run; a run that has not ended has the events behind it",
        """
        SELECT r.id || ' has no cause' AS what FROM run r
        WHERE NOT EXISTS (SELECT 1 FROM run_cause c WHERE c.run_id = r.id)""",
        """
        SELECT c.run_id || ' is no run, but has causes' FROM run_cause c
        WHERE c.position = 1 AND NOT EXISTS (SELECT 1 FROM run r WHERE r.id = c.run_id)""",
        """
        SELECT c.run_id || ' waits for ' || c.event_id || ', which is gone'
        FROM run_cause c JOIN run r ON r.id = c.run_id
        WHERE r.finished_at IS NULL AND c.event_id IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM event e WHERE e.id = c.event_id)""",
    ),
    _rule(
        "run.jobs",
        "every job has its run, and none goes on after its run has ended",
        """
        SELECT j.id || ' has no run ' || j.run_id AS what FROM job j
        WHERE NOT EXISTS (SELECT 1 FROM run r WHERE r.id = j.run_id)""",
        """
        SELECT j.id || ' is ' || j.state || ', but its run is ' || r.state FROM job j JOIN run r ON r.id = j.run_id
        WHERE j.finished_at IS NULL AND r.finished_at IS NOT NULL""",
    ),
    _rule(
        "attempt.numbers",
        "the attempts of each job are numbered from 1 without a gap, up to the one that the job names",
        """
        SELECT j.id || ' is at attempt ' || j.attempt || ', and there are ' || count(a.id) AS what
        FROM job j LEFT JOIN attempt a ON a.job_id = j.id GROUP BY j.id, j.attempt
        HAVING count(a.id) <> j.attempt OR coalesce(max(a.number), 0) <> j.attempt OR coalesce(min(a.number), 1) <> 1""",
        """
        SELECT a.id || ' has no job ' || a.job_id FROM attempt a
        WHERE NOT EXISTS (SELECT 1 FROM job j WHERE j.id = a.job_id)""",
    ),
    _rule(
        "result.job",
        "every result has its job, and every job that succeeded its result",
        """
        SELECT s.job_id || ' is no job, but has a result' AS what FROM result s
        WHERE NOT EXISTS (SELECT 1 FROM job j WHERE j.id = s.job_id)""",
        """
        SELECT j.id || ' succeeded without a result' FROM job j
        WHERE j.state = 'SUCCEEDED' AND NOT EXISTS (SELECT 1 FROM result s WHERE s.job_id = j.id)""",
    ),
    _rule(
        "verdict.run",
        "every verdict has its run, and no run was promoted without one",
        """
        SELECT v.run_id || ' is no run, but has a verdict' AS what FROM verdict v
        WHERE NOT EXISTS (SELECT 1 FROM run r WHERE r.id = v.run_id)""",
        """
        SELECT r.id || ' was promoted without a verdict' FROM run r
        WHERE r.state = 'PROMOTED' AND NOT EXISTS (SELECT 1 FROM verdict v WHERE v.run_id = r.id)""",
    ),
    _rule(
        "model.champion",
        "the champion that a model names is its one version that is champion",
        """
        SELECT m.name || ' names ' || m.champion_id || ' as its champion' AS what FROM model m
        WHERE m.champion_id IS NOT NULL AND NOT EXISTS
        (SELECT 1 FROM version v WHERE v.id = m.champion_id AND v.model = m.name AND v.state = 'CHAMPION')""",
        """
        SELECT v.id || ' is champion of ' || v.model || ', which names another' FROM version v
        WHERE v.state = 'CHAMPION' AND NOT EXISTS
        (SELECT 1 FROM model m WHERE m.name = v.model AND m.champion_id = v.id)""",
    ),
    _rule(
        "promotion.version",
        "every promotion has its version, and every step its promotion",
        """
        SELECT p.id || ' has no version ' || p.version_id AS what FROM promotion p
        WHERE NOT EXISTS (SELECT 1 FROM version v WHERE v.id = p.version_id)""",
        """
        SELECT s.id || ' has no promotion ' || s.promotion_id FROM step s
        WHERE NOT EXISTS (SELECT 1 FROM promotion p WHERE p.id = s.promotion_id)""",
    ),
    _rule(
        "watch.run",
        "every watch has its run and its promotion",
        """
        SELECT w.id || ' has no run ' || w.run_id || ' or no promotion ' || w.promotion_id AS what FROM watch w
        WHERE NOT EXISTS (SELECT 1 FROM run r WHERE r.id = w.run_id)
        OR NOT EXISTS (SELECT 1 FROM promotion p WHERE p.id = w.promotion_id)""",
    ),
    _rule(
        "held.events",
        "what a policy holds or counts is here, and something remembers it",
        """
        SELECT c.model || '/' || c.policy || ' holds ' || c.event_id || ', which is gone' AS what FROM held_cause c
        WHERE NOT EXISTS (SELECT 1 FROM event e WHERE e.id = c.event_id)""",
        """
        SELECT c.model || '/' || c.policy || ' holds ' || c.event_id || ' without a state' FROM held_cause c
        WHERE NOT EXISTS
        (SELECT 1 FROM policy_state s WHERE s.model = c.model AND s.policy = c.policy AND s.key = c.key)""",
    ),
    _rule(
        "policy.versions",
        "the configuration of every policy version that decided is kept",
        """
        SELECT p.version || ' of ' || p.model || '/' || p.policy || ' has no configuration ' || p.config_version AS what
        FROM policy_version p
        WHERE NOT EXISTS (SELECT 1 FROM config_version c WHERE c.version = p.config_version)""",
    ),
    _rule(
        "dead_letter.totals",
        "the number of dead letters of each source is as it is counted beside them",
        """
        SELECT t.source || ' has ' || t.standing || ' by its total' AS what FROM dead_letter_total t
        WHERE t.standing <> (SELECT count(*) FROM dead_letter d WHERE d.origin = t.source AND d.state = 'DEAD')""",
    ),
)


def verify(store: Store) -> list[Finding]:
    """Return what is wrong with a database; empty when it is sound. Reads all of it, each rule by itself."""
    found = []
    if store.dialect == "sqlite" and (damage := _damage(store)):
        # Nothing else that is read from it means anything.
        return [Finding(rule="sqlite", claim="the file is undamaged", broken=damage[:MOST], count=len(damage))]
    for rule in RULES:
        with store.reading() as tx:
            _take_your_time(tx)
            found.append(_apply(tx, rule))
    with store.reading() as tx:
        _take_your_time(tx)
        found.append(_illegal(tx))
    return [finding for finding in found if finding.count]


def _damage(store: Store) -> list[str]:
    with store.reading() as tx:
        lines = [str(row[0]) for row in tx.connection.exec_driver_sql("PRAGMA integrity_check(100)")]
        return [] if lines == ["ok"] else lines


def _take_your_time(tx: Transaction) -> None:
    if tx.dialect == "postgresql":
        tx.execute(sa.text("SET LOCAL statement_timeout = 0"))


def _apply(tx: Transaction, rule: Rule) -> Finding:
    broken = sa.text(rule.broken).columns(what=sa.Text).subquery("broken")
    named = list(tx.execute(sa.select(broken.c.what).order_by(broken.c.what).limit(MOST + 1)).scalars())
    count = len(named)
    if count > MOST:
        count = int(tx.execute(sa.select(sa.func.count()).select_from(broken)).scalar_one())
    return Finding(rule=rule.name, claim=rule.claim, broken=named[:MOST], count=count)


def _illegal(tx: Transaction) -> Finding:
    """Return the changes of state that the table of states does not know."""
    known = {
        (machine.name, row.origin, row.target, cause)
        for machine in states.MACHINES.values()
        for row in machine.rows
        for cause in row.causes
    }
    history = schema.history
    columns = (history.c.machine, history.c.origin, history.c.target, history.c.cause)
    statement = (
        sa.select(*columns, sa.func.count().label("number"), sa.func.min(history.c.entity).label("first"))
        .where(history.c.machine.in_(list(states.MACHINES)), history.c.origin != "")
        .group_by(*columns)
    )
    wrong = [row for row in tx.execute(statement) if tuple(row[:4]) not in known]
    return Finding(
        rule="history.legal",
        claim="every change of state is one that the table of states knows",
        broken=[f"{row.machine} {row.first}: {row.origin} → {row.target} ({row.cause})" for row in wrong][:MOST],
        count=sum(row.number for row in wrong),
    )
