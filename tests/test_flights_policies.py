"""The policies of the flights example over the year's events: their backtest, a plan against a changed file, and their cases."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from controller.cli.exits import Exit
from controller.cli.main import app

FLIGHTS = Path(__file__).parent.parent / "examples" / "flights"
EVENTS = FLIGHTS / "events-2013.jsonl"
POLICIES, CHANGED = FLIGHTS / "policies.yaml", FLIGHTS / "policies-changed.yaml"


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    return result.exit_code, result.stdout


@pytest.mark.parametrize("path", [POLICIES, CHANGED], ids=["policies", "changed"])
def test_nothing_is_wrong_with_the_files(path: Path) -> None:
    """`check` has nothing to say of either file."""
    assert run("--config", path, "check") == (0, f"{path}: nothing is wrong\n")


def test_the_backtest_tells_what_the_year_would_have_started() -> None:
    """Each kind of policy did in the year what its comment says; what is assumed is said."""
    code, text = run("backtest", "-c", POLICIES, "--events", EVENTS, "-o", "json")
    found: dict[str, Any] = json.loads(text)
    fired = {row["policy"]: (row["fired"], row["observed"]) for row in found["policies"]}

    assert code == 0
    assert fired == {
        "new-month": (12, 0),
        "decline": (8, 0),
        "drift-that-hurts": (5, 0),
        "after-a-storm": (0, 2),
        "no-month": (0, 0),
        "stale": (0, 0),
    }
    assert found["events"] == 485
    assert all(row["assumed"] and row["cost"] == 2.5 for row in found["would"])
    assert sum(row["errors"] for row in found["policies"]) == 0


def test_the_plan_tells_what_a_change_means() -> None:
    """The keys that changed, and how many retrainings of the year that would have saved."""
    words = ("plan", "-c", CHANGED, "--instead-of", POLICIES, "--events", EVENTS)
    code, text = run(*words)

    assert code == Exit.CHANGED
    assert "~ flight-delay/drift-that-hurts changed" in text
    assert "    on.all[0].count: 2 → 3" in text
    assert "    cooldown.period: 14d → 30d" in text
    assert "25 → 23 retrainings" in text


def test_the_cases_hold() -> None:
    """`policy test` finds nothing that a policy does otherwise than its cases say."""
    code, text = run("policy", "test", FLIGHTS / "cases")

    assert code == 0, text
    assert text.endswith("7 passed\n")


@pytest.mark.timeout(240)
def test_the_events_are_what_the_data_say(tmp_path: Path) -> None:
    """`history.py` makes the file anew; a score may differ in its last digit on another machine."""
    made = subprocess.run([sys.executable, "history.py"], cwd=FLIGHTS, check=True, capture_output=True, text=True)
    events = [[json.loads(line) for line in text.splitlines()] for text in (made.stdout, EVENTS.read_text("utf-8"))]

    for fresh, kept in zip(*events, strict=True):
        score, kept_score = (event["data"].pop("auc", 0.0) for event in (fresh, kept))
        assert fresh == kept
        assert score == pytest.approx(kept_score, abs=0.002)
