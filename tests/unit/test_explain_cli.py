"""`retrainctl why` as people type it: one key, an instant in the past, and lines that fit the terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from controller.api.why import why
from controller.cli import show
from controller.store.views import Views
from tests.story import MODEL, Story
from tests.unit.test_cli import answer, folder, run, story

__all__ = ["folder", "story"]


def test_a_key_is_shown_in_full(story: Story) -> None:
    """`--key` names it; the empty one is that of a policy without keys."""
    account = answer("why", f"{MODEL}/drift", "--key", "")

    assert account["key"]["stage"] == "cooldown"
    assert account["key"]["causes"][0]["event_id"] == story.held
    assert "holds 1 cause at cooldown" in run("why", f"{MODEL}/drift").stdout


@pytest.mark.parametrize(
    "arguments,code",
    [
        (("why", f"{MODEL}/drift", "--key", "none"), 4),
        (("why", MODEL, "--key", "none"), 2),
        (("why", MODEL, "--at", "tomorrow"), 2),
        (("why", MODEL, "--at", "2999-01-01T00:00:00Z"), 2),
    ],
    ids=["unknown-key", "no-policy", "no-instant", "still-to-come"],
)
def test_what_cannot_be_asked(story: Story, arguments: tuple[str, ...], code: int) -> None:
    """A sentence and a code, no traceback."""
    del story
    result = run(*arguments)

    assert result.exit_code == code
    assert "Traceback" not in result.output


def test_an_instant_in_the_past(story: Story) -> None:
    """`--at` takes an instant: before the promotion the adopted version was the champion."""
    promoted_at = answer("why", story.promoted)["finished_at"]
    before = datetime.fromisoformat(promoted_at) - timedelta(seconds=1)

    account = answer("why", MODEL, "--at", before.isoformat())

    assert account["at"] == before.astimezone(UTC).isoformat().replace("+00:00", "Z")
    assert account["champion"]["id"] == story.adopted
    assert answer("why", MODEL)["champion"]["id"] == story.champion
    assert answer("why", story.promoted, "--at", before.isoformat())["state"] == "TRAINING"


def test_so_long_ago(story: Story) -> None:
    """`--at 1h` is an hour before now, whatever the zone."""
    account = answer("why", story.promoted, "--at", "1h")

    assert account["state"] == "PROMOTED"


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("thing", ["promoted", "rejected", "training", "arrived", "missed", "held", "dead", "press"])
def test_lines_fit_the_terminal(story: Story, thing: str, width: int) -> None:
    """No line is wider than the terminal, but for a word that is."""
    account = why(Views(story.store), getattr(story, thing), {MODEL: story.spec})

    for line in show.account(account, width):
        text = str(line)
        assert len(text) <= width or len(text.split()) <= 2, text


@pytest.mark.parametrize("thing", [MODEL, f"{MODEL}/drift", f"{MODEL}/new-month"])
def test_models_and_policies_fit_too(story: Story, thing: str) -> None:
    """Eighty columns are enough."""
    account = why(Views(story.store), thing, {MODEL: story.spec})

    assert [str(line) for line in show.account(account, 80) if len(str(line)) > 80] == []
