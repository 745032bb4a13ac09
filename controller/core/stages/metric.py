"""Is the value of the events beyond the threshold, and is that news?

A level: it stays true, fires once, and re-arms (`core/nodes/metric.py`).
This stage is for a leaf that stands alone, `tree` for one in a tree.
"""

from __future__ import annotations

from controller.core.chain import Answer, Question, Stage
from controller.core.on import Leaf
from controller.core.policy import Policy
from controller.core.stages.tree import answer_of


def ask(question: Question) -> Answer | None:
    """Pass when it is beyond the threshold, for long enough, and was not acted upon yet."""
    return answer_of(question) if concerns(question.policy) else None


def concerns(policy: Policy) -> bool:
    """Say whether a policy has it."""
    return isinstance(policy.on, Leaf) and policy.on.metric is not None


STAGE = Stage(name="metric", ask=ask, remembers=True, concerns=concerns)
