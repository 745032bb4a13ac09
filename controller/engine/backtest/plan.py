"""What a change of the configuration means: which policies are other than before, key by key, and what that does to the retrainings.

Compared are normal forms, so that another order of keys or another way to write a duration is no change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from controller.config import Config, SourceSpec, models_from_normal_form, version_of
from controller.core.model import Json
from controller.engine.backtest.report import Report, Sums

#: What of a model, beside its policies, has a say in decisions.
_OF_MODEL = (("labels",), ("train", "concurrency"), ("train", "cost"))
_NOTHING: Mapping[str, Json] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyChange:
    """A key whose value is another one; None stands for a key that is not there."""

    key: str
    before: Json
    after: Json


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyChange:
    """A policy that is added, removed or changed; or, with an empty name, a model's keys that every policy of it asks."""

    model: str
    policy: str
    change: Literal["added", "removed", "changed"]
    keys: tuple[KeyChange, ...]

    def as_json(self) -> dict[str, Json]:
        """Return it for programs."""
        keys = [{"key": each.key, "before": each.before, "after": each.after} for each in self.keys]
        return {"model": self.model, "policy": self.policy, "change": self.change, "keys": keys}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A change of the configuration with its effect in the past."""

    changes: tuple[PolicyChange, ...]
    #: None when nothing has changed that could have an effect.
    before: Report | None = None
    after: Report | None = None

    @property
    def has_effect(self) -> bool:
        """Whether any retraining would have been another one."""
        if self.before is None or self.after is None:
            return False
        return _occasions(self.before) != _occasions(self.after)

    @property
    def is_complete(self) -> bool:
        """Whether all of the past was looked at."""
        return all(report.complete for report in (self.before, self.after) if report is not None)

    def as_json(self) -> dict[str, Json]:
        """Return it for programs."""
        document: dict[str, Json] = {
            "changes": [change.as_json() for change in self.changes],
            "has_effect": self.has_effect,
            "complete": self.is_complete,
            "effect": None,
        }
        if self.before is not None and self.after is not None:
            document["effect"] = {
                "since": self.after.as_json()["since"],
                "until": self.after.as_json()["until"],
                "total": {
                    "before": self.before.account.total().as_json(),
                    "after": self.after.account.total().as_json(),
                },
                "policies": [
                    {"model": model, "policy": policy, "before": before.as_json(), "after": after.as_json()}
                    for model, policy, before, after in self.effects()
                ],
                "notes": list(dict.fromkeys([*self.before.notes, *self.after.notes])),
            }
        return document

    def effects(self) -> list[tuple[str, str, Sums, Sums]]:
        """Return (model, policy, sums before, sums after) of every policy whose retrainings are other than before."""
        if self.before is None or self.after is None:
            return []
        before, after = self.before.account.policies(), self.after.account.policies()
        changed = {(model, policy) for model, policy, _ in _occasions(self.before) ^ _occasions(self.after)}
        return [(*place, before.get(place, Sums()), after.get(place, Sums())) for place in sorted(changed)]


def changes_between(before: Mapping[str, Json], after: Mapping[str, Json]) -> tuple[PolicyChange, ...]:
    """Return how the policies of two normal forms differ."""
    old, new = before.get("models") or _NOTHING, after.get("models") or _NOTHING
    found: list[PolicyChange] = []
    for model in sorted({*old, *new}):
        mine, yours = old.get(model) or _NOTHING, new.get(model) or _NOTHING
        if model in old and model in new:
            keys = tuple(
                each for path in _OF_MODEL for each in _differences(".".join(path), _at(mine, path), _at(yours, path))
            )
            if keys:
                found.append(PolicyChange(model=model, policy="", change="changed", keys=keys))
        policies, others = _policies(before, mine), _policies(after, yours)
        for policy in sorted({*policies, *others}):
            keys = tuple(_differences("", policies.get(policy), others.get(policy)))
            if keys:
                what: Literal["added", "removed", "changed"] = (
                    "added" if policy not in policies else "removed" if policy not in others else "changed"
                )
                found.append(PolicyChange(model=model, policy=policy, change=what, keys=keys))
    return tuple(found)


def configured_as(base: Config, form: Mapping[str, Json]) -> Config:
    """Return a configuration that decides as a stored normal form says; what does not decide is as in `base`."""
    sources = {
        name: SourceSpec(name=name, type=section["type"], options=None, dedup_domain=section.get("dedup_domain"))
        for name, section in (form.get("sources") or _NOTHING).items()
    }
    models = models_from_normal_form(form)
    return replace(base, models=models, sources=sources, version=version_of(form), normal_form=form)


def _policies(form: Mapping[str, Json], model: Mapping[str, Json]) -> dict[str, Json]:
    """Return the policies of a model with what the names of calendars in them stand for."""
    found: dict[str, Json] = dict(model.get("policies") or _NOTHING)
    for name, policy in found.items():
        if isinstance(policy.get("calendars"), list):
            days = form.get("calendars") or _NOTHING
            found[name] = {**policy, "calendars": {each: days.get(each) for each in policy["calendars"]}}
    return found


def _differences(path: str, before: Json, after: Json) -> list[KeyChange]:
    if isinstance(before, dict | None) and isinstance(after, dict | None) and (before or after):
        mine, yours = before or {}, after or {}
        return [
            change
            for key in sorted({*mine, *yours})
            for change in _differences(f"{path}.{key}" if path else key, mine.get(key), yours.get(key))
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            change
            for position, (one, other) in enumerate(zip(before, after, strict=True))
            for change in _differences(f"{path}[{position}]", one, other)
        ]
    return [] if before == after else [KeyChange(key=path, before=before, after=after)]


def _at(form: Mapping[str, Json], path: tuple[str, ...]) -> Json:
    found: Json = form
    for step in path:
        found = (found or {}).get(step)
    return found


def _occasions(report: Report) -> set[tuple[str, str, str]]:
    """Return what tells one retraining from another: whose it is, and when and for which key it would have started."""
    return {(firing.model, firing.policy, f"{firing.at} {firing.key}") for firing in report.account.firings}
