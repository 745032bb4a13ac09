"""Makes the core's records out of validated sections, and the normal form that gives a configuration and its policies their versions.

A normal form is itself a configuration: the same shape, with every default written out, durations in ISO 8601, `defaults` and shared
policies merged into each model.
Equal meaning gives equal normal forms, whatever the order of keys or the way a duration was written.
It is kept in the database for ever, because a run keeps the version it was decided under; `models_from_normal_form` reads it back without
touching files or plugins. So a later release may add keys, with null as their default, but must go on reading the old ones.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from controller.config.build_policy import build_policy, fill_on
from controller.config.build_stages import DEFAULT_COST, Calendars, build_promotion_hold
from controller.config.schema import ConfigSection, GateSection, ModelSection, TrainSection
from controller.config.watch_section import build_watch
from controller.core.model import Json
from controller.core.policy import (
    Approval,
    Candidate,
    Gate,
    ModelSpec,
    Objective,
    Policy,
    PromoterSpec,
    Retries,
    Training,
)

#: The one candidate of a model that names none.
DEFAULT_CANDIDATE = "default"


def normal_form(section: ConfigSection) -> dict[str, Json]:
    """Return the normal form of a validated configuration whose defaults and shared policies are merged into its models."""
    form = section.model_dump(mode="json", exclude_none=True, exclude={"defaults", "policies"})
    for name, model in section.models.items():
        model_form = form["models"][name]
        for policy_name, policy in model.policies.items():
            fill_on(model_form["policies"][policy_name]["on"], policy.on)
        train_form = model_form["train"]
        train_form.update(model.train.options())  # as written, with any null
        train_form["params"] = dict(model.train.params)
        train_form["candidates"] = {
            candidate: {"params": dict(candidate_section.params)}
            for candidate, candidate_section in model.train.candidates.items()
        } or {DEFAULT_CANDIDATE: {"params": {}}}
    return form


def models_from_normal_form(form: Mapping[str, Json], *, only: Collection[str] | None = None) -> dict[str, ModelSpec]:
    """Rebuild the models of a stored normal form, or `only` some of them; equal to those of the configuration it came from."""
    wanted = {name: model for name, model in form["models"].items() if only is None or name in only}
    rest = {"calendars": form["calendars"]} if "calendars" in form else {}
    section = ConfigSection.model_validate_json(json.dumps({"version": 1, "models": wanted, **rest}), strict=True)
    return build_models(section, wanted)


def policy_from_normal_form(model: str, name: str, form: Mapping[str, Json]) -> Policy:
    """Rebuild one policy of a stored normal form, that of the whole configuration.

    Raises `KeyError` when it has none of that name.
    """
    model_form = form["models"][model]
    return models_from_normal_form(
        {**form, "models": {model: {**model_form, "policies": {name: model_form["policies"][name]}}}}
    )[model].policies[name]


def build_models(section: ConfigSection, forms: Mapping[str, Json]) -> dict[str, ModelSpec]:
    """Return the records of all models; `forms` are their normal forms."""
    calendars = section.calendars or {}
    return {name: _model(name, model, forms[name], calendars) for name, model in section.models.items()}


def _model(name: str, section: ModelSection, form: Mapping[str, Json], calendars: Calendars) -> ModelSpec:
    return ModelSpec(
        name=name,
        labels=section.labels,
        policies={
            policy: build_policy(
                name,
                policy,
                policy_section,
                form["policies"][policy],
                section.train.concurrency,
                calendars=calendars,
                cost=section.train.cost,
            )
            for policy, policy_section in section.policies.items()
        },
        training=_training(section.train),
        gate=_gate(section.gate),
        approval=Approval(required=section.approve.required, timeout=section.approve.timeout),
        promoters=tuple(PromoterSpec(type=promoter.type, options=promoter.options()) for promoter in section.promote),
        notify=tuple(section.notify),
        keep_artifacts=section.keep_artifacts,
        after_rollback=section.after_rollback if isinstance(section.after_rollback, timedelta) else None,
        watch=build_watch(section.watch, model=name),
        hold_promotion=build_promotion_hold(section.hold_promotion, calendars),
    )


def _training(section: TrainSection) -> Training:
    candidates: Mapping[str, Any] = {name: candidate.params for name, candidate in section.candidates.items()} or {
        DEFAULT_CANDIDATE: {}
    }
    return Training(
        launcher=section.launcher,
        candidates=tuple(
            Candidate(name=name, params={**section.params, **params}) for name, params in candidates.items()
        ),
        options=section.options(),
        timeout=section.timeout,
        retries=Retries(
            attempts=section.retries.attempts,
            backoff=section.retries.backoff,
            max_backoff=section.retries.max_backoff,
        ),
        concurrency=section.concurrency,
        stop_grace=section.stop_grace,
        lost_grace=section.lost_grace,
        cost=DEFAULT_COST if section.cost is None else section.cost,
    )


def _gate(section: GateSection) -> Gate:
    objective, select = section.objective, section.select
    return Gate(
        objective=None
        if objective is None
        else Objective(metric=objective.metric, goal=objective.goal, min_gain=objective.min_gain),
        select=None if select is None else Objective(metric=select.metric, goal=select.goal),
        require=tuple(section.require),
        champion_metrics=section.champion_metrics,
        candidates_needed=section.candidates_needed,
    )
