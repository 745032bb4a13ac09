"""`verify` finds what no constraint can refuse, and nothing in a database that is sound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from controller.errors import StoreBroken
from controller.store import Store
from controller.store.verify import MOST, RULES, verify
from controller.testing import ManualClock
from tests.factories import make_ids
from tests.story import Story, open_store, tell

#: What breaks each rule, in the story's database.
PLANTED: dict[str, str] = {
    "state.run": "DELETE FROM history WHERE machine = 'run' AND target = 'PROMOTED'",
    "state.job": "DELETE FROM history WHERE machine = 'job'",
    "state.version": "DELETE FROM history WHERE machine = 'version' AND target = 'CHAMPION'",
    "state.promotion": "DELETE FROM history WHERE machine = 'promotion' AND target = 'APPLIED'",
    "history.steps": "UPDATE history SET origin = 'QUEUED' WHERE machine = 'run' AND target = 'PROMOTED'",
    "history.legal": "UPDATE history SET cause = 'because' WHERE machine = 'run' AND target = 'PROMOTED'",
    "decision.run": "UPDATE decision SET run_id = 'run-0' WHERE kind = 'FIRE'",
    "decision.order": "UPDATE leader SET decided_seq = 0",
    "run.causes": "DELETE FROM run_cause",
    "run.jobs": "UPDATE job SET run_id = 'run-' || id",
    "attempt.numbers": "UPDATE attempt SET number = number + 1",
    "result.job": "DELETE FROM result",
    "verdict.run": "DELETE FROM verdict",
    "model.champion": "UPDATE model SET champion_id = 'ver-0'",
    "promotion.version": "UPDATE promotion SET version_id = 'ver-0'",
    "held.events": "DELETE FROM event",
    "policy.versions": "DELETE FROM config_version",
}


@pytest.fixture
def story(schema_url: str) -> Iterator[Story]:
    clock = ManualClock()
    store = Store.open(schema_url, base=Path("/"), clock=clock, ids=make_ids(clock))
    store.lead(owner="owner-1", host="tower", pid=4711)
    yield tell(store, clock)
    store.close()


def plant(story: Story, statement: str) -> int:
    with story.store.engine.begin() as connection:
        return connection.execute(sa.text(statement)).rowcount


def test_a_sound_database(story: Story) -> None:
    """What the store itself writes breaks no rule."""
    assert verify(story.store) == []


@pytest.mark.parametrize("rule", PLANTED)
def test_what_is_broken_is_named(story: Story, rule: str) -> None:
    """Each rule finds the rows that break it, on both databases, and says what it promises."""
    if rule == "policy.versions":
        plant(
            story,
            "INSERT INTO policy_version (version, model, policy, config_version, activated_at) VALUES ('p', 'm', 'p', 'c', 1)",
        )
    changed = plant(story, PLANTED[rule])
    found = {finding.rule: finding for finding in verify(story.store)}

    assert changed or rule == "policy.versions"
    assert rule in found
    assert found[rule].count >= len(found[rule].broken) >= 1
    assert found[rule].claim


def test_rows_that_were_let_go_of_are_missed_nowhere(story: Story) -> None:
    """An event that is decided on and that nothing holds may be gone: runs, decisions and history still fit together."""
    plant(
        story,
        "DELETE FROM event WHERE state = 'PROCESSED' AND NOT EXISTS (SELECT 1 FROM held_cause h WHERE h.event_id = event.id) "
        "AND NOT EXISTS (SELECT 1 FROM run_cause c JOIN run r ON r.id = c.run_id WHERE c.event_id = event.id AND r.finished_at IS NULL)",
    )

    assert verify(story.store) == []


def test_many_findings_are_counted_and_some_named(story: Story) -> None:
    """The first are named, all are counted."""
    for number in range(MOST + 5):
        plant(
            story,
            f"INSERT INTO verdict (run_id, outcome, reason, lines, at) VALUES ('run-{number}', 'FAILED', '', '[]', 1)",
        )
    (found,) = verify(story.store)

    assert (found.rule, len(found.broken), found.count) == ("verdict.run", MOST, MOST + 5)


def test_every_rule_can_be_broken() -> None:
    """None of them is there without a test, but those whose rows the story has none of."""
    untried = {rule.name for rule in RULES} - set(PLANTED)

    assert untried == {
        "state.step",
        "state.notification",
        "state.episode",
        "state.watch",
        "state.dead_letter",
        "watch.run",
        "dead_letter.totals",
    }


def test_DB17_a_damaged_file_is_found(tmp_path: Path) -> None:
    """A page that was overwritten is named, or the file is refused; it is never taken for sound."""
    clock = ManualClock()
    path = tmp_path / "retrain.db"
    store = open_store(f"sqlite:///{path}", clock)
    tell(store, clock)
    store.close()
    data = bytearray(path.read_bytes())
    middle = len(data) // 4096 // 2 * 4096
    data[middle : middle + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    damaged = Store.open(f"sqlite:///{path}", base=Path("/"), clock=clock, ids=make_ids(clock), readonly=True)
    try:
        found = [finding.rule for finding in verify(damaged)]
    except StoreBroken as error:
        found = [error.message]
    damaged.close()

    assert found
    assert found[0] == "sqlite" or "no longer be trusted" in found[0]
    assert path.read_bytes() == bytes(data)
