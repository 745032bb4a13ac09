"""Accounts of events, runs, models and policies: what they say, and how they read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.api.why import why
from controller.core.explain import Line, render
from controller.store.views import Views
from controller.testing.fakes import ManualClock
from tests.story import MODEL, Story, open_store, tell


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    clock = ManualClock()
    store = open_store(f"sqlite:///{tmp_path / 'retrain.db'}", clock)
    yield tell(store, clock)
    store.close()


def explain(story: Story, thing: str) -> tuple[dict[str, Any], str]:
    """Return the account and its text."""
    account = why(Views(story.store), thing, {MODEL: story.spec})
    return account, "\n".join(str(line) for line in render(account))


def test_event_that_led_to_a_promotion(story: Story) -> None:
    """It shows the chain with the values seen, and the run's end."""
    account, text = explain(story, story.arrived)

    assert account["summary"].startswith(f"it led to {story.promoted} ended PROMOTED: auc 0.7123 against 0.66")
    assert "flight-delay/new-month held it" in text
    assert "✓ when      event.data.size > 1000: true (event.data.size = 4200000)" in text
    assert "… debounce  quiet for 0s of 5s" in text
    assert f"→ {story.promoted} ended PROMOTED" in text


def test_event_that_was_only_counted(story: Story) -> None:
    """It is asked again under the configuration of now, and says so; the nearest miss comes first."""
    account, text = explain(story, story.missed)

    assert [(p["policy"], p["stage"], p["recomputed"]) for p in account["policies"]] == [
        ("drift", "when", True),
        ("new-month", "match", True),
    ]
    assert (
        "the nearest was flight-delay/drift: event.data.share > 0.3: false (event.data.share = 0.2)"
        in account["summary"]
    )
    assert "✗ when   event.data.share > 0.3: false (event.data.share = 0.2)" in text
    assert "asked again as configured now" in text


def test_event_that_is_held(story: Story) -> None:
    """It says by whom it is held, why and until when; the other policy is asked again."""
    account, text = explain(story, story.held)

    assert account["summary"] == "it is held by flight-delay/drift at cooldown: last promotion 1h ago, 6h asked"
    assert "… held until " in text
    assert [p["recomputed"] for p in account["policies"]] == [False, True]


def test_dead_and_pending_events(story: Story) -> None:
    """A dead letter names its reason, an undecided event says that it waits."""
    assert "dead letter: share is text" in explain(story, story.dead)[0]["summary"]
    assert "waits to be decided" in explain(story, story.pending)[0]["summary"]


def test_expression_that_fails_is_an_error(story: Story) -> None:
    """An expression that fails on the event's data shows as an error, not as a miss."""
    account, text = explain(story, story.dead)

    assert account["policies"][0]["kind"] == "ERROR"
    assert "! when" in text


def test_a_policy_that_would_pass_now(story: Story) -> None:
    """A policy that wrote no decision though it lets the event pass was configured later, and that is said."""
    drift = story.spec.policies["drift"]
    spec = story.spec.__class__(
        **{name: getattr(story.spec, name) for name in story.spec.__slots__ if name != "policies"},
        policies={
            "newer": drift.__class__(**{n: getattr(drift, n) for n in drift.__slots__ if n != "name"}, name="newer")
        },
    )
    account = why(Views(story.store), story.held, {MODEL: spec})
    newer = next(p for p in account["policies"] if p["policy"] == "newer")

    assert newer["kind"] == "UNDECIDED"
    assert "as it is configured now" in newer["reason"]


def test_promoted_run(story: Story) -> None:
    """It shows causes, chain, jobs, the verdict line by line, the promotion and the history."""
    account, text = explain(story, story.promoted)

    assert account["summary"].startswith("PROMOTED (promoted): auc 0.7123 against 0.66 of champion v1")
    for part in (
        "because of 1 event",
        "file.arrived from landing",
        "flight-delay/new-month held it",
        "✓ when      event.data.size > 1000: true (event.data.size = 4200000)",
        "flight-delay/new-month fired",
        "✓ boosting (algorithm=boosting) SUCCEEDED  auc=0.7123, rows=27000",
        "judged PASSED, challenger boosting against champion v1",
        "✓ boosting  objective  gain +0.0523",
        "v2 of boosting is CHAMPION: /models/boosting",
        "alias APPLIED: models/flight-delay -> v2",
        "JUDGING → PROMOTING (passed)",
    ):
        assert part in text


def test_rejected_run(story: Story) -> None:
    """It says with numbers why the challenger lost, and which candidate failed."""
    account, text = explain(story, story.rejected)

    assert "gain -0.001, at least +0.002 asked" in account["summary"]
    assert "✗ linear (algorithm=linear) FAILED: exit code 3" in text
    assert "✗ boosting  objective  gain -0.001" in text


def test_pressed_run(story: Story) -> None:
    """It names the person, the reason and the parameters."""
    _, text = explain(story, story.training)

    assert "grace pressed: holidays ahead, with depth=6" in text
    assert "» chain  a person passes over match" in text


def test_model(story: Story) -> None:
    """It says who is champion, how it became that, what waits and what is paused."""
    account, text = explain(story, MODEL)

    assert account["summary"].startswith(f"v2 is champion, promoted from {story.promoted}")
    assert "drift at cooldown until " in text
    assert "flight-delay/new-month paused by ada" in text
    assert "… drift held it at cooldown" in text


def test_policy(story: Story) -> None:
    """It says what it holds, what it only counted, and its last decisions."""
    account, text = explain(story, f"{MODEL}/drift")

    assert account["summary"].endswith("last held it: last promotion 1h ago, 6h asked")
    assert "1 event ended at when, only counted" in text


def test_no_configuration(story: Story) -> None:
    """Without the configuration an account still has everything that was written."""
    account = why(Views(story.store), story.missed, {})

    assert account["policies"] == []
    assert account["summary"] == "it started nothing: no policy listens to events"


@pytest.mark.parametrize(
    "name", ["arrived", "missed", "held", "dead", "pending", "press", "promoted", "rejected", "training"]
)
def test_lines_are_single(story: Story, name: str) -> None:
    """A rendered line is one line, whatever the data holds."""
    account, _ = explain(story, getattr(story, name))

    assert all("\n" not in line.text for line in render(account))


def test_line_text() -> None:
    """A line reads as indent, mark, text."""
    assert str(Line(text="when  true", indent=1, mark="✓")) == "  ✓ when  true"
