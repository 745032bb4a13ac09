"""Did the last retrainings help?

After so many in a row that did not (rejected, failed, timed out, rolled back, or promoted and the signal was not cured) more of them
would only burn compute, so it holds until a person resumes the policy.
A promoted run of which nobody knows whether it helped neither counts nor resets.
"""

from __future__ import annotations

from controller.core.chain import Answer, Question, Stage, hold_for, passed


def ask(question: Question) -> Answer | None:
    """Pass while fewer than `after` retrainings in a row were of no help."""
    breaker, unhelpful = question.policy.breaker, question.facts.unhelpful
    if breaker is None:
        return None
    count = len(unhelpful)
    seen = {"unhelpful": count, "after": breaker.after}
    if count < breaker.after:
        said = "the last retraining helped, or there is none" if count == 0 else f"{count} in a row did not help"
        return passed(f"{said}, {breaker.after} open the breaker", **seen)
    return hold_for(
        "resume",
        f"the last {count} retrainings did not help (latest {unhelpful[0]}): "
        f"`retrainctl resume {question.policy.model}/{question.policy.name}` closes the breaker",
        latest=unhelpful[0],
        opened_by=unhelpful[-breaker.after],
        **seen,
    )


STAGE = Stage(name="breaker", ask=ask, concerns=lambda policy: policy.breaker is not None)
