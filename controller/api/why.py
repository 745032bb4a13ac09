"""Works out the account of a run, event, model or policy: looks up what a text stands for, and asks `core/explain`.

The daemon's API and `retrainctl` beside a daemon that does not run both call this.
With an instant (`at`) the account is of then: what was written until then, under the configuration that was in force.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from controller.api.ports import Views
from controller.config import models_from_normal_form, policy_from_normal_form
from controller.core.decide import MANUAL
from controller.core.explain import (
    Asked,
    Standing,
    ahead_of,
    ask_again,
    event_as_of,
    explain_event,
    explain_model,
    explain_policy,
    explain_run,
    follow,
    held_then,
    key_account,
    limits,
    model_as_of,
    nearest,
    run_as_of,
    run_summary_as_of,
    try_event,
    watched_run,
)
from controller.core.model import PERSON_ORIGIN, Event, Json
from controller.core.policy import ModelSpec, Policy
from controller.core.shapes import EventShape, HeldShape, PauseShape
from controller.errors import ControllerError, InvalidInput, NotFound
from controller.store.finding import Found

Models = Mapping[str, ModelSpec]

#: Policies and keys of a model of which it is said what could come next.
_MOST_AHEAD = 12
#: Decisions that are read to tell what was held at an instant.
_MOST_HELD = 200

_NOT_KEPT = (
    "what a policy remembered then (counts, windows, what was armed): its state is kept as it is now; "
    "the decisions say what they saw"
)
_NO_FORECAST = "what would have come next: only the facts that decisions name are kept, not all that they were told"
_NOT_COUNTED = "how many events had ended at the first stages by then: they are counted without their times"
_BODY_GONE = (
    "what the event said: its data were let go of, so policies without a decision on it cannot be asked again "
    "(`retention`)"
)
_NOT_HELD = "whether automatic promotion was held then, unless an act or a run of that time says so"


def locate(views: Views, text: str, models: Models) -> Found:
    """Return what a text stands for, knowing the configured models and policies."""
    policies = [f"{name}/{policy}" for name, spec in models.items() for policy in spec.policies]
    return views.resolve(text, models=models, policies=policies)


def why(
    views: Views, text: str, models: Models, *, key: str | None = None, at: datetime | None = None
) -> dict[str, Json]:
    """Return the account of what `text` stands for, of one `key` of a policy, as of the instant `at`.

    Raises `NotFound`, also for what did not exist then, `Conflict`, and `InvalidInput` for an instant to come.
    """
    found = locate(views, text, models)
    if key is not None and found.kind != "policy":
        raise InvalidInput(f"{text!r} is a {found.kind}; only a policy has keys")
    if at is not None and at > views.now():
        raise InvalidInput(f"{_text(at)} is still to come", hint="without --at the account says what could come next")
    if found.kind == "event":
        return _Account(views, models, at).event(found.id)
    if found.kind == "run":
        return _Account(views, models, at).run(found.id)
    if found.kind == "model":
        return _Account(views, models, at).model(found.id)
    if found.kind == "policy":
        return _Account(views, models, at).policy(found.id, key)
    raise NotFound(f"there is no account of a {found.kind} by itself", hint="ask for its run, its event or its model")


@dataclass(frozen=True, slots=True)
class _Account:
    """One account that is being worked out."""

    views: Views
    models: Models
    #: The instant that it is asked of; None for now.
    at: datetime | None

    # ------------------------------------------------------------------------------------------------------ events

    def event(self, event_id: str) -> dict[str, Json]:
        """Return the account of an event."""
        shape = self.views.event(event_id)
        event = self.views.event_of(event_id)
        touched = self.views.touched(event)
        unknown: list[str] = []
        if self.at is not None:
            self._check_existed("event", event_id, event.received_at)
            histories = self.views.histories([run["id"] for run in shape["runs"]])
            shape = event_as_of(shape, self.at, histories=histories, held=self._held_then(shape))
            event = replace(event, state=shape["state"])
            windows: list[Json] = []
            touched = {**touched, "windows": windows, "watches": [], "duplicates": 0}
            unknown = [_NOT_KEPT]
            if event.data is None and event.pruned_at is None:
                unknown.append("what the event said, if it said anything: its body is not kept")
        if event.pruned_at is not None:
            unknown.append(_BODY_GONE)
        asked, left_out = self._misses(shape, event)
        ahead = [] if self.at is not None else self._ahead_of_held(shape["held"])
        return explain_event(
            shape, asked=asked, left_out=left_out, ahead=ahead, touched=touched, at=self._said, unknown=unknown
        )

    def _misses(self, shape: EventShape, event: Event) -> tuple[list[dict[str, Json]], int]:
        """Return what policies without a decision on an event say of it, when they are asked again."""
        if event.origin == PERSON_ORIGIN or event.pruned_at is not None:
            return [], 0
        known = {(decision["model"], decision["policy"]) for decision in shape["decisions"]}
        asked, left_out = nearest(event, self.models.values(), known=known)
        asked = self._of_then(asked, event)
        champions = self.views.champions(each.policy.model for each in asked)
        return ask_again(event, asked, champions, self.views.episode_of(event)), left_out

    def _of_then(self, asked: Sequence[Asked], event: Event) -> list[Asked]:
        """Take the version that was in force when the event was decided, where another one is now and the old one is kept."""
        decided_at = event.decided_at
        if decided_at is None:
            return list(asked)
        since = self.views.known_since(each.policy.version for each in asked)
        changed = [each for each in asked if since.get(each.policy.version, decided_at) > decided_at]
        old = self._policies_then(decided_at, [each.policy for each in changed])
        found = []
        for each in asked:
            then = old.get((each.policy.model, each.policy.name))
            found.append(each if then is None else replace(each, policy=then, is_of_then=True))
        return found

    def _policies_then(self, at: datetime, policies: Collection[Policy]) -> dict[tuple[str, str], Policy]:
        in_force = self.views.in_force(at) if policies else None
        body = None if in_force is None else self.views.configuration(in_force.version)
        found = {}
        for policy in policies if body else ():
            then = _policy_in(body, policy.model, policy.name)
            if then is not None:
                found[policy.model, policy.name] = then
        return found

    def _held_then(self, shape: EventShape) -> list[HeldShape]:
        """Return what the policies that had decided on an event held at the instant."""
        places = {(each["model"], each["policy"], each["key"]): None for each in shape["decisions"]}
        found: list[HeldShape] = []
        for model, policy, key in places:
            found += held_then(self.views.decisions_of(model, policy, key=key, until=self._then, limit=_MOST_HELD))
        return found

    def _ahead_of_held(self, held: Sequence[HeldShape]) -> list[dict[str, Json]]:
        named = [(self._policy(entry["model"], entry["policy"]), entry["key"]) for entry in held[:_MOST_AHEAD]]
        return self._followed([(policy, key) for policy, key in named if policy is not None])

    def _followed(self, places: Sequence[tuple[Policy, str]]) -> list[dict[str, Json]]:
        """Return what comes of what is held at these places."""
        stands = self.views.standings(self.models, places)
        return [ahead_of(standing, follow(standing), asked="held") for standing in stands]

    # -------------------------------------------------------------------------------------------------------- runs

    def run(self, run_id: str) -> dict[str, Json]:
        """Return the account of a run."""
        shape = self.views.run(run_id)
        if self.at is None:
            return explain_run(shape)
        self._check_existed("run", run_id, datetime.fromisoformat(shape["decided_at"]))
        return explain_run(run_as_of(shape, self.at), at=self._said)

    # ------------------------------------------------------------------------------------------------------ models

    def model(self, name: str) -> dict[str, Json]:
        """Return the account of a model."""
        shape = self.views.model(name, configured=self.models)
        spec = self.models.get(name)
        if self.at is not None:
            return self._model_then(name)
        crowned = shape["champion"]["run_id"] if shape["champion"] is not None else None
        watched = None if crowned is None else watched_run(self.views.run(crowned))
        ahead, stands, left_out = self._ahead_of_model(spec) if spec is not None else ([], [], 0)
        active = self.views.open_runs(name)
        return explain_model(
            shape, spec=spec, ahead=ahead, limits=stands, left_out=left_out, watched=watched, active=active
        )

    def _ahead_of_model(self, spec: ModelSpec) -> tuple[list[dict[str, Json]], list[dict[str, Json]], int]:
        """Return what comes of what is held, or of an event where nothing is, the limits, and of how many policies neither is said."""
        held = [place for place in self.views.held_keys(spec.name, limit=_MOST_AHEAD) if place[0] in spec.policies]
        idle = [
            name for name, policy in spec.policies.items() if policy.mode != "off" and name not in {p for p, _ in held}
        ]
        tried = idle[: max(_MOST_AHEAD - len(held), 0)]
        ahead: list[dict[str, Json]] = []
        stands: list[dict[str, Json]] = []
        idle_places = [(spec.policies[name], self.views.last_key(spec.name, name)) for name in tried]
        for standing in [
            *self.views.standings(self.models, [(spec.policies[name], key) for name, key in held]),
            *self.views.standings(self.models, idle_places, whole=True),
        ]:
            name, key = standing.policy.name, standing.key
            forecast = follow(standing)
            is_event = (name, key) not in held and forecast.outcome == "needs_event"
            if is_event:
                forecast = try_event(standing)
            ahead.append(ahead_of(standing, forecast, asked="event" if is_event else "held"))
            stand = {"policy": name, "key": key, **limits(standing)}
            if any(each["policy"] == name for each in stands):
                stand["budget"] = None  # the same for every key
            stands.append(stand)
        ahead.sort(key=lambda entry: (entry["forecast"]["at"] is None, entry["forecast"]["at"] or ""))
        return ahead, stands, len(idle) - len(tried)

    def _model_then(self, name: str) -> dict[str, Json]:
        at = self._then
        shape = self.views.model(name, configured=self.models)
        spec = self._model_spec(name)
        runs = [{**run, **_run_then(run, history, at)} for run, history in self.views.runs_until(name, at)]
        names = [*(spec.policies if spec is not None else ()), MANUAL]
        lasts = {policy: self.views.decisions_of(name, policy, until=at, limit=_MOST_HELD) for policy in names}
        shape = model_as_of(
            shape,
            at,
            runs=runs,  # type: ignore[arg-type]  # the keys are those of the shape
            decisions=[found[-1] for found in lasts.values() if found],
            held=[entry for found in lasts.values() for entry in held_then(found)],
            pauses=self._pauses_then(name, names),
        )
        unknown = [_NOT_KEPT, _NO_FORECAST, _NOT_HELD]
        return explain_model(shape, spec=spec, at=self._said, unknown=[*self._doubts(spec is not None), *unknown])

    # ---------------------------------------------------------------------------------------------------- policies

    def policy(self, name: str, key: str | None) -> dict[str, Json]:
        """Return the account of a policy, or of one key of it."""
        model, _, policy_name = name.partition("/")
        if self.at is not None:
            return self._policy_then(model, policy_name, key)
        policy = self._policy(model, policy_name)
        if key is not None and not self.views.has_state(model, policy_name, key):
            raise NotFound(f"{name} knows of no key {key!r}", hint=self._near_keys(model, policy_name))
        keys, count = self.views.keys(model, policy_name)
        decisions = self.views.decisions_of(model, policy_name, key=key)
        shown, ahead = self._stands(policy, key, keys)
        return explain_policy(
            name,
            decisions,
            policy=policy,
            in_force=self._in_force(policy),
            held=[_held(model, policy_name, entry) for entry in keys if entry["stage"] is not None],
            pauses=self.views.pauses_of(["", model, name]),
            tallies=self.views.tallies(model, policy_name),
            keys=keys,
            key_count=count,
            key=shown,
            ahead=ahead,
        )

    def _stands(
        self, policy: Policy | None, key: str | None, keys: Sequence[Mapping[str, Json]]
    ) -> tuple[dict[str, Json] | None, list[dict[str, Json]]]:
        """Return one key in full (that which is asked for, or the only one), and what comes of what is held, or of an event."""
        if policy is None or policy.mode == "off":
            return None, []
        known = [str(entry["key"]) for entry in keys]
        last = self.views.last_key(policy.model, policy.name)
        if key is None and (known == [""] or not (known or last)):
            key = ""
        if key is not None:
            (standing,) = self.views.standings(self.models, [(policy, key)], whole=True)
            return key_account(standing), _both(standing)
        held = [str(entry["key"]) for entry in keys if entry["stage"] is not None][:_MOST_AHEAD]
        ahead = self._followed([(policy, each) for each in held])
        (standing,) = self.views.standings(self.models, [(policy, last)], whole=True)
        return None, [*ahead, ahead_of(standing, try_event(standing), asked="event")]

    def _policy_then(self, model: str, policy_name: str, key: str | None) -> dict[str, Json]:
        at = self._then
        spec = self._model_spec(model)
        policy = None if spec is None else spec.policies.get(policy_name)
        found = self.views.decisions_of(model, policy_name, key=key, until=at, limit=_MOST_HELD)
        in_force = self.views.in_force(at)
        version = policy.version if policy is not None else found[-1]["policy_version"] if found else None
        return explain_policy(
            f"{model}/{policy_name}",
            found[-20:],
            policy=policy,
            in_force=None
            if version is None
            else {
                "version": version,
                "since": self._since(version),
                "config_version": None if in_force is None else in_force.version,
            },
            held=held_then(found),
            pauses=self._pauses_then(model, [policy_name]),
            at=self._said,
            unknown=[*self._doubts(policy is not None), _NOT_KEPT, _NO_FORECAST, _NOT_COUNTED],
        )

    # --------------------------------------------------------------------------------------------------- what is known

    @property
    def _then(self) -> datetime:
        assert self.at is not None  # noqa: S101 - for the type checker: only asked for with an instant
        return self.at

    @property
    def _said(self) -> str | None:
        return None if self.at is None else _text(self.at)

    def _check_existed(self, kind: str, name: str, since: datetime) -> None:
        if since > self._then:
            raise NotFound(f"there was no {kind} {name} at {self._said}; it is of {_text(since)}")

    def _policy(self, model: str, name: str) -> Policy | None:
        spec = self.models.get(model)
        return None if spec is None else spec.policies.get(name)

    def _model_spec(self, name: str) -> ModelSpec | None:
        """Return a model as it was configured at the instant; None when it was not, or nobody knows."""
        in_force = self.views.in_force(self._then)
        body = None if in_force is None else self.views.configuration(in_force.version)
        return None if body is None else _model_in(body, name)

    def _doubts(self, is_known: bool) -> list[str]:
        """Say how sure it is which configuration was in force."""
        in_force = self.views.in_force(self._then)
        if in_force is None or not is_known:
            return ["which configuration was in force: none is recorded for that instant that has it"]
        if not in_force.is_certain:
            return [f"whether configuration {in_force.version} was in force: only its last activation is recorded"]
        return []

    def _in_force(self, policy: Policy | None) -> dict[str, Json] | None:
        if policy is None:
            return None
        in_force = self.views.in_force(self.views.now())
        return {
            "version": policy.version,
            "since": self._since(policy.version),
            "config_version": None if in_force is None else in_force.version,
        }

    def _since(self, version: str) -> str | None:
        found = self.views.known_since([version]).get(version)
        return None if found is None else _text(found)

    def _pauses_then(self, model: str, policies: Sequence[str]) -> list[PauseShape]:
        return self.views.pauses_until(["", model, *(f"{model}/{name}" for name in policies)], self._then)

    def _near_keys(self, model: str, policy: str) -> str:
        keys, _ = self.views.keys(model, policy, limit=5)
        shown = ", ".join(repr(entry["key"]) for entry in keys)
        return f"it remembers {shown}" if shown else "it remembers nothing"


def _both(standing: Standing) -> list[dict[str, Json]]:
    """Return what comes of what is held for a key, when anything is, and what an event would come to."""
    forecast = follow(standing)
    held = [] if forecast.outcome == "needs_event" else [ahead_of(standing, forecast, asked="held")]
    return [*held, ahead_of(standing, try_event(standing), asked="event")]


def _held(model: str, policy: str, entry: Mapping[str, Any]) -> HeldShape:
    """Return what a policy holds for a key, as it is shown of a model."""
    return {
        "model": model,
        "policy": policy,
        "key": entry["key"],
        "stage": entry["stage"],
        "since": entry["since"],
        "count": entry["count"],
        "until": entry["until"],
        "waits_for": entry["waits_for"],
        "reason": entry["reason"],
    }


def _run_then(run: Mapping[str, Any], history: Sequence[Any], at: datetime) -> dict[str, Json]:
    return run_summary_as_of(run, history, at)


def _policy_in(body: Json, model: str, name: str) -> Policy | None:
    """Return a policy of a stored configuration; None when it has none, or is of a version of this program that wrote it otherwise."""
    try:
        return policy_from_normal_form(model, name, body)
    except (KeyError, TypeError, ValueError, ControllerError):
        return None


def _model_in(body: Json, name: str) -> ModelSpec | None:
    try:
        return models_from_normal_form(body, only=[name]).get(name)
    except (KeyError, TypeError, ValueError, ControllerError):
        return None


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
