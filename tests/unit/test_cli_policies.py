"""`retrainctl policies` and the outcome on a run's page: what came of policies, for people and for programs, without a daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from controller.api.why import why
from controller.cli.main import app
from controller.core.explain import render
from controller.core.watch import Signal
from controller.store.views import Views
from controller.testing.fakes import ManualClock
from tests.factories import at
from tests.story import MODEL, Story, open_store, tell
from tests.unit.test_cli import CONFIG

RUNNER = CliRunner()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RETRAIN_CONFIG", "RETRAIN_URL", "RETRAIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def story(folder: Path) -> Iterator[Story]:
    """A story whose promoted run is watched."""
    (folder / "retrain.yaml").write_text(CONFIG)
    clock = ManualClock()
    store = open_store(f"sqlite:///{folder / 'state' / 'retrain.db'}", clock)
    story = tell(store, clock)
    with store.transaction("watch") as tx:
        run = tx.runs.get(story.promoted)
        assert run is not None
        promotion = tx.models.promotion_of_run(run.id)
        assert promotion is not None
        tx.watches.add(run, promotion, Signal(asked_by="file.arrived"), until=at(days=1), rolls_back=True, needed=2)
    yield story
    store.close()


def end_badly(story: Story) -> None:
    """Let the watch end as if two alerts had rolled the promotion back."""
    evidence = [{"event_id": "evt-7", "type": "alert.slo", "subject": None, "time": "2024-03-05T12:00:00Z"}]
    with story.store.transaction("watch") as tx:
        (watching,) = tx.watches.open()
        tx.watches.set(watching.id, samples=2, evidence=evidence, broken=3, broken_reason="no field 'burn'")
        promotion = tx.models.promotion_of_run(story.promoted)
        assert promotion is not None
        tx.watches.end(watching, "WORSE", cause="worse", reason="2 events of alert.slo", rollback_id=promotion.id)


def run(*arguments: str) -> Result:
    return RUNNER.invoke(app, arguments)


def answer(*arguments: str) -> Any:
    result = run(*arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def account(story: Story) -> str:
    found = why(Views(story.store), story.promoted, {MODEL: story.spec})
    return "\n".join([found["summary"], *map(str, render(found))])


def test_policies(story: Story) -> None:
    """Every configured policy, those that did nothing and the presses of people too; of one model, and so far back."""
    end_badly(story)
    found = {row["policy"]: row for row in answer("policies")}

    assert set(found) == {"new-month", "drift", "manual"}
    assert (found["new-month"]["promoted"], found["new-month"]["worse"], found["new-month"]["rejected"]) == (1, 1, 1)
    assert (found["drift"]["fired"], found["drift"]["mode"], found["manual"]["mode"]) == (0, "live", None)
    assert answer("policies", MODEL) == answer("policies")
    assert [row["fired"] for row in answer("policies", MODEL, "--since", "1s")] == [0, 0]


def test_policies_for_people(story: Story) -> None:
    """One line each, with dots where there is nothing, within a hundred columns."""
    lines = run("policies").stdout.splitlines()

    assert lines[0].split() == [
        "policy", "fired", "promoted", "rejected", "failed", "cured", "not", "cured", "worse", "wasted", "last"
    ]  # fmt: skip
    assert lines[1].split()[:6] == [f"{MODEL}/drift", "·", "·", "·", "·", "·"]
    assert lines[1].rstrip().endswith("never")
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["policies", "nowhere"], 4, "there is no model 'nowhere'"),
        (["policies", "--since", "a while"], 2, "is not a length of time"),
    ],
)
def test_mistakes(story: Story, arguments: list[str], code: int, said: str) -> None:
    """A model that is not there, and a length that is none."""
    result = run(*arguments)

    assert result.exit_code == code
    assert said in result.output


def test_a_watch_that_is_open(story: Story) -> None:
    """A run's page says until when it is watched, and how many of the events that say worse there are."""
    page, text = run("runs", "show", story.promoted).stdout, account(story)

    assert "watched until" in page
    assert "0 of 2 that say worse" in page
    assert "… watched until" in text
    assert answer("runs", "show", story.promoted)["outcome"] is None


def test_the_outcome_of_a_run(story: Story) -> None:
    """Its page and its account say what became of it, why, what could not be evaluated, and that it was rolled back."""
    end_badly(story)
    page, text = run("runs", "show", story.promoted).stdout, account(story)

    for said in (page, text):
        assert "it made things worse (WORSE): 2 events of alert.slo" in said
        assert "rollback_on could not be evaluated 3 times: no field 'burn'" in said
        assert "rolled back by the controller: pro-" in said
    assert "it made things worse: 2 events of alert.slo" in text.splitlines()[0]
    assert "watch" in text
    assert "OPEN → WORSE (worse)" in text
    watch = answer("runs", "show", story.promoted)["watch"]
    assert (watch["state"], watch["rollback_state"], len(watch["evidence"])) == ("WORSE", "APPLIED", 1)


def test_a_run_that_was_not_promoted(story: Story) -> None:
    """It has no outcome, and its page says nothing of one."""
    found = answer("runs", "show", story.rejected)

    assert (found["outcome"], found["watch"]) == (None, None)
    assert "OUTCOME" not in run("runs", "show", story.rejected).stdout
