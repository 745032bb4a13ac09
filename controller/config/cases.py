"""Reads the cases of `retrainctl policy test`: YAML, checked as the configuration is, every mistake with its place.

::

    config: ../flights.yaml             # by default the one of the installation
    start: 2026-03-02T08:00:00Z         # offsets count from here
    cases:
      - name: two drifts within the hour are one retraining
        given:
          - {at: 0s, event: drift.data, source: monitor, data: {share: 0.5}}
          - {at: 10m, event: drift.data, source: monitor, data: {share: 0.6}}
          - {at: 20m, pause: flight-delay}
        runs: {flight-delay: {length: 30m, outcome: PROMOTED}}
        expect:
          - {held: drift, at: 0s, by: debounce, until: 5m}
          - {fired: drift, times: 1}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, ValidationError, model_validator

from controller.config.load import API_ORIGIN, MANUAL_POLICY
from controller.config.nearest import nearest_or_known
from controller.config.problems import Findings, report
from controller.config.problems import Path as Steps
from controller.config.records import Config, absolute
from controller.config.values import Duration, Section, Text, read_duration
from controller.config.yaml12 import parse
from controller.core.casefile import Case, Expected, GivenEvent, GivenRun
from controller.core.model import CONTROLLER_ORIGIN, PERSON_ORIGIN, RETRAIN_REQUESTED
from controller.core.past import Change
from controller.core.stages import CHAIN
from controller.errors import ConfigError, Problem
from controller.ports import refusal

#: When a case starts that does not say: a Monday.
DEFAULT_START = datetime(2024, 1, 1, tzinfo=UTC)
#: How long a run takes that the case says nothing of.
DEFAULT_LENGTH = timedelta(hours=1)
#: A file of cases is no larger.
MAX_BYTES = 4 * 1024 * 1024

_GIVEN = ("event", "champion", "pause", "resume", "press")
_EXPECTED = ("fired", "merged", "held", "skipped", "error")
#: Reasons that no stage of the chain gives.
_OTHER_STAGES = ("fire", "by", "press", "policy", "held")

Moment = timedelta | datetime


def _read_moment(value: Any) -> Moment:
    """Return an offset from the start, or an instant."""
    if isinstance(value, str) and "T" in value[1:] and value[:1].isdigit():
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            raise refusal(f"{value!r} is no instant; write 2026-01-31T12:00:00Z") from None
        if at.tzinfo is None:
            raise refusal(f"{value!r} has no zone", hint=f"write {value}Z")
        return at.astimezone(UTC)
    return read_duration(value)


def _read_instant(value: Any) -> datetime:
    moment = _read_moment(value)
    if isinstance(moment, timedelta):
        raise refusal(f"{value!r} is a length of time; a start is an instant such as 2026-01-31T12:00:00Z")
    return moment


At = Annotated[Moment, PlainValidator(_read_moment)]
Instant = Annotated[datetime, PlainValidator(_read_instant)]
Final = Literal["PROMOTED", "REJECTED", "SUCCEEDED", "FAILED", "TIMED_OUT", "CANCELLED"]


class GivenSection(Section):
    """Something that is given: an event, or a fact."""

    at: At
    event: Text | None = Field(None, description="Its type")
    source: Text = API_ORIGIN
    subject: Text | None = None
    data: Any = None
    time: At | None = Field(None, description="When it happened; by default when it comes")
    id: Text | None = None
    extensions: dict[str, Any] | None = None
    champion: Text | None = Field(None, description="A model that has a new champion")
    version: int | None = Field(None, ge=1)
    metrics: dict[str, float] | None = None
    pause: Text | None = Field(None, description="all, a model, or MODEL/POLICY")
    resume: Text | None = None
    press: Text | None = Field(None, description="A model that a person wants retrained")
    params: dict[str, Any] | None = None
    actor: Text = "somebody"
    reason: str = ""

    @model_validator(mode="after")
    def _one_thing(self) -> GivenSection:
        if sum(getattr(self, name) is not None for name in _GIVEN) != 1:
            raise refusal(f"what is given is one thing: {', '.join(_GIVEN)}")
        return self


class RunSection(Section):
    """What becomes of a run."""

    length: Duration = DEFAULT_LENGTH
    outcome: Final | None = None
    cost: float | None = Field(None, ge=0)
    metrics: dict[str, float] | None = None


class ExpectSection(Section):
    """What a policy should conclude; its name, or MODEL/POLICY."""

    fired: Text | None = None
    merged: Text | None = None
    held: Text | None = None
    skipped: Text | None = None
    error: Text | None = None
    at: At | None = None
    by: Text | None = Field(None, description="The stage that gives the reason")
    key: str | None = None
    reason: Text | None = Field(None, description="Part of the reason, or of a line of the explanation")
    until: At | None = None
    times: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _one_thing(self) -> ExpectSection:
        if sum(getattr(self, name) is not None for name in _EXPECTED) != 1:
            raise refusal(f"what is expected is one thing: {', '.join(_EXPECTED)}")
        if self.until is not None and self.held is None:
            raise refusal("`until` says how long something is held", hint="write `held: POLICY`")
        return self


class CaseSection(Section):
    """One case."""

    name: Text
    start: Instant | None = None
    given: list[GivenSection]
    runs: dict[str, RunSection | list[RunSection]] = Field(
        {}, description="By model: what becomes of its runs, in order"
    )
    until: At | None = Field(None, description="When it is over; by default after the last that is given or expected")
    expect: list[ExpectSection] = Field(min_length=1)


class CaseFile(Section):
    """A file of cases."""

    config: Text | None = None
    start: Instant = DEFAULT_START
    cases: list[CaseSection] = Field(min_length=1)


def read_cases(path: Path, load: Callable[[Path | None], Config]) -> tuple[Config, list[Case]]:
    """Return the cases of a file, and the configuration that they are about.

    `load` is asked for the configuration that the file names, or with None for the one of the installation.
    Raises `ConfigError` with every mistake and its place.
    """
    root, problems = parse(_content(path), file=str(path))
    if root is None:
        raise ConfigError(problems)
    findings = Findings(root)
    for problem in problems:
        findings.note(problem)
    try:
        section = CaseFile.model_validate(root)
    except ValidationError as error:
        report(error, findings, model=CaseFile)
        raise ConfigError(findings.errors()) from error
    if findings.errors():
        raise ConfigError(findings.errors())
    config = load(None if section.config is None else absolute(path.parent, section.config))
    cases = [_Reader(findings, config, section, number).case() for number in range(len(section.cases))]
    if findings.errors():
        raise ConfigError(findings.errors())
    return config, cases


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        raise ConfigError([Problem(file=str(path), line=1, column=1, path="", message=message)]) from error
    if len(content) > MAX_BYTES:
        message = f"the file is larger than {MAX_BYTES // 2**20} MiB"
        raise ConfigError([Problem(file=str(path), line=1, column=1, path="", message=message)])
    return content


class _Reader:
    """Makes one case out of its section, and notes what does not fit the configuration."""

    def __init__(self, findings: Findings, config: Config, file: CaseFile, number: int) -> None:
        self._findings = findings
        self._config = config
        self._section = file.cases[number]
        self._path: Steps = ("cases", number)
        self._start = self._section.start or file.start

    def case(self) -> Case:
        section = self._section
        events: list[GivenEvent] = []
        changes: list[Change] = []
        for number, given in enumerate(section.given):
            self._given(given, number, events, changes)
        expected = [self._expected(each, number) for number, each in enumerate(section.expect)]
        instants = [self._start, *(each.at for each in events), *(each.at for each in changes)]
        instants += [at for each in expected for at in (each.at, each.until) if at is not None]
        until = max(instants) if section.until is None else self._at(section.until)
        return Case(
            name=section.name,
            place=str(self._findings.place((*self._path, "name"))),
            start=self._start,
            until=until,
            events=sorted(events, key=lambda event: event.at),
            changes=changes,
            runs=self._runs(section.runs),
            expected=expected,
        )

    def _given(self, given: GivenSection, number: int, events: list[GivenEvent], changes: list[Change]) -> None:
        at, path = self._at(given.at), (*self._path, "given", number)
        if at < self._start:
            self._findings.add(
                (*path, "at"), "this is before the case starts", f"it starts at {self._start:%Y-%m-%dT%H:%M:%SZ}"
            )
        if given.event is not None:
            self._check_known((*path, "source"), given.source, self._sources(), "source")
            events.append(self._event(given, at, number, given.event))
        elif given.press is not None:
            self._check_known((*path, "press"), given.press, list(self._config.models), "model")
            data = {"actor": given.actor, "reason": given.reason, "params": given.params or {}}
            events.append(
                GivenEvent(
                    at=at,
                    type=RETRAIN_REQUESTED,
                    origin=PERSON_ORIGIN,
                    subject=given.press,
                    data=data,
                    time=at,
                    id=given.id or f"press-{number}",
                )
            )
        elif given.champion is not None:
            self._check_known((*path, "champion"), given.champion, list(self._config.models), "model")
            number_of = given.version or 1
            changes.append(
                Change(
                    at=at,
                    kind="champion",
                    target=given.champion,
                    version_id=f"given version {number_of}",
                    number=number_of,
                    metrics=given.metrics or {},
                )
            )
        else:
            verb = "pause" if given.pause is not None else "resume"
            target = given.pause if given.pause is not None else given.resume
            self._check_target((*path, verb), target or "")
            target = "" if target == "all" else target or ""
            changes.append(Change(at=at, kind=verb, target=target, actor=given.actor, reason=given.reason))

    def _event(self, given: GivenSection, at: datetime, number: int, kind: str) -> GivenEvent:
        return GivenEvent(
            at=at,
            type=kind,
            origin=given.source,
            subject=given.subject,
            data=_plain(given.data),
            time=at if given.time is None else self._at(given.time),
            id=given.id or f"given-{number}",
            extensions=_plain(given.extensions or {}),
        )

    def _runs(self, runs: Mapping[str, RunSection | list[RunSection]]) -> dict[str, Sequence[GivenRun]]:
        found: dict[str, Sequence[GivenRun]] = {}
        for model, sections in runs.items():
            self._check_known((*self._path, "runs", model), model, list(self._config.models), "model", at_key=True)
            listed = sections if isinstance(sections, list) else [sections]
            found[model] = [
                GivenRun(length=each.length, state=each.outcome, cost=each.cost, metrics=each.metrics)
                for each in listed
            ]
        return found

    def _expected(self, section: ExpectSection, number: int) -> Expected:
        path: Steps = (*self._path, "expect", number)
        outcome: Any = next(name for name in _EXPECTED if getattr(section, name) is not None)
        model, policy = self._policy((*path, outcome), getattr(section, outcome))
        if section.by is not None:
            self._check_known((*path, "by"), section.by, [*(stage.name for stage in CHAIN), *_OTHER_STAGES], "stage")
        return Expected(
            place=str(self._findings.place(path)),
            outcome=outcome,
            model=model,
            policy=policy,
            at=None if section.at is None else self._at(section.at),
            by=section.by,
            key=section.key,
            reason=section.reason,
            until=None if section.until is None else self._at(section.until),
            times=section.times,
        )

    def _policy(self, path: Steps, name: str) -> tuple[str, str]:
        """Return the model and the policy that a name means."""
        known = [
            (model, policy) for model, spec in self._config.models.items() for policy in (*spec.policies, MANUAL_POLICY)
        ]
        model, slash, policy = name.rpartition("/")
        found = [place for place in known if place == (model, policy) or (not slash and place[1] == name)]
        if len(found) == 1:
            return found[0]
        names = [f"{model}/{policy}" for model, policy in known]
        if found:
            listed = ", ".join(f"{model}/{policy}" for model, policy in found[:5])
            self._findings.add(path, f"{len(found)} models have a policy {name!r}", f"write one of {listed}")
        else:
            self._findings.add(
                path, f"there is no policy {name!r}", nearest_or_known(name, [*names, *(p for _, p in known)])
            )
        return model, policy

    def _check_target(self, path: Steps, target: str) -> None:
        if target != "all" and "/" in target:
            self._policy(path, target)
        elif target != "all":
            self._check_known(path, target, list(self._config.models), "model")

    def _check_known(self, path: Steps, name: str, known: Sequence[str], what: str, *, at_key: bool = False) -> None:
        if name not in known:
            self._findings.add(path, f"there is no {what} {name!r}", nearest_or_known(name, list(known)), at_key=at_key)

    def _sources(self) -> list[str]:
        return [*self._config.sources, API_ORIGIN, CONTROLLER_ORIGIN]

    def _at(self, moment: Moment) -> datetime:
        return self._start + moment if isinstance(moment, timedelta) else moment


def _plain(value: Any) -> Any:
    """Return values without their places, as JSON would have them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value
