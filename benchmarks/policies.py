"""What policies cost: per event with ten of them or a hundred thousand, per decision, per state, and at load; ratios in one run.

- index: the cost of an event when ten policies match, from ten policies up, for each way to tell policies apart (type, subject, a field in
  `when`, the model's name). The events are about a few hundred of the policies; the others are there, and must not cost. `cold` is the
  largest index with events about any of its policies, which are then no longer in the processor's caches. The sizes take turns, so that
  whatever else the machine does meets all of them; the ratio is that of the largest to the smallest.
- decide: microseconds (medians) of an event that stops at match or at `when`, and of one that goes through a whole chain of stages and
  fires. Of a stop there are two figures: as the daemon takes it, which only counts it, and with the explanation that `why` shows.
- state: bytes of what a policy remembers for a key, in memory and in SQLite, for each kind of policy.
- load: seconds to load and check ten thousand policies, written out and shared. Each shape has a process of its own.
- why: milliseconds (medians) of `GET /v1/why/…` of a daemon on a database of a million events; only when it is asked for.

    python benchmarks/policies.py [--only index,decide,state,load,why] [--most 100000] [--events 1000000] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from latency import machine, percentile

from controller.config import Config, check, load_config
from controller.core.chain import Facts, PolicyState, to_micros
from controller.core.conditions import Expression, Pattern, event_scope
from controller.core.decide import decide, refused_at, select
from controller.core.index import PolicyIndex
from controller.core.model import Champion, Event
from controller.core.on import Leaf
from controller.core.policy import Policy

NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)
#: Policies that an event matches, whatever their number.
MATCHING = 10
#: Events of one measurement, and measurements of each size.
HEARD, ROUNDS = 2000, 7
#: Ten policies each, that these events are about: as many as the processor's caches hold, whatever the number of the others.
ASKED_ABOUT = 20
#: Decisions of one measurement.
DECIDED = 5000


def main() -> int:
    """Run the parts that were asked for, and print what they found."""
    options = _parse()
    report: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory(prefix="retrain-policies-") as name:
        folder = Path(name)
        if "index" in options.only:
            report["index"] = index(options.most)
        if "decide" in options.only:
            report["decide"] = decisions(folder)
        if "state" in options.only:
            report["state"] = states(folder)
        if "load" in options.only:
            report["load"] = loading(folder)
        if "why" in options.only:
            report["why"] = why(folder, options.events)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    return 0


# ----------------------------------------------------------------------------------------------------------- index

#: How policies are told apart: the `on` of those with a number, and the event that fits them.
WAYS: Mapping[str, tuple[Callable[[int], Leaf], Callable[[int], dict[str, Any]]]] = {
    "by type": (
        lambda n: Leaf(type=Pattern(f"drift.{n}"), when=_expression("event.data.share > 0.3")),
        lambda n: {"type": f"drift.{n}"},
    ),
    "by leading segments": (
        lambda n: Leaf(type=Pattern(f"drift.{n}.*"), when=_expression("event.data.share > 0.3")),
        lambda n: {"type": f"drift.{n}.data"},
    ),
    "by subject": (
        lambda n: Leaf(type=Pattern("drift"), subject=Pattern(f"m-{n}"), when=_expression("event.data.share > 0.3")),
        lambda n: {"subject": f"m-{n}"},
    ),
    "by a field in when": (
        lambda n: Leaf(
            type=Pattern("drift"), when=_expression(f"event.data.share > 0.3 && event.data.model == 'm-{n}'")
        ),
        lambda n: {"data": {"share": 0.4, "model": f"m-{n}"}},
    ),
    "by the model's name": (
        lambda n: Leaf(
            type=Pattern("drift"), when=_expression("event.subject == model.name && event.data.share > 0.3")
        ),
        lambda n: {"subject": f"m-{n}"},
    ),
}


def index(most: int) -> dict[str, dict[str, float]]:
    """Return microseconds of an event by way and number of policies, and the ratio of the largest to the smallest."""
    sizes = [size for size in (10, 100, 1_000, 10_000, 100_000) if size <= most]
    report = {}
    print(f"\nmicroseconds an event, {MATCHING} policies match, by the number of policies")
    print(f"{'':22}" + "".join(f"{size:>10,}" for size in sizes) + f"{'ratio':>8}{'cold':>10}")
    for way, (on, fields) in WAYS.items():
        worlds = [_world(size, on, fields) for size in sizes]
        found: list[list[float]] = [[] for _ in sizes]
        cold = []
        for _ in range(ROUNDS):
            for values, (runtime, events, _) in zip(found, worlds, strict=True):
                values.append(_hear(runtime, events))
            cold.append(_hear(worlds[-1][0], worlds[-1][2]))
        medians = [statistics.median(values) for values in found]
        ratio, missed = medians[-1] / medians[0], statistics.median(cold)
        costs = {str(size): cost for size, cost in zip(sizes, medians, strict=True)}
        report[way] = {**costs, "ratio": ratio, "cold": missed}
        print(f"{way:22}" + "".join(f"{cost:10.2f}" for cost in medians) + f"{ratio:8.2f}{missed:10.2f}")
    return report


def _world(
    size: int, on: Callable[[int], Leaf], fields: Callable[[int], dict[str, Any]]
) -> tuple[Any, list[Event], list[Event]]:
    """Return what an event is looked at with, and events each of which ten policies match: about a few of them, and about any."""
    groups = size // MATCHING
    policies = [
        Policy(model=f"m-{group}", name=f"p{number}", on=leaf, version="v", on_hash="o")
        for group, leaf in enumerate(map(on, range(groups)))
        for number in range(MATCHING)
    ]
    spec = SimpleNamespace(labels={})
    config = SimpleNamespace(models={policy.model: spec for policy in policies})
    chance = random.Random(7)
    few = chance.sample(range(groups), min(groups, ASKED_ABOUT))
    about_few = [_event(number, **fields(chance.choice(few))) for number in range(HEARD)]
    about_any = [_event(number, **fields(chance.randrange(groups))) for number in range(HEARD)]
    runtime = SimpleNamespace(index=PolicyIndex(policies), config=config)
    assert all(len(runtime.index.candidates(event)) == MATCHING for event in (*about_few, *about_any))
    return runtime, about_few, about_any


def _expression(source: str) -> Expression:
    return Expression.load(source, variables=("event", "model", "champion"))


def _hear(runtime: Any, events: Sequence[Event]) -> float:
    """Return the microseconds an event takes to be looked at, as the daemon does it."""
    from controller.engine.sitting import glance_at

    with _collector_paused():
        began = time.perf_counter_ns()
        for event in events:
            glance_at(runtime, event)
        return (time.perf_counter_ns() - began) / 1e3 / len(events)


# ---------------------------------------------------------------------------------------------------------- decide

#: A policy with every stage that can pass at once.
CHAIN = """
        on: {type: drift, subject: m-0, when: event.data.share > 0.3, count: 3, within: 1h}
        ready: {unless_open: {type: incident}}
        debounce: {quiet: 1m, max_wait: 5m}
        cooldown: {after: promotion, period: 6h}
        quiet_hours: {between: "22:00-06:00", timezone: Europe/Paris}
        calendars: [holidays]
        budget: {runs: 4, per: 1d}
        mode: live"""


def decisions(folder: Path) -> dict[str, dict[str, float]]:
    """Return microseconds of a decision that stops early, and of one that goes through the whole chain."""
    file = folder / "chain.yaml"
    file.write_text(
        f"version: 1\ncalendars: {{holidays: {{dates: ['12-25', '01-01'], timezone: Europe/Paris}}}}\n"
        f"models:\n  m-0:\n    policies:\n      chain:{CHAIN}\n    train: {{command: [sh]}}\n"
    )
    policy = load_config(file).models["m-0"].policies["chain"]
    fires, elsewhere, mild = _event(1), _event(2, type="other"), _event(3, data={"share": 0.1})
    facts = _facts()
    stages = 0

    def ready() -> PolicyState:
        at = to_micros(NOON)
        slots = {"count": [at - 2000, at - 1000], "debounce": {"first": at - 600_000_000, "last": at - 500_000_000}}
        return PolicyState(on_hash=policy.on_hash, slots=slots, held_count=2)

    def whole() -> None:
        nonlocal stages
        scope = event_scope(fires, model="m-0", labels={}, champion=None)
        selection = select(policy, fires, scope)
        conclusion = decide(
            policy, ready(), key="", event=fires, opening=selection.trace, facts=facts, now=NOON, scope=scope
        )
        assert conclusion.decision.kind == "FIRE", conclusion.decision.reason
        stages = len(conclusion.decision.trace)

    scope = event_scope(fires, model="m-0", labels={}, champion=None)
    opening = select(policy, fires, scope).trace

    def alone() -> None:
        decide(policy, ready(), key="", event=fires, opening=opening, facts=facts, now=NOON, scope=scope)

    def scope_of(event: Event) -> Any:
        return event_scope(event, model="m-0", labels={}, champion=None)

    measured: dict[str, Callable[[], object]] = {
        "stops at match, counted": lambda: refused_at(policy, elsewhere, scope_of(elsewhere)),
        "stops at match, explained": lambda: select(policy, elsewhere, scope_of(elsewhere)),
        "stops at when, counted": lambda: refused_at(policy, mild, scope_of(mild)),
        "stops at when, explained": lambda: select(policy, mild, scope_of(mild)),
        "whole chain": whole,
        "whole chain, decide() alone": alone,
    }
    assert refused_at(policy, elsewhere, scope_of(elsewhere)) == "match"
    assert refused_at(policy, mild, scope_of(mild)) == "when"
    report = {name: _spread(call) for name, call in measured.items()}
    print(f"\nmicroseconds of a decision; the whole chain has {stages} stages")
    print(f"{'':28}{'median':>9}{'p95':>9}")
    for name, figures in report.items():
        print(f"{name:28}{figures['median']:9.2f}{figures['p95']:9.2f}")
    report["whole chain"]["stages"] = stages
    return report


def _facts() -> Facts:
    """Return a world in which everything passes, though there is something to look at."""
    champion = Champion(
        version_id="ver-1",
        number=7,
        artifact="file:///a",
        artifact_digest=None,
        metrics={"auc": 0.7},
        promoted_at=NOON - timedelta(days=9),
        decided_at=NOON - timedelta(days=9),
    )
    return Facts(
        champion=champion,
        last_decision_at=NOON - timedelta(days=9),
        last_promotion_at=NOON - timedelta(days=9),
        last_success_at=NOON - timedelta(days=9),
        spent=((NOON - timedelta(hours=9), 1.0), (NOON - timedelta(hours=3), 1.0)),
        unhelpful=("run-1",),
    )


def _spread(call: Callable[[], object]) -> dict[str, float]:
    """Return the median and the 95th percentile of the microseconds of a call."""
    for _ in range(DECIDED // 10):
        call()
    took = []
    with _collector_paused():
        for _ in range(DECIDED):
            began = time.perf_counter_ns()
            call()
            took.append((time.perf_counter_ns() - began) / 1e3)
    return {"median": statistics.median(took), "p95": percentile(took, 0.95)}


# ----------------------------------------------------------------------------------------------------------- state


def states(folder: Path, keys: int = 2000) -> dict[str, dict[str, float]]:
    """Return bytes of a state, in memory and stored, for each kind of policy after a busy hour."""
    print(f"\nbytes a state (policy and key), {keys} keys")
    print(f"{'':28}{'memory':>9}{'stored':>9}{'slots':>9}")
    report = {}
    for number, (name, policy, events) in enumerate(_busy()):
        state = _after(policy, events)
        where = folder / f"states-{number}"
        where.mkdir()
        memory, stored = _weigh(where, policy, state, keys)
        slots = len(json.dumps(dict(state.slots)))
        report[name] = {"memory": memory, "stored": stored, "slots": slots}
        print(f"{name:28}{memory:9.0f}{stored:9.0f}{slots:9}")
    return report


def _busy() -> Iterator[tuple[str, Policy, list[Event]]]:
    """Yield policies of every kind, each with the events that fill what it remembers."""
    events = [
        _event(
            number,
            received_at=NOON + timedelta(seconds=20 * number),
            data={"share": 0.4 + number / 1000, "key": f"k-{number}"},
        )
        for number in range(179)
    ]
    ons = {
        "count 3": "{type: drift, count: 3, within: 1h}, cooldown: {period: 6h}",
        "count, 100 seen": "{type: drift, count: 1000, within: 1h}",
        "metric avg over 1h": "{type: drift, metric: {value: event.data.share, agg: avg, over: 1h, above: 2}}",
        "metric distinct to 30": "{type: drift, metric: {value: event.data.key, agg: distinct, over: 1h, above: 30}}",
        "sequence": "{sequence: {steps: [{type: drift}, {type: done}], within: 1h}}",
        "tree of three": (
            "{all: [{type: drift, count: 3, within: 1h}, {type: drift, metric: {value: event.data.share, agg: avg, over: 1h, "
            "above: 2}}, {type: alert, count: 1, within: 1d}]}"
        ),
        "debounced": "{type: drift}, debounce: {quiet: 10m}",
    }
    for name, on in ons.items():
        (policy,) = _policies("m-0", [on])
        yield name, policy, events[:100] if name == "count, 100 seen" else events


def _after(policy: Policy, events: Sequence[Event]) -> PolicyState:
    """Return what the policy remembers after these events."""
    state: PolicyState | None = None
    for event in events:
        scope = event_scope(event, model=policy.model, labels={}, champion=None)
        selection = select(policy, event, scope)
        if selection.outcome != "pass":
            continue
        conclusion = decide(
            policy,
            state,
            key=selection.key,
            event=event,
            opening=selection.trace,
            facts=Facts(),
            now=event.received_at,
            scope=scope,
        )
        state = conclusion.state
    assert state is not None
    return state


def _weigh(folder: Path, policy: Policy, state: PolicyState, keys: int) -> tuple[float, float]:
    """Return the bytes of a state as it is read into memory, and of its row; both as the difference that many of them make."""
    from controller.clock import Ids, SystemClock, system_random
    from controller.store import Store

    clock = SystemClock()
    store = Store.open("sqlite:///state.db", base=folder, clock=clock, ids=Ids(clock, system_random()))
    try:
        store.upgrade()
        store.lead(owner="bench", host="bench", pid=1)
        before = _pages(store)
        with store.transaction("bench") as tx:
            for number in range(keys):
                tx.policies.save_state(policy, f"key-{number:08}", state)
        stored = (_pages(store) - before) / keys
        with store.reading() as tx:
            tx.policies.states()  # what is imported and cached by the way is not counted
            gc.collect()
            tracemalloc.start()
            held = tx.policies.states()
            gc.collect()
            memory = tracemalloc.get_traced_memory()[0] / len(held)
            tracemalloc.stop()
    finally:
        store.close()
    return memory, stored


def _pages(store: Any) -> int:
    """Return the bytes of the pages in use of a SQLite database."""
    with store.engine.connect() as connection:
        pages, free, size = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("page_count", "freelist_count", "page_size")
        )
    return int((pages - free) * size)


# ------------------------------------------------------------------------------------------------------------ load

#: Models, policies of each, and whether these are shared.
SHAPES: Mapping[str, tuple[int, int, bool]] = {
    "100 models x 100": (100, 100, False),
    "10,000 models x 1": (10_000, 1, False),
    "1 model x 10,000": (1, 10_000, False),
    "1 shared, 500 models": (500, 1, True),
    "20 shared, 500 models": (500, 20, True),
    "1 shared, 10,000 models": (10_000, 1, True),
}


def loading(folder: Path) -> dict[str, dict[str, float]]:
    """Return the seconds to load and to check configurations of many policies."""
    report = {}
    print("\nseconds to load and check policies")
    print(f"{'':28}{'load':>8}{'check':>8}{'both':>8}{'CPU':>8}{'MB':>8}")
    for number, (name, (models, each, shared)) in enumerate(SHAPES.items()):
        file = folder / f"shape-{number}.yaml"
        file.write_text(_shared(models, each) if shared else _own(models, each))
        done = subprocess.run(
            [sys.executable, __file__, "--load", str(file)], check=True, capture_output=True, text=True
        )
        report[name] = found = json.loads(done.stdout)
        figures = (found["load"], found["check"], found["load"] + found["check"], found["cpu"])
        print(f"{name:28}" + "".join(f"{figure:8.2f}" for figure in figures) + f"{found['mb']:8.0f}")
    return report


def load_once(file: str) -> None:
    """Load and check a configuration, and print how long it took."""
    import resource

    load_config(HERE.parent / "configs")  # what is imported by the way is not counted
    used = time.process_time()
    began = time.perf_counter()
    config = load_config(file)
    loaded = time.perf_counter()
    check(config)
    checked = time.perf_counter()
    cpu = time.process_time() - used
    mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"load": loaded - began, "check": checked - loaded, "cpu": cpu, "mb": mb}))


def _own(models: int, each: int) -> str:
    lines = ["version: 1", "models:"]
    for model in range(models):
        lines += [f"  model-{model}:", f"    labels: {{team: t{model % 20}}}", "    policies:"]
        for number in range(model * each, (model + 1) * each):
            when = f"event.data.model == 'm-{number}' && event.data.share > 0.3"
            on = f"{{type: 'drift.{number % 97}', when: \"{when}\", count: 3, within: 1h}}"
            lines.append(f"      p{number}: {{on: {on}, cooldown: {{period: 6h}}, budget: {{runs: 4, per: 1d}}}}")
        lines.append("    train: {command: [sh, train.sh]}")
    return "\n".join(lines) + "\n"


def _shared(models: int, each: int) -> str:
    lines = ["version: 1", "policies:"]
    for number in range(each):
        on = f"{{type: 'drift.{number}', subject: $model, when: event.data.share > 0.3, count: 3, within: 1h}}"
        lines += [f"  p{number}:", "    select: all", f"    on: {on}", "    cooldown: {period: 6h}"]
    lines.append("models:")
    for model in range(models):
        lines += [f"  model-{model}:", f"    labels: {{team: t{model % 20}}}"]
        if model % 10 == 0:  # every tenth says something of its own
            lines.append("    policies: {p0: {cooldown: {period: 1h}}}")
        lines.append("    train: {command: [sh, train.sh]}")
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------------------------- why


def why(folder: Path, events: int) -> dict[str, dict[str, float]]:
    """Return milliseconds of the API's answers on a database of so many decided events."""
    from latency import daemon

    where = folder / "why"
    where.mkdir()
    file = where / "retrain.yaml"
    file.write_text(_WHY)
    config = load_config(file)
    config.state_dir.mkdir(exist_ok=True)
    things = _fill(config, events)
    report = {}
    with daemon(file, where) as control:
        print(f"\nmilliseconds of GET /v1/why/…, {events:,} events in the database")
        print(f"{'':28}{'median':>9}{'p95':>9}{'bytes':>9}")
        for name, thing in things.items():
            took, size = [], 0
            for _ in range(41):
                began = time.perf_counter_ns()
                status, answer = _get(control, f"/v1/why/{thing}")
                took.append((time.perf_counter_ns() - began) / 1e6)
                if status != 200:
                    raise SystemExit(f"why {thing}: {status} {answer!r}")
                size = len(answer)
            report[name] = {"median": statistics.median(took[1:]), "p95": percentile(took[1:], 0.95), "first": took[0]}
            print(f"{name:28}{report[name]['median']:9.2f}{report[name]['p95']:9.2f}{size:9}")
    return report


_WHY = """\
version: 1
policies:
  drift:
    select: all
    on: {type: drift, subject: $model, when: event.data.share > 0.3, count: 3, within: 1h}
    cooldown: {period: 6h}
models:
""" + "".join(f"  model-{number}: {{train: {{command: [sh], concurrency: allow}}}}\n" for number in range(20))


def _fill(config: Config, events: int) -> dict[str, str]:
    """Fill the database: most events by one statement, as decided long ago, the last few by the daemon's own loops."""
    from controller.clock import Ids, SystemClock, system_random
    from controller.core.model import NewEvent
    from controller.engine.evaluator import Evaluator
    from controller.engine.runtime import Runtime
    from controller.ports import Batch
    from controller.store import Store
    from controller.telemetry import Metrics
    from controller.testing import RecordingLog

    clock, chance = SystemClock(), system_random()
    ids = Ids(clock, chance)
    store = Store.open(config.store.reveal(), base=config.base, clock=clock, ids=ids)
    try:
        store.upgrade()
        store.lead(owner="bench", host="bench", pid=1)
        began = to_micros(datetime.now(UTC) - timedelta(days=90))
        with store.transaction("fill") as tx:
            tx.connection.exec_driver_sql(
                _FILL, {"events": events, "began": began, "step": 90 * 86_400_000_000 // events}
            )
        runtime = Runtime(
            config=config,
            store=store,
            clock=clock,
            random=chance,
            ids=ids,
            log=RecordingLog(),
            metrics=Metrics(),
            owner="bench",
        )
        evaluator = Evaluator(runtime)
        evaluator.activate(actor="bench")
        from controller.engine.inbox import Inbox

        inbox = Inbox(runtime)
        told = [
            NewEvent(
                source="/bench",
                source_id=f"new-{n}",
                type="drift",
                subject=f"model-{n % 20}",
                data={"share": 0.4 + n % 2},
            )
            for n in range(200)
        ]
        told.append(NewEvent(source="/bench", source_id="miss", type="drift", subject="model-1", data={"share": 0.1}))
        answer = inbox.put("api", Batch(events=told))
        inbox.tick(clock.now())
        receipts = answer.result(timeout=0)
        while evaluator.tick(clock.now()).worked:
            pass
        with store.reading() as tx:
            run = tx.connection.exec_driver_sql("SELECT id FROM run ORDER BY id LIMIT 1").scalar_one()
    finally:
        store.close()
    return {
        "an event that led to a run": receipts[59].event_id,
        "an event that nobody wanted": receipts[-1].event_id,
        "an event of long ago": "evt-0000000000000077",
        "a run": run,
        "a model": "model-1",
        "a policy": "model-1/drift",
    }


_FILL = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :events)
INSERT INTO event (id, identity, origin, source, source_id, type, subject, time, received_at, data, extensions, state,
                   decided_seq, decided_at)
SELECT printf('evt-%016d', i), i, 'api', '/bench', printf('old-%d', i), 'drift', printf('model-%d', i % 20), :began + i * :step,
       :began + i * :step, json_object('share', (i % 100) / 400.0, 'rows', i), '{}', 'PROCESSED', i, :began + i * :step
FROM n
"""


def _get(control: Path, target: str) -> tuple[int, bytes]:
    from latency import UnixConnection

    connection = UnixConnection(control)
    connection.request("GET", target)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


# ----------------------------------------------------------------------------------------------------- in common


@dataclass(frozen=True, slots=True)
class _Collector:
    """Keeps the garbage collector out of what is measured."""

    def __enter__(self) -> None:
        gc.collect()
        gc.disable()

    def __exit__(self, *exception: object) -> None:
        gc.enable()


def _collector_paused() -> _Collector:
    return _Collector()


def _event(number: int, *, received_at: datetime = NOON, **fields: Any) -> Event:
    """Return a drift event about model m-0."""
    defaults: dict[str, Any] = {
        "id": f"evt-{number:016d}",
        "origin": "api",
        "source": "/bench",
        "source_id": f"e{number}",
        "type": "drift",
        "subject": "m-0",
        "time": received_at,
        "received_at": received_at,
        "data": {"share": 0.4, "name": "part-0001"},
        "extensions": {},
    }
    return Event(**(defaults | fields))


def _policies(model: str, ons: Sequence[str]) -> list[Policy]:
    """Return policies of a model as a configuration makes them; each text is an `on`, and what may follow it."""
    from controller.config.build import models_from_normal_form
    from controller.config.build_policy import fill_on
    from controller.config.schema import ConfigSection
    from controller.config.yaml12 import parse

    text = "".join(f"  p{number}: {{on: {on}}}\n" for number, on in enumerate(ons))
    root, _ = parse(f"policies:\n{text}".encode(), file="bench")
    assert root is not None
    models = {model: {"policies": root["policies"], "train": {"command": ["sh"]}}}
    section = ConfigSection.model_validate_json(json.dumps({"version": 1, "models": models}), strict=True)
    form = section.model_dump(mode="json", exclude_none=True)
    for name, policy in section.models[model].policies.items():
        fill_on(form["models"][model]["policies"][name]["on"], policy.on)
    return list(models_from_normal_form(form)[model].policies.values())


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("index", "decide", "state", "load", "why")
    parser.add_argument(
        "--only", default=",".join(parts[:-1]), help="parts to run, joined by commas; without `why` by default"
    )
    parser.add_argument("--most", type=int, default=100_000, help="policies in the largest index")
    parser.add_argument("--events", type=int, default=1_000_000, help="events in the database of `why`")
    parser.add_argument("--json", help="write every figure to this file")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load_once(options.load)
        raise SystemExit(0)
    options.only = options.only.split(",")
    if unknown := [part for part in options.only if part not in parts]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(parts)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
