"""What a seed tells: how many replicas, which configurations, what happens when, and what may go wrong how often.

Everything is drawn before anything runs, so that a story does not depend on how the replicas take it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controller.testing import SeededRandom
from tests.simulation.weather import chance_of

SECOND = 1_000_000
MODELS = ("alpha", "beta")

#: What may strike at crash points and in the world, by group; a seed takes some of them, each at one of a few rates.
KINDS: Mapping[str, Sequence[str]] = {
    "crash": ("crash",),
    "stop": ("stop",),
    "linger": ("linger",),
    "lost commit": ("commit lost", "commit answer lost"),
    "launch": ("launch refused", "launch impossible", "launch request lost", "launch answer lost"),
    "late": ("launch late",),
    "look": ("find fails", "look fails", "hint lost", "stop lost"),
    "registry": ("registry down", "registry gives up", "registry answer lost"),
    "foreign": ("foreign promotion",),
    "mail": ("mail refused", "mail impossible", "mail answer lost"),
}
_RATES = (0.003, 0.01, 0.04)
#: The far side is called less often than a crash point is passed.
_OFTEN = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Happening:
    """Something that happens at its time, whatever the replicas do."""

    #: Microseconds from the beginning.
    at: int
    #: event, record, act, reload; or a disturbance: kill, stop, jump, outage, gone, reboot, leave, tamper, foreign.
    what: str
    #: A number from which whatever is needed is chosen.
    chance: float
    body: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """One scenario."""

    seed: int
    replicas: int
    #: The lease does not end, and there is one replica, as on SQLite.
    is_alone: bool
    #: Every replica has the same name of its host and the same process id.
    same_names: bool
    #: Configurations, as they are written.
    plans: Sequence[Mapping[str, Any]]
    happenings: Sequence[Happening]
    #: Microseconds after which nothing new happens.
    length: int
    rates: Mapping[str, float]
    #: By how many seconds a clock may be set wrong.
    jumps: Sequence[float]
    has_cron: bool


def tell(seed: int) -> Story:
    """Return the story of a seed."""
    chance = chance_of("story", seed)
    replicas = chance.choices((1, 2, 3, 4, 5), (40, 30, 20, 6, 4))[0]
    length = int(chance.uniform(15, 70) * SECOND)
    has_cron = chance.random() < 0.3
    is_alone = replicas == 1 and chance.random() < 0.6
    launcher = chance.choices(("sim", "sim-local", "sim-blind"), (50, 30, 20))[0]
    plans = [_plan(chance, launcher, has_cron=has_cron)]
    for _ in range(chance.choices((0, 1), (60, 40))[0]):
        plans.append(_changed(chance, plans[-1]))
    rates = _rates(chance)
    if has_cron:  # the one place where two replicas may bring the same thing in
        emit = chance_of("emit", seed)
        rates |= {"emit stop": emit.choice((0.0, 0.1, 0.4)), "emit crash": emit.choice((0.0, 0.1, 0.4))}
    return Story(
        seed=seed,
        replicas=replicas,
        is_alone=is_alone,
        same_names=chance.random() < 0.5,
        plans=plans,
        happenings=_happenings(chance, length, len(plans)),
        length=length,
        rates=rates,
        jumps=(-90, -20, 20, 90, 150) if has_cron else (-86400, -3600, -60, 60, 600, 3600),
        has_cron=has_cron,
    )


def _rates(chance: SeededRandom) -> dict[str, float]:
    rates: dict[str, float] = {}
    for group, kinds in KINDS.items():
        if chance.random() < 0.45:
            rate = chance.choice(_RATES)
            if group not in ("crash", "stop", "linger", "lost commit"):
                rate *= _OFTEN
            rates |= dict.fromkeys(kinds, rate / len(kinds))
    return rates


# ---------------------------------------------------------------------------------------------------- configurations


def _plan(chance: SeededRandom, launcher: str, *, has_cron: bool) -> dict[str, Any]:
    plan: dict[str, Any] = {
        "version": 1,
        "store": "sqlite:///retrain.db",
        "state_dir": "state",
        "runs_dir": "../runs",
        "models": {
            name: _model(chance, launcher, has_cron=has_cron) for name in MODELS[: chance.choices((1, 2), (70, 30))[0]]
        },
        "notify": [],
    }
    if has_cron:
        plan["sources"] = {
            "nightly": {
                "type": "cron",
                "schedule": chance.choice(("* * * * *", "*/2 * * * *")),
                "catch_up": chance.choice(("last", "all", "none")),
            }
        }
    return plan


def _model(chance: SeededRandom, launcher: str, *, has_cron: bool) -> dict[str, Any]:
    policies = {"drift": _policy(chance, {"type": "drift"})}
    if chance.random() < 0.4:
        policies["records"] = _policy(chance, {"type": "record", "when": "event.data.rows > 10"})
    if has_cron:
        policies["ticks"] = {"on": {"source": "nightly"}}
    model: dict[str, Any] = {
        "policies": policies,
        "train": {
            "launcher": launcher,
            "candidates": {name: {} for name in ("a", "b")[: chance.choices((1, 2), (65, 35))[0]]},
            "timeout": chance.choice(("20s", "1m")),
            "stop_grace": "4s",
            "lost_grace": "10s",
            "retries": {"attempts": chance.choice((1, 2, 3)), "backoff": "3s"},
            "concurrency": chance.choices(("queue", "forbid", "replace", "allow"), (55, 15, 15, 15))[0],
        },
        "gate": chance.choice(
            (
                {"objective": {"metric": "auc"}},
                {"require": ["candidate.metrics.auc > 0.6"], "objective": {"metric": "auc"}},
            )
        ),
        "promote": [{"type": "sim", "name": name} for name in ("first", "second")[: chance.choice((1, 1, 2))]],
        "notify": ["sim"],
    }
    if chance.random() < 0.25:
        model["approve"] = {"required": True, "timeout": "40s"}
    if chance.random() < 0.25:
        model["watch"] = {"for": "30s", "rollback_on": {"type": "alert.slo"}}
        model["after_rollback"] = "20s"
    return model


def _policy(chance: SeededRandom, on: dict[str, Any]) -> dict[str, Any]:
    policy: dict[str, Any] = {"on": on}
    shape = chance.random()
    if shape < 0.25:
        policy["debounce"] = {"quiet": "5s", "max_wait": "15s"}
    elif shape < 0.4:
        policy["on"] = {**on, "count": 2, "within": "1h"}
    elif shape < 0.55:
        policy["cooldown"] = {"after": chance.choice(("decision", "launch", "success", "promotion")), "period": "20s"}
    elif shape < 0.65:
        policy["budget"] = {"runs": 2, "per": "1m"}
    return policy


def _changed(chance: SeededRandom, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that somebody makes of another."""
    models = {name: {**model, "policies": dict(model["policies"])} for name, model in plan["models"].items()}
    for model in models.values():
        model["policies"]["drift"] = _policy(chance, {"type": "drift"})
        if chance.random() < 0.3:
            model["policies"].pop("records", None)
        model["train"] = {**model["train"], "timeout": "30s"}
    return {**plan, "models": models}


# ---------------------------------------------------------------------------------------------------- what happens


def _happenings(chance: SeededRandom, length: int, plans: int) -> list[Happening]:
    found: list[Happening] = []

    def add(what: str, count: int, **body: Any) -> None:
        found.extend(
            Happening(at=int(chance.uniform(0.2, 1) * length * 0.95), what=what, chance=chance.random(), body=body)
            for _ in range(count)
        )

    for number in range(chance.choices((3, 6, 12, 30), (40, 35, 20, 5))[0]):
        kind = chance.choices(("drift", "record", "alert.slo", "noise"), (70, 15, 8, 7))[0]
        add("event", 1, number=number, type=kind, copies=chance.choices((1, 2, 5), (60, 25, 15))[0])
    if chance.random() < 0.35:
        add("record", chance.choice((2, 5, 9)))
    if chance.random() < 0.5:
        for number in range(chance.choice((1, 2, 4))):
            verb = chance.choices(
                ("retrain", "cancel", "approve", "reject", "retry", "rollback", "promote", "pause", "resolve"),
                (28, 18, 12, 5, 8, 8, 6, 5, 10),
            )[0]
            add(
                "act",
                1,
                verb=verb,
                key=f"key-{number}" if chance.random() < 0.6 else None,
                copies=chance.choice((1, 1, 2, 3)),
            )
    if plans > 1:
        add("reload", chance.choice((1, 2)), variant=1)
        add("reload", chance.choice((0, 1)), variant=0)
    for what, most, likely in (
        ("kill", 3, 0.35),
        ("stop", 3, 0.35),
        ("jump", 3, 0.15),
        ("outage", 2, 0.2),
        ("gone", 1, 0.18),
        ("reboot", 1, 0.12),
        ("leave", 2, 0.15),
        ("tamper", 2, 0.2),
        ("foreign", 1, 0.05),
    ):
        if chance.random() < likely:
            add(what, 1 + int(chance.random() * most))
    return sorted(found, key=lambda happening: happening.at)
