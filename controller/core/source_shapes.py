"""What people and programs are shown of sources: the JSON that `/v1/sources` answers and `retrainctl sources -o json` prints.

`examine.py` fills these. Instants are RFC 3339 text in UTC; a key that has nothing to say is null, never left out.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict  # pydantic reads these, and wants this one before Python 3.12

Json = Any


class RhythmShape(TypedDict):
    """How often something comes; read from the latest arrivals, those within a second as one."""

    median_seconds: float
    longest_seconds: float
    gap_count: int


class FindingShape(TypedDict):
    """One thing that was found."""

    #: wrong, warning or note.
    level: str
    text: str
    #: What to do; may be empty.
    hint: str


class NoteShape(TypedDict):
    """The newest fact of its name that a source noted; secrets are taken out."""

    at: str
    value: Json


class PayloadShape(TypedDict):
    """What came last, as it came, cut; secrets are taken out."""

    at: str
    text: str


class LastEventShape(TypedDict):
    """The newest event of a source."""

    id: str
    type: str
    subject: str | None
    time: str
    received_at: str
    state: str


class EndpointShape(TypedDict):
    """Where a source is called."""

    url: str
    #: Whether its callers must prove who they are.
    verified: bool


class SourceSummary(TypedDict):
    """A source in one line."""

    name: str
    type: str
    #: stream, timed or push; null for one that was not built, or when no daemon runs.
    shape: str | None
    #: ok, complains, silent or not built; elsewhere when another replica runs it; unknown when no daemon runs.
    state: str
    #: Why it is not ok.
    reason: str | None
    last_event_id: str | None
    last_event_at: str | None
    rhythm: RhythmShape | None
    rate_per_minute: float
    #: New events since it was first configured.
    stored: int
    #: Events that were known before.
    duplicates: int
    #: Events that the store could not take.
    refused: int
    #: Dead letters that wait for a person.
    dead: int
    #: What it says it has not taken in yet; null when it does not say.
    lag: Json
    expected_every_seconds: float | None
    silent_since: str | None


class SourceShape(SourceSummary):
    """Everything about a source."""

    since: str
    complaints: dict[str, str]
    last_event: LastEventShape | None
    payload: PayloadShape | None
    #: What became of the last payload, as the source noted it.
    mapping: NoteShape | None
    #: Whether the last caller proved who it is, as the source noted it.
    signature: NoteShape | None
    #: Whatever else it noted.
    notes: dict[str, NoteShape]
    #: What it says of itself: positions, cursor, circuit.
    report: dict[str, Json]
    #: For how long we have listened without hearing it; null unless something is expected of it, and a daemon runs.
    quiet_for_seconds: float | None
    duplicates_share: float
    #: Median of (received − event time); negative: its clock is ahead of ours.
    clock_skew_seconds: float | None
    endpoint: EndpointShape | None
    #: Policies that name it, as model/policy.
    policies: list[str]
    findings: list[FindingShape]
    #: Whether nothing is wrong.
    healthy: bool
    #: What to do next, in a sentence.
    verdict: str


class SeekShape(TypedDict):
    """A source goes on from somewhere else."""

    source: str
    where: dict[str, str]
    #: What it remembers from now on, by key; null for what it forgot.
    positions: dict[str, Json]


class StepReport(TypedDict):
    """One step of a test event."""

    step: str
    at: str | None
    #: Milliseconds since the test began.
    after_ms: float | None
    ok: bool
    text: str


class TestShape(TypedDict):
    """What became of a test event."""

    source: str
    event_id: str | None
    ok: bool
    steps: list[StepReport]
    endpoint: EndpointShape | None
