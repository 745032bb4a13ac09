"""Works out the account of a run, event, model or policy: looks up what a text stands for, and asks `core/explain.py`.

The daemon's API and `retrainctl` beside a daemon that does not run both call this.
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.api.ports import Views
from controller.core.explain import explain_event, explain_model, explain_policy, explain_run
from controller.core.model import Json
from controller.core.policy import ModelSpec
from controller.errors import NotFound
from controller.store.finding import Found


def locate(views: Views, text: str, models: Mapping[str, ModelSpec]) -> Found:
    """Return what a text stands for, knowing the configured models and policies."""
    policies = [f"{name}/{policy}" for name, spec in models.items() for policy in spec.policies]
    return views.resolve(text, models=models, policies=policies)


def why(views: Views, text: str, models: Mapping[str, ModelSpec]) -> dict[str, Json]:
    """Return the account of what `text` stands for; raises `NotFound` and `Conflict`."""
    found = locate(views, text, models)
    if found.kind == "event":
        return _event(views, found.id, models)
    if found.kind == "run":
        return explain_run(views.run(found.id))
    if found.kind == "model":
        return explain_model(views.model(found.id, configured=models), spec=models.get(found.id))
    if found.kind == "policy":
        return _policy(views, found.id, models)
    raise NotFound(f"there is no account of a {found.kind} by itself", hint="ask for its run, its event or its model")


def _event(views: Views, event_id: str, models: Mapping[str, ModelSpec]) -> dict[str, Json]:
    shape = views.event(event_id)
    event, champions = views.event_record(event_id)
    episode = views.episode_of(event)
    return explain_event(shape, event, models=models.values(), champions=champions, episode=episode)


def _policy(views: Views, name: str, models: Mapping[str, ModelSpec]) -> dict[str, Json]:
    model, _, policy = name.partition("/")
    decisions = views.decisions(model=model, policy=policy, limit=20)
    return explain_policy(views.model(model, configured=models), policy, decisions)
