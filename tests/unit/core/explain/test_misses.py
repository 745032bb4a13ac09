"""Events that matched nothing: the policy that came nearest, what did not fit, and under which version it was asked."""

from __future__ import annotations

from typing import Any

import pytest

from controller.core.explain import Asked, ask_again, nearest
from controller.core.model import Event
from controller.core.on import AllOf, AnyOf, InSequence
from controller.core.policy import ModelSpec, Policy
from tests.factories import make_event, make_leaf, make_max_age, make_metric, make_policy, minutes
from tests.story import make_spec


def model(*policies: Policy) -> ModelSpec:
    fields: dict[str, Any] = {name: getattr(make_spec(), name) for name in make_spec().__dataclass_fields__}
    return ModelSpec(**{**fields, "name": "churn", "policies": {policy.name: policy for policy in policies}})


def ask(event: Event, *policies: Policy) -> list[dict[str, Any]]:
    asked, _ = nearest(event, [model(*policies)], known=set())
    return ask_again(event, asked, {}, None)


def test_the_nearest_comes_first() -> None:
    """One that failed at `when` is nearer than one whose type did not fit, and that nearer than one of another source."""
    event = make_event(1, type="drift.share", origin="api", data={"share": 0.1})
    found = ask(
        event,
        make_policy(make_leaf(type="file", source="landing"), name="far"),
        make_policy(make_leaf(type="drift.*", when="event.data.share > 0.3"), name="near"),
        make_policy(make_leaf(type="drift.psi", source="api"), name="middle"),
    )

    assert [each["policy"] for each in found] == ["near", "middle", "far"]
    assert found[0]["reason"] == "event.data.share > 0.3: false (event.data.share = 0.1)"


@pytest.mark.parametrize(
    "on, leaf, reason",
    [
        (
            AllOf(parts=(make_leaf(type="file"), make_leaf(type="drift", when="event.data.share > 0.3"))),
            "all[1]",
            "all[1]: event.data.share > 0.3: false (event.data.share = 0.1)",
        ),
        (
            AnyOf(parts=(make_leaf(type="drift", subject="eu-*"), make_leaf(source="landing"))),
            "any[0]",
            "any[0]: subject None does not fit 'eu-*'",
        ),
        (
            InSequence(steps=(make_leaf(type="file"), make_leaf(type="drift", subject="eu")), within=minutes(5)),
            "sequence.steps[1]",
            "sequence.steps[1]: subject None does not fit 'eu'",
        ),
        (
            AllOf(parts=(make_leaf(type="x"), make_leaf(type="drift", source="web", metric=make_metric()))),
            "all[1]",
            "all[1]: source is 'api', not 'web'",
        ),
    ],
    ids=["when", "subject", "step", "metric"],
)
def test_of_a_tree_the_nearest_leaf_is_named(on: Any, leaf: str, reason: str) -> None:
    """And what of it did not fit."""
    (found,) = ask(make_event(1, type="drift", data={"share": 0.1}, subject=None), make_policy(on))

    assert (found["leaf"], found["reason"], found["kind"]) == (leaf, reason, "SKIP")


def test_a_policy_that_is_off_is_said_to_be_off() -> None:
    """It would let the event pass, and was not asked."""
    (found,) = ask(make_event(1), make_policy(mode="off"))

    assert (found["kind"], found["reason"]) == (
        "OFF",
        "it would let it pass, but the policy is off, so it is not asked",
    )


def test_an_expression_that_fails_is_an_error_here_too() -> None:
    """A field that the event lacks is shown as an error, not as a miss."""
    (found,) = ask(make_event(1, data={}), make_policy(make_leaf(when="event.data.share > 0.3")))

    assert (found["kind"], found["stage"]) == ("ERROR", "when")


def test_the_version_of_then_says_that_it_let_it_pass() -> None:
    """What is asked under the version that was in force is said in the past."""
    asked = Asked(policy=make_policy(), labels={}, is_of_then=True)

    (found,) = ask_again(make_event(1, state="PROCESSED"), [asked], {}, None)

    assert (found["of_then"], found["reason"]) == (True, "let it pass")


def test_levels_are_not_asked_about_events() -> None:
    """A policy without a leaf listens to no event."""
    assert ask(make_event(1), make_policy(make_max_age())) == []


def test_those_that_wrote_a_decision_are_not_asked_again() -> None:
    """Their decision is the answer."""
    found, left_out = nearest(make_event(1), [model(make_policy())], known={("churn", "drift")})

    assert (found, left_out) == ([], 0)


def test_of_many_policies_the_best_are_asked() -> None:
    """And it is said how many others there are."""
    others = [make_policy(make_leaf(type=f"other.{number}"), name=f"p{number}") for number in range(200)]
    best = make_policy(make_leaf(type="drift", subject="none"), name="best")

    found, left_out = nearest(make_event(1, type="drift"), [model(*others, best)], known=set())

    assert (len(found), left_out) == (50, 151)
    assert found[0].policy.name == "best"
