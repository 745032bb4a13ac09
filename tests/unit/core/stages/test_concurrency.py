"""`concurrency` through the chain: what a FIRE says of the runs that hold or want the slot."""

from __future__ import annotations

from tests.factories import make_active, make_event, make_facts, make_policy
from tests.unit.core.driver import hear


def test_a_fire_carries_what_becomes_of_other_runs() -> None:
    """A decision names the run that it joins, and those that it replaces."""
    queued = make_facts(active=(make_active("QUEUED"),))
    training = make_facts(active=(make_active("TRAINING"),))

    assert hear(make_policy(), make_event(), facts=queued).decision.joins_run == "run-1"
    assert hear(make_policy(concurrency="replace"), make_event(), facts=training).decision.replaces == ("run-1",)
