"""Makes a policy's records out of its validated sections."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import timedelta

from controller.config.on_sections import OnSection
from controller.config.policy_sections import PolicySection
from controller.config.values import iso_duration
from controller.core.conditions import Pattern
from controller.core.model import Json
from controller.core.on import Leaf, MaxAge
from controller.core.policy import Concurrency, Cooldown, Debounce, Policy, QuietHours


def version_of(form: Json) -> str:
    """Return the version of a normal form: 16 hexadecimal digits of the SHA-256 of its canonical JSON."""
    canonical = json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def build_policy(
    model: str,
    name: str,
    section: PolicySection,
    form: Mapping[str, Json],
    concurrency: Concurrency,
) -> Policy:
    """Return the record of a policy; `form` is its normal form."""
    debounce, cooldown, quiet = section.debounce, section.cooldown, section.quiet_hours
    return Policy(
        model=model,
        name=name,
        on=_on(section.on),
        # The model's concurrency is part of what the chain decides by.
        version=version_of({**form, "concurrency": concurrency}),
        on_hash=version_of(form["on"]),
        debounce=None if debounce is None else Debounce(quiet=debounce.quiet, max_wait=debounce.max_wait),
        cooldown=None
        if cooldown is None
        else Cooldown(after=cooldown.after, period=cooldown.period, after_failure=cooldown.after_failure),
        quiet_hours=None
        if quiet is None
        else QuietHours(between=quiet.between, timezone=quiet.timezone, days=tuple(quiet.days)),
        concurrency=concurrency,
    )


def _on(section: OnSection) -> Leaf | MaxAge:
    if section.max_age is not None:
        return MaxAge(age=section.max_age, again_after=section.again_after or _again_after(section.max_age))
    return Leaf(
        source=section.source,
        type=None if section.type is None else Pattern(section.type),
        subject=None if section.subject is None else Pattern(section.subject),
        when=section.when,
        count=section.count or 1,
        within=section.within,
        by=section.by,
    )


def fill_on(form: dict[str, Json], on: OnSection) -> None:
    """Write the defaults of an `on` into its normal form."""
    if on.max_age is None:
        form.setdefault("count", 1)
    else:
        form["again_after"] = iso_duration(on.again_after or _again_after(on.max_age))


def _again_after(age: timedelta) -> timedelta:
    """Return how long a level that fired stays disarmed, by default (design 5.1)."""
    return age / 10
