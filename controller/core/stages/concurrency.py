"""Is there a slot, and if not, what then?

A model has one slot, held from QUEUED to PROMOTING. The slot belongs to the model, so the runs of all its policies and presses count.
`queue` keeps one run waiting per key and merges into it; `forbid` drops; `replace` stops what goes on, unless it is being promoted;
`allow` does not ask.
"""

from __future__ import annotations

from dataclasses import replace

from controller.core.chain import Answer, Question, Stage, passed, skipped


def ask(question: Question) -> Answer | None:
    """Pass with what becomes of the other runs, or skip when they forbid it."""
    active = question.facts.active
    ids = [run.id for run in active]
    mode = question.policy.concurrency
    if mode == "allow" or not active:
        return passed("no other run of the model is active" if not active else f"allow: beside {', '.join(ids)}")
    if mode == "forbid":
        return skipped(f"forbid: {ids[0]} is {active[0].state}", active=ids)
    if mode == "replace":
        stoppable = tuple(run.id for run in active if run.state != "PROMOTING")
        if not stoppable:
            return passed(f"replace: waits for {ids[0]} (PROMOTING)", active=ids)
        return replace(passed(f"replace: takes the place of {', '.join(stoppable)}", active=ids), replaces=stoppable)
    queued = [run.id for run in active if run.state == "QUEUED" and run.key == question.key]
    if queued:
        return replace(passed(f"queue: joins {queued[0]}, which waits", active=ids), joins_run=queued[0])
    return passed(f"queue: waits for {ids[0]} ({active[0].state})", active=ids)


STAGE = Stage(name="concurrency", ask=ask, person_passes_over=False)
