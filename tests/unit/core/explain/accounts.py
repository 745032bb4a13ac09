"""Decisions as accounts of them are made: the shapes that the store would give, out of what `decide` said."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from controller.core.decide import Conclusion
from controller.core.explain import explain_event, explain_policy, render
from controller.core.model import Decision, Event, Trace
from controller.core.policy import Policy
from tests.factories import NOON


def shape_of(decision: Decision, *, number: int = 1, event_id: str | None = "evt-1", at: datetime = NOON) -> Any:
    """Return a decision as it comes back from the database."""
    return {
        "id": f"dec-{number:04d}",
        "seq": number,
        "kind": decision.kind,
        "model": decision.model,
        "policy": decision.policy,
        "policy_version": decision.policy_version,
        "key": decision.key,
        "stage": decision.stage,
        "reason": decision.reason,
        "trace": [stored(line) for line in decision.trace],
        "until": None if decision.until is None else text(decision.until),
        "waits_for": decision.waits_for,
        "event_id": event_id,
        "run_id": None,
        "at": text(at),
    }


def stored(line: Trace) -> Any:
    """Return a line of a trace as JSON in the database gives it back."""
    values = {"stage": line.stage, "outcome": line.outcome, "reason": line.reason, "facts": dict(line.facts)}
    return json.loads(json.dumps(values))


def event_shape(event: Event, decisions: list[Any], **fields: Any) -> Any:
    """Return a decided event, with what is given besides."""
    return {
        "id": event.id,
        "origin": event.origin,
        "source": event.source,
        "source_id": event.source_id,
        "type": event.type,
        "subject": event.subject,
        "time": text(event.time),
        "received_at": text(event.received_at),
        "pruned_at": None,
        "state": "PROCESSED",
        "decided_at": text(event.received_at),
        "decided_seq": 1,
        "error": None,
        "data": event.data,
        "extensions": dict(event.extensions),
        "episode": None,
        "decisions": decisions,
        "later": [],
        "held": [],
        "runs": [],
        "history": [],
        **fields,
    }


def event_text(event: Event, conclusion: Conclusion) -> str:
    """Return the account of an event that one policy decided on, for people."""
    account = explain_event(event_shape(event, [shape_of(conclusion.decision, event_id=event.id)]))
    return "\n".join(str(line) for line in render(account))


def policy_text(policy: Policy, decisions: list[Any], **more: Any) -> str:
    """Return the account of a policy, for people."""
    account = explain_policy(f"{policy.model}/{policy.name}", decisions, policy=policy, **more)
    return "\n".join(str(line) for line in render(account))


def text(at: datetime) -> str:
    """Write an instant as the store does."""
    return at.isoformat().replace("+00:00", "Z")
