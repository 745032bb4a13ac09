"""`retrainctl status` on one screen: one line on who leads, a table when there are several daemons, and what is wrong."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from controller.cli import show
from tests.factories import NOON, minutes

AT = "2024-03-05T12:00:00Z"


def replica(pid: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"rep-{pid}",
        "host": "tower",
        "pid": pid,
        "program": "0.2.0",
        "address": "http://10.0.0.1:8080",
        "config_version": "c1",
        "is_in_force": True,
        "leads": False,
        "ready": True,
        "reasons": [],
        "waiting": 0,
        "seen_seconds_ago": 2.0,
        "is_gone": False,
        **fields,
    }


def status(*replicas: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "leader": {
            "term": 7,
            "host": "tower",
            "pid": 1,
            "since": AT,
            "replica": "rep-1",
            "ends_in_seconds": 14.2,
            "is_over": False,
        },
        "replicas": list(replicas),
        "events": {"pending": 0, "oldest_pending_at": None, "dead": 0},
        "lag": {"events_seconds": 0.0, "timers": 0, "timers_seconds": 0.0},
        "dead_letters": [],
        "notifications_dead": 0,
        "watches": [],
        "complaints": [],
        **{name: [] for name in ("silent", "pauses", "models", "active", "awaiting", "held", "promotions", "recent")},
        **fields,
    }


def shown(found: dict[str, Any]) -> list[str]:
    console = Console(file=StringIO(), width=100)
    for part in show.status(found, NOON + minutes(60), 100):
        console.print(part, markup=False, highlight=False, soft_wrap=True)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


def test_one_daemon_is_one_line() -> None:
    """Without others there is no table."""
    alone = status(replica(1, leads=True), leader={**status()["leader"], "ends_in_seconds": None})
    lines = shown(alone)

    assert lines[0] == "retrain controller  led by tower pid 1, term 7, since 60m ago"
    assert lines[1] == "0 events pending · 0 dead letters"
    assert "REPLICAS" not in lines


def test_several_daemons_are_a_table() -> None:
    """The leader first; who is gone or not ready, and below the table what each complains of; programs only when they differ."""
    found = status(
        replica(2, is_in_force=False, config_version="c0", program="0.1.0"),
        replica(3, is_gone=True, ready=None, seen_seconds_ago=95.0, reasons=["no longer of interest"]),
        replica(4, ready=False, reasons=["bus: connection refused"], waiting=1200),
        replica(1, leads=True),
    )
    lines = shown(found)
    start = lines.index("REPLICAS")

    assert lines[0].endswith("since 60m ago, lease ends in 14s")
    assert [" ".join(line.split()) for line in lines[start + 1 : start + 7]] == [
        "replica state seen configuration program waiting address",
        "tower pid 1 leads 2s ago c1 0.2.0 0 http://10.0.0.1:8080",
        "tower pid 2 follows 2s ago c0 0.1.0 0 http://10.0.0.1:8080",
        "tower pid 4 follows, unready 2s ago c1 0.2.0 1,200 http://10.0.0.1:8080",
        "tower pid 3 gone 95s ago c1 0.2.0 0 http://10.0.0.1:8080",
        "tower pid 4: bus: connection refused",
    ]


def test_a_table_fits_a_hundred_columns() -> None:
    """A long address is cut where it is the same for all."""
    long = f"/tmp/{'x' * 100}/state/retrain.sock"
    lines = shown(status(replica(1, address=long, leads=True), replica(2, address=long)))

    assert max(map(len, lines)) <= 100
    assert sum(line.endswith("/state/retrain.sock") for line in lines) == 2


def test_nobody_leads() -> None:
    """It is the first thing that is seen."""
    lines = shown(status(leader={**status()["leader"], "is_over": True}))

    assert lines[0] == "retrain controller  nobody leads; last led by tower pid 1, term 7"


def test_what_is_behind_or_given_up() -> None:
    """Decisions that are behind, messages that nobody took, and promotions that are watched."""
    watch = {"model": "churn", "run_id": "run-1", "until": "2024-03-05T15:00:00Z", "rolls_back": True}
    found = status(
        lag={"events_seconds": 42.0, "timers": 0, "timers_seconds": 0.0},
        notifications_dead=2,
        watches=[{**watch, "needed": 3, "samples": 1}],
    )
    lines = shown(found)

    assert "decisions are 42s behind" in lines[1]
    assert "2 messages to people given up" in lines[1]
    assert lines[lines.index("WATCHED AFTER PROMOTION") + 1] == (
        "churn run-1, ends in 2h, 1 of 3 events for a rollback"
    )
