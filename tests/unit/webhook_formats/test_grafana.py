"""Grafana's notifications: its numbers, its missing numbers and its test button.

The payloads are in tests/data, with where their shape was read.
"""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.model import EPISODE, EPISODE_STATE, TEST_EVENT
from controller.testing import MemoryInbox
from tests.unit.webhook_formats.hook import utc


def test_grafanas_numbers_arrive(hook: Any) -> None:
    """As Alertmanager's, with the values of the rule's expressions; the zone of the sender is no part of the identity."""
    event = hook(format="grafana").event("grafana/firing")

    assert (event.type, event.subject, event.source) == ("alert.Drift of age", "churn", "/grafana/1")
    assert event.source_id == "c6eadffa33fcdf37/2026-03-05T11:58:00.000000Z/firing"
    assert event.data["values"] == {"B": 44.23943737541908, "C": 1}
    assert event.data["valueString"].startswith("[ var='B'")
    assert event.data["orgId"] == 1
    assert event.extensions[EPISODE_STATE] == "firing"


def test_grafana_without_values(hook: Any) -> None:
    """`values` is null when there was no data; that it is resolved belongs to the episode that fired."""
    grafana = hook(format="grafana")

    assert grafana.event("grafana/values-null").data["values"] is None
    fired, resolved = grafana.event("grafana/firing"), grafana.event("grafana/resolved")
    assert fired.extensions[EPISODE] == resolved.extensions[EPISODE]
    assert resolved.time == utc(2026, 3, 5, 13)


def test_grafanas_test_button_starts_nothing(hook: Any) -> None:
    """It is stored, so that it can be seen to arrive, as a test of the source, on which no policy acts."""
    event = hook(format="grafana").event("grafana/test-button")

    assert (event.type, event.subject, event.extensions) == (TEST_EVENT, None, {})


@pytest.mark.parametrize("body", [{}, {"version": "4", "alerts": []}, {"version": "1"}, {"version": "1", "alerts": {}}])
def test_what_is_not_grafanas_is_kept(hook: Any, inbox: MemoryInbox, body: dict[str, Any]) -> None:
    """Grafana repeats nothing, so nothing of it may be turned away."""
    hook(format="grafana").post(body)

    assert len(inbox.dead) == 1
