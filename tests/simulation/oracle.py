"""What must be true after every story, whatever happened: the world's own record against the store.

Each check returns sentences with the values that break it; none of them knows what went wrong, or asks the code that is under test.
The letters are those of the catalogue of faults: O1 nothing acknowledged is missing, O2 nothing is started twice, O3 everything ends,
O4 history is whole, O5 nothing breaks in a way without a name, G2 a redelivery has no effect, G4 the configuration in force decides,
G8 each instant of a schedule counts once, G9 only what passed is promoted and the newest stays, NO people are told.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from controller.core import states
from tests.simulation.process import MIDNIGHT
from tests.simulation.world import FarJob, Move, Press, Sending

Row = Mapping[str, Any]

#: Transactions that only the leader may commit, by their names.
LEADERS = frozenset(
    {
        "activate",
        "bury",
        "crown",
        "decide",
        "dispatch",
        "drop_state",
        "expire",
        "forget",
        "group",
        "judge",
        "launch_failed",
        "launch_unknown",
        "launched",
        "postpone",
        "promote_later",
        "promote_step",
        "promoter_gave_up",
        "promotion_failed",
        "review",
        "sent",
        "undo_step",
        "watch",
        "watch_rollback",
        "cancel_launch",
    }
)
#: A message, a job and an instant are found by this many microseconds in a second.
_SECOND = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """Everything that the oracle looks at."""

    #: Every table of the store, by name.
    tables: Mapping[str, Sequence[Row]]
    sendings: Sequence[Sending]
    presses: Sequence[Press]
    topic: Sequence[Any]
    #: How many records of the topic the group has acknowledged.
    committed: int
    jobs: Sequence[FarJob]
    moves: Sequence[Move]
    serves: Mapping[tuple[str, str], str | None]
    mail: Sequence[Any]
    #: Every commit: microseconds, process, name, whether fenced, term.
    commits: Sequence[tuple[int, str, str, bool, int]]
    #: What broke in a way that none of our errors names.
    breaks: Sequence[str]
    #: Attempts of runs whose model retries so often.
    attempts_allowed: Mapping[str, int]
    #: Steps between instants of the schedule, in minutes; 0: there is none.
    cron_minutes: int
    #: The minute from which on the schedule counts, by the clock of whoever saw it first; None: nobody saw it.
    cron_since: int | None
    #: Configurations of which one must be in force at the end; empty when that cannot be said.
    newest: frozenset[str]
    #: A stranger changed what serves.
    has_strangers: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """An invariant that does not hold."""

    invariant: str
    text: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.text}"


def examine(record: Record) -> list[Broken]:
    """Return every invariant that a record breaks."""
    return [Broken(invariant=name, text=text) for name, check in CHECKS for text in check(record)]


# ---------------------------------------------------------------------------------------------------- what came in


def nothing_acknowledged_is_missing(record: Record) -> Iterable[str]:
    """O1: what a producer, the topic's group or a person was told to be stored is stored, and was decided on."""
    stored = {(row["origin"], row["source"], row["source_id"]): row for row in record.tables["event"]}
    for sending in record.sendings:
        if not sending.acknowledged:
            continue
        row = stored.get(sending.identity)
        if row is None:
            yield f"event {sending.identity} was acknowledged as {sorted(sending.event_ids)} and is not stored"
        elif sending.event_ids != {row["id"]}:
            yield f"event {sending.identity} is stored as {row['id']} and was acknowledged as {sorted(sending.event_ids)}"
    for offset, event in enumerate(record.topic[: record.committed]):
        if ("bus", event.source, event.source_id) not in stored:
            yield f"offset {offset} of the topic was committed, and {event.source_id} is not stored"
    positions = [json.loads(row["value"]) for row in record.tables["ledger"] if row["source"] == "bus"]
    for event in record.topic[: max(positions, default=0)]:
        if ("bus", event.source, event.source_id) not in stored:
            yield f"the ledger says that the topic was read up to {positions}, and {event.source_id} is not stored"
    pending = [row["id"] for row in record.tables["event"] if row["state"] == "PENDING"]
    if pending:
        yield f"{len(pending)} events were never decided on: {pending[:3]}"
    ids = {row["id"] for row in record.tables["event"]}
    for press in record.presses:
        for answer in press.answers:
            if "event_id" in answer and answer["event_id"] not in ids:
                yield f"press {press.key or press.verb} of {press.who} was answered with {answer['event_id']}, which is not stored"


def each_event_counts_once(record: Record) -> Iterable[str]:
    """G2: each identity is stored once, has one place in the order of deciding, and one decision of each policy."""
    identities = Counter((row["origin"], row["source"], row["source_id"]) for row in record.tables["event"])
    yield from (f"event {identity} is stored {count} times" for identity, count in identities.items() if count > 1)
    places = Counter(row["decided_seq"] for row in record.tables["event"] if row["decided_seq"] is not None)
    yield from (f"{count} events were decided at place {seq}" for seq, count in places.items() if count > 1)
    seqs: dict[str, set[int]] = defaultdict(set)
    fired: Counter[tuple[str, ...]] = Counter()
    for row in record.tables["decision"]:
        if row["event_id"] is not None:
            seqs[row["event_id"]].add(row["seq"])
            fired[row["event_id"], row["model"], row["policy"], row["key"], row["kind"]] += 1
    yield from (
        f"event {event_id} was decided at {sorted(found)}" for event_id, found in seqs.items() if len(found) > 1
    )
    yield from (f"{what[4]} was decided {count} times on {what[:4]}" for what, count in fired.items() if count > 1)
    last = max((row["seq"] for row in record.tables["decision"]), default=0)
    given = max((row["decided_seq"] for row in record.tables["leader"]), default=0)
    if last > given:
        yield f"a decision has place {last}, and only {given} were given"


def a_repeated_request_is_one_act(record: Record) -> Iterable[str]:
    """G2: the same idempotency key is the same act, with the same answer."""
    for press in record.presses:
        if press.key is None or not press.answers:
            continue
        answers = {
            json.dumps({k: v for k, v in answer.items() if k != "duplicate"}, sort_keys=True)
            for answer in press.answers
        }
        if len(answers) > 1:
            yield f"key {press.key} was answered differently: {sorted(answers)}"
        acts = [row["id"] for row in record.tables["act"] if row["idempotency_key"] == press.key]
        if len(acts) != 1:
            yield f"key {press.key} was answered, and there are {len(acts)} acts of it"


# ---------------------------------------------------------------------------------------------------- what was started


def nothing_is_started_twice(record: Record) -> Iterable[str]:
    """O2: an attempt has one start, attempts at a job are numbered and never overlap, and there are no more than were allowed."""
    known = {row["id"]: row for row in record.tables["attempt"]}
    by_attempt: dict[str, list[FarJob]] = defaultdict(list)
    by_work: dict[tuple[str, str], list[FarJob]] = defaultdict(list)
    for job in record.jobs:
        by_attempt[job.order.attempt_id].append(job)
        by_work[job.order.run_id, job.order.candidate].append(job)
        row = known.get(job.order.attempt_id)
        if row is None or row["number"] != job.order.attempt or row["job_id"] != job.order.job_id:
            yield f"{job.order.attempt_id} (attempt {job.order.attempt} at {job.order.job_id}) was started, and the store knows {row}"
    for attempt_id, starts in by_attempt.items():
        if len(starts) > 1:
            yield f"attempt {attempt_id} was started {len(starts)} times, at {[_at(job.began_at) for job in starts]}"
    for work, jobs in by_work.items():
        for one, other in pairwise(jobs):
            if one.ended_at is None or other.began_at < one.ended_at:
                yield (
                    f"{work}: attempt {one.order.attempt} ran from {_at(one.began_at)} to {_at(one.ended_at)}, "
                    f"and attempt {other.order.attempt} began at {_at(other.began_at)}"
                )
    runs = {row["id"] for row in record.tables["run"]}
    for row in record.tables["decision"]:
        if row["kind"] == "FIRE" and row["run_id"] not in runs:
            yield f"decision {row['id']} fired run {row['run_id']}, which is not there"
    decided = Counter(row["decision_id"] for row in record.tables["run"])
    yield from (f"decision {decision} has {count} runs" for decision, count in decided.items() if count > 1)
    for job_row in record.tables["job"]:
        numbers = sorted(row["number"] for row in record.tables["attempt"] if row["job_id"] == job_row["id"])
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"job {job_row['id']} has attempts {numbers}"
        allowed = record.attempts_allowed.get(job_row["run_id"])
        if allowed is not None and len(numbers) > allowed:
            yield f"job {job_row['id']} had {len(numbers)} attempts, and {allowed} are allowed"


def slots_hold(record: Record) -> Iterable[str]:
    """O2: a run that nobody let in, because it was cancelled before, starts nothing."""
    ended = {
        row["id"]: row for row in record.tables["run"] if row["started_at"] is None and row["finished_at"] is not None
    }
    for job in record.jobs:
        if job.order.run_id in ended:
            yield f"run {job.order.run_id} ended {ended[job.order.run_id]['state']} before it began, and {job.order.attempt_id} was started"
    cancelled = {row["id"]: row["target"] for row in record.tables["act"] if row["verb"] == "cancel"}
    runs = {row["id"]: row["run_id"] for row in record.tables["job"]}
    stopped: set[str] = set()
    for row in record.tables["history"]:
        if row["entity"] in cancelled:
            stopped.add(cancelled[row["entity"]])
        elif row["target"] == "LAUNCHING" and runs.get(row["entity"]) in stopped:
            yield f"job {row['entity']} was to be launched after its run {runs[row['entity']]} had been cancelled"


def everything_ends(record: Record) -> Iterable[str]:
    """O3: every run, job, promotion and message has come to an end, and nothing is left at work for a run that has."""
    for machine in ("run", "job", "promotion", "notification"):
        final = states.MACHINES[machine].final
        left = [
            f"{row['id']} {row['state']} ({row['cause']})"
            for row in record.tables[machine]
            if row["state"] not in final and row["state"] != "DEAD"
        ]
        if left:
            yield f"{len(left)} of machine {machine} have not ended: {left[:4]}"
    runs = {row["id"]: row for row in record.tables["run"]}
    for job in record.jobs:
        run = runs.get(job.order.run_id)
        if job.state == "running" and run is not None and run["finished_at"] is not None:
            yield f"{job.name} still runs, and its run {run['id']} is {run['state']}"


# ---------------------------------------------------------------------------------------------------- history


def history_is_whole(record: Record) -> Iterable[str]:
    """O4: each entity's changes follow one another, are legal, and lead to the state of its row."""
    reached: dict[tuple[str, str], str] = {}
    for row in record.tables["history"]:
        machine = states.MACHINES.get(row["machine"])
        if machine is None:
            continue
        name = (row["machine"], row["entity"])
        before = reached.get(name, _birth(row["machine"]))
        if row["origin"] != before:
            yield f"{name}: history says {row['origin']!r} → {row['target']}, and it was {before!r}"
        if row["origin"]:
            try:
                machine.check(row["origin"], row["target"], row["cause"])
            except Exception as error:  # noqa: BLE001 - the sentence is what we want
                yield f"{name}: {error}"
        if not row["actor"] or not row["cause"] or row["at"] is None:
            yield f"{name}: history has no actor, cause or time for {row['target']}"
        reached[name] = row["target"]
    for kind in ("run", "job", "version", "promotion", "watch"):
        for row in record.tables[kind]:
            told = reached.get((kind, row["id"]))
            if told != row["state"]:
                yield f"{kind} {row['id']} is {row['state']}, and history says {told}"
    for kind in ("step", "notification"):
        for row in record.tables[kind]:
            told = reached.get((kind, row["id"]), "PENDING")
            if told != row["state"]:
                yield f"{kind} {row['id']} is {row['state']}, and history says {told}"


def terms_are_respected(record: Record) -> Iterable[str]:
    """O4: the leader's commits carry the newest term, and terms never fall."""
    newest = 0
    whose: dict[int, str] = {}
    for at, process, name, fenced, term in record.commits:
        if name in LEADERS or fenced:
            if whose.setdefault(term, process) != process:
                yield f"{_at(at)}: {process} committed {name!r} of term {term}, which is {whose[term]}'s"
            if term < newest:
                yield f"{_at(at)}: {process} committed {name!r} of term {term} after term {newest} had begun to write"
            newest = max(newest, term)
    fall = 0
    for row in record.tables["decision"]:
        if row["term"] < fall:
            yield f"decision {row['id']} has term {row['term']} after one of term {fall}"
        fall = max(fall, row["term"])


def the_configuration_in_force_decides(record: Record) -> Iterable[str]:
    """G4: what fires is of the configuration that was in force then, and at the end the newest is."""
    inputs = [row for row in record.tables["history"] if row["entity"] == "configuration"]
    by_decision = {row["id"]: row["seq"] for row in record.tables["decision"]}
    for run in record.tables["run"]:
        seq = by_decision.get(run["decision_id"])
        if seq is None:
            yield f"run {run['id']} has decision {run['decision_id']}, which is not there"
            continue
        force = [row["target"] for row in inputs if row["after_seq"] < seq]
        if not force or force[-1] != run["config_version"]:
            yield f"run {run['id']} was decided under {run['config_version']}, and {force[-1:]} was in force"
    if record.newest and inputs and inputs[-1]["target"] not in record.newest:
        yield f"configuration {inputs[-1]['target']} is in force at the end, and the newest is {sorted(record.newest)}"


def nothing_breaks(record: Record) -> Iterable[str]:
    """O5: nothing went wrong in a way that none of our errors names."""
    yield from sorted(set(record.breaks))


# ---------------------------------------------------------------------------------------------------- schedules


def each_instant_counts_once(record: Record) -> Iterable[str]:
    """G8: each instant of the schedule is one event, or is counted as left out."""
    if not record.cron_minutes:
        return
    ledgers = [
        json.loads(row["value"])
        for row in record.tables["ledger"]
        if (row["source"], row["key"]) == ("nightly", "last")
    ]
    fired = []
    counted = 0
    for row in record.tables["event"]:
        if row["origin"] == "nightly":
            data = json.loads(row["data"])
            fired.append(_minute(data["scheduled_at"]))
            counted += data["caught_up"]
    if len(set(fired)) != len(fired):
        yield f"instants fired twice: {[at for at, count in Counter(fired).items() if count > 1]}"
    wrong = [at for at in fired if at % record.cron_minutes]
    if wrong:
        yield f"fired at minutes {wrong}, which are none of the schedule"
    if not ledgers:
        return
    ledger = ledgers[0]
    counted += ledger["missed"]
    if record.cron_since is None:
        yield "the schedule has a ledger, and nobody saw it begin"
        return
    # A leader that was held up may write where it stood over where its successor stands: then instants come again, and are known.
    last = max([_minute(ledger["last"]), *fired])
    due = [minute for minute in range(record.cron_since + 1, last + 1) if minute % record.cron_minutes == 0]
    silent = [minute for minute in due if minute not in fired]
    if counted < len(silent):
        yield f"of the instants from minute {record.cron_since} to {last}, {silent} did not fire, and {counted} were counted as left out"


# ---------------------------------------------------------------------------------------------------- promotions


def only_what_passed_is_promoted(record: Record) -> Iterable[str]:
    """G9: a champion was judged PASSED by the bytes that serve, or a named person overrode the gate; epochs rise by one."""
    versions = {row["id"]: row for row in record.tables["version"]}
    runs = {row["id"]: row for row in record.tables["run"]}
    verdicts = {row["run_id"]: row for row in record.tables["verdict"]}
    promotions = {row["id"]: row for row in record.tables["promotion"]}
    for row in promotions.values():
        version = versions[row["version_id"]]
        if row["kind"] == "promoted":
            compared = runs[row["run_id"]]["epoch"] if row["run_id"] in runs else None
            if compared != row["epoch"]:
                yield f"promotion {row['id']} of epoch {row['epoch']}: run {row['run_id']} was compared in {compared}"
            verdict = verdicts.get(row["run_id"])
            if verdict is None or verdict["outcome"] != "PASSED" or verdict["challenger"] != version["candidate"]:
                yield f"promotion {row['id']} of {version['id']}: the verdict was {verdict and (verdict['outcome'], verdict['challenger'])}"
        elif row["actor"] in ("", "controller") and row["kind"] != "rollback":
            yield f"promotion {row['id']} ({row['kind']}) names no person"
    for model in record.tables["model"]:
        applied = sorted(
            (row for row in promotions.values() if row["model"] == model["name"] and row["state"] == "APPLIED"),
            key=lambda row: int(row["epoch"]),
        )
        if [row["epoch"] for row in applied] != list(range(len(applied))) or model["epoch"] != len(applied):
            yield f"model {model['name']} has epoch {model['epoch']}, its promotions {[row['epoch'] for row in applied]}"
        champion = applied[-1]["version_id"] if applied else None
        if model["champion_id"] != champion:
            yield f"model {model['name']} has champion {model['champion_id']}, its newest promotion made {champion} champion"
    wrote = {job.artifact for job in record.jobs}
    for move in record.moves:
        if move.verb != "promote" or move.version_id is None:
            continue
        version = versions[move.version_id]
        if move.digest != version["artifact_digest"] or move.digest not in wrote:
            yield f"{_at(move.at)}: {move.version_id} was promoted with {move.digest}, and judged as {version['artifact_digest']}"


def the_newest_promotion_stays(record: Record) -> Iterable[str]:
    """G9: a registry never goes back to an older promotion, and at the end it serves the champion."""
    promotions = {row["id"]: row for row in record.tables["promotion"]}
    newest: dict[tuple[str, str], int] = {}
    for move in record.moves:
        if move.verb == "foreign":
            continue
        epoch = promotions[move.promotion_id]["epoch"]
        name = (move.registry, move.model)
        if epoch < newest.get(name, -1):
            yield f"{_at(move.at)}: {name} was told to {move.verb} {move.version_id} of epoch {epoch}, after epoch {newest[name]}"
        newest[name] = max(newest.get(name, -1), epoch)
    yield from _promotions_are_carried_out(record)
    if record.has_strangers:
        return
    last = {(move.registry, move.model): promotions[move.promotion_id] for move in record.moves}
    excused = {name for name, row in last.items() if _could_not_be_undone(row)}
    for model in record.tables["model"]:
        for (registry, served), serving in record.serves.items():
            if served == model["name"] and serving != model["champion_id"] and (registry, served) not in excused:
                yield f"registry {registry} serves {serving}, and the champion of {served} is {model['champion_id']}"


def _could_not_be_undone(promotion: Row) -> bool:
    """Say whether a promotion that failed says that a registry would not go back."""
    return promotion["state"] == "FAILED" and "could not be undone" in promotion["reason"]


def _promotions_are_carried_out(record: Record) -> Iterable[str]:
    """A promotion that counts as applied was made at every registry; of one that failed nothing is left at any, unless it says so."""
    moves: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for move in record.moves:
        moves[move.promotion_id][move.registry].append(move.verb)
    steps = Counter(row["promotion_id"] for row in record.tables["step"])
    for row in record.tables["promotion"]:
        made = moves[row["id"]]
        if row["state"] == "APPLIED" and sum("promote" in verbs for verbs in made.values()) != steps[row["id"]]:
            yield f"promotion {row['id']} of {steps[row['id']]} steps counts as applied, and was made at {sorted(made)}"
        left = sorted(registry for registry, verbs in made.items() if verbs[-1] == "promote")
        if row["state"] == "FAILED" and left and not _could_not_be_undone(row) and not record.has_strangers:
            yield f"promotion {row['id']} failed, and was left standing at {left}"


# ---------------------------------------------------------------------------------------------------- messages


def people_are_told(record: Record) -> Iterable[str]:
    """Each message that counts as sent was delivered; each run that failed, was promoted or rejected was told of."""
    delivered = {id_ for message in record.mail for id_ in _members(message)}
    for row in record.tables["notification"]:
        if row["state"] == "SENT" and row["id"] not in delivered:
            yield f"message {row['id']} ({row['kind']}) counts as sent, and never arrived"
    told = {(row["run_id"], row["kind"]) for row in record.tables["notification"]}
    for run in record.tables["run"]:
        kinds = _TOLD.get((run["state"], run["cause"]))
        if kinds and not any((run["id"], kind) in told for kind in kinds):
            yield f"run {run['id']} is {run['state']} ({run['cause']}), and nobody was told"


#: Ends of runs of which people are told, by state and cause.
_TOLD = {
    ("PROMOTED", "promoted"): ("promoted",),
    ("REJECTED", "gate_failed"): ("rejected",),
    ("REJECTED", "inconclusive"): ("rejected",),
    ("REJECTED", "approval_timed_out"): ("rejected",),
    ("FAILED", "training_failed"): ("failed",),
    ("TIMED_OUT", "timed_out"): ("timed_out",),
    ("FAILED", "promotion_failed"): ("failed",),
}


def _members(message: Any) -> list[str]:
    return [message.id, *(member.id for member in getattr(message, "messages", ()) or ())]


CHECKS: Sequence[tuple[str, Callable[[Record], Iterable[str]]]] = (
    ("O1", nothing_acknowledged_is_missing),
    ("G2", each_event_counts_once),
    ("G2", a_repeated_request_is_one_act),
    ("O2", nothing_is_started_twice),
    ("O2", slots_hold),
    ("O3", everything_ends),
    ("O4", history_is_whole),
    ("O4", terms_are_respected),
    ("G4", the_configuration_in_force_decides),
    ("O5", nothing_breaks),
    ("G8", each_instant_counts_once),
    ("G9", only_what_passed_is_promoted),
    ("G9", the_newest_promotion_stays),
    ("NO", people_are_told),
)


def _birth(machine: str) -> str:
    """Return where an entity's history begins: those whose birth is not written begin as they are born."""
    return "PENDING" if machine in ("event", "step", "notification") else ""


def _at(at: int | None) -> str:
    return "-" if at is None else f"{at / _SECOND:.3f} s"


def _minute(text: str) -> int:
    return int((datetime.fromisoformat(text) - MIDNIGHT) / timedelta(minutes=1))
