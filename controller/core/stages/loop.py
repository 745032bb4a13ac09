"""Is the chain of causes short enough, and does it not end in the model's own output?

A job marks the events that it emits with the CloudEvents extension `retrainrun`, the id that it was given as RETRAIN_RUN_ID.
Without a guard, a training that writes what its own policy listens to would retrain for ever.
One cause from outside is enough to pass: what a person or the world asks for is no loop.
Events without the mark leave no line in the explanation.
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.core.chain import Answer, Question, Stage, passed, skipped
from controller.core.model import EMITTED_BY, Event

#: A longer id is none of ours.
_LONGEST_ID = 64


def ask(question: Question) -> Answer | None:
    """Skip when each cause has too many runs behind it, or is what a run of this model emitted."""
    depth, own_run, most = question.facts.depth, question.facts.own_run, question.policy.max_chain
    if depth == 0:
        return None
    runs = "1 run" if depth == 1 else f"{depth} runs"
    if own_run is not None and not question.policy.own_output:
        return skipped(
            f"own output: {own_run} of this model emitted it; write own_output: true to allow it",
            depth=depth,
            run=own_run,
        )
    if depth >= most:
        return skipped(f"the chain of causes has {runs} already, max_chain is {most}", depth=depth, max_chain=most)
    return passed(f"the chain of causes has {runs}, max_chain is {most}", depth=depth, max_chain=most)


def emitting_run(event: Event) -> str | None:
    """Return the run that emitted an event, as it says itself; None for one from outside."""
    value = event.extensions.get(EMITTED_BY)
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_ID else None


def fewest_behind(emitters: Mapping[str | None, tuple[str, int] | None], model: str) -> tuple[int, str | None]:
    """Return how many runs lie behind that cause which has the fewest, and the run of `model` that emitted them if nobody else did.

    `emitters` gives for each run that a cause names its model and depth, None for one that nobody knows; None names a cause from outside.
    """
    if not emitters or None in emitters.values():
        return 0, None
    known = {run_id: found for run_id, found in emitters.items() if run_id is not None and found is not None}
    depth = min(depth for _, depth in known.values()) + 1
    own = sorted(run_id for run_id, (of, _) in known.items() if of == model)
    return depth, own[0] if len(own) == len(known) else None


STAGE = Stage(name="loop", ask=ask)
