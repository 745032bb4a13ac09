"""What is said of a source: findings, the verdict, and nothing that is secret."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from controller.core.examine import MAX_PAYLOAD, Known, examine, summarize
from controller.core.rhythm import Arrival, SourceStat
from tests.factories import NOON, make_event

HOUR = timedelta(hours=1)


def stat(count: int = 3, *, every: float = 60, delay: float | None = None, **fields: Any) -> SourceStat:
    """A source that was heard so many times, the last time at NOON."""
    arrivals = tuple(
        Arrival(at=NOON - timedelta(seconds=every * (count - 1 - n)), count=1, delay_seconds=delay)
        for n in range(count)
    )
    return SourceStat(
        **{"source": "bus", "since": NOON - 24 * HOUR, "stored": count, "arrivals": arrivals, "last_at": NOON} | fields
    )


def known(**fields: Any) -> Known:
    return Known(**{"name": "bus", "type": "kafka", "shape": "stream", "stat": stat(), "now": NOON} | fields)


def said(found: Known, level: str) -> str:
    return "\n".join(finding["text"] for finding in examine(found)["findings"] if finding["level"] == level)


def test_a_source_that_is_well() -> None:
    """Nothing is found, and the verdict says so."""
    shape = examine(known())

    assert shape["findings"] == []
    assert (shape["state"], shape["reason"], shape["healthy"], shape["verdict"]) == ("ok", None, True, "it is well")
    assert shape["rhythm"] == {"median_seconds": 60, "longest_seconds": 60, "gap_count": 2}
    assert json.loads(json.dumps(shape)) == shape


@pytest.mark.parametrize(
    "fields, state, text, hint",
    [
        ({"shape": None, "complaints": {"build": "cannot be built: no key"}}, "not built", "cannot be built: no key",
         "retrainctl reload"),
        ({"complaints": {"run": "connection refused"}}, "complains", "connection refused", ""),
        ({"stat": stat(silent_since=NOON - HOUR), "expect_every": HOUR}, "silent",
         "silent: nothing came since 2024-03-05T11:00:00Z, and something is expected every 1h", "--test"),
        ({"dead_letters": 1200}, "ok", "1,200 dead letters wait for a person", "retrainctl dead list"),
    ],
    ids=["not built", "complains", "silent", "dead letters"],
)  # fmt: skip
def test_what_is_wrong(fields: dict[str, Any], state: str, text: str, hint: str) -> None:
    """It is a finding and the verdict, with what to do."""
    found = known(**fields)
    shape = examine(found)

    assert shape["state"] == state
    assert shape["healthy"] is False
    assert said(found, "wrong") == text
    assert shape["verdict"].startswith(text)
    assert hint in shape["verdict"]


def test_several_things_are_wrong() -> None:
    """The verdict is about the first, and says that there are more."""
    shape = examine(known(complaints={"run": "refused"}, dead_letters=1, stat=stat(silent_since=NOON)))

    assert shape["verdict"] == "refused (and 2 more)"


@pytest.mark.parametrize(
    "fields, level, text",
    [
        ({"stat": stat(delay=-90.0)}, "warning", "1m30s from now: its clock is ahead"),
        ({"stat": stat(delay=-1.0)}, "warning", ""),
        ({"stat": stat(delay=3600.0)}, "note", "come 1h after they happened"),
        ({"stat": stat(duplicates=30)}, "note", "91% of what comes is known already"),
        ({"stat": stat(count=1, duplicates=2)}, "note", ""),
        ({"stat": stat(refused=2)}, "note", "2 events were refused"),
        ({"stat": stat(count=0, stored=0, last_at=None)}, "note", "nothing has come yet"),
        ({"stat": stat(count=10), "now": NOON + HOUR}, "warning", "quiet for 1h"),
        ({"stat": stat(count=10), "now": NOON + HOUR, "expect_every": 2 * HOUR}, "warning", ""),
        ({"stat": stat(count=3), "now": NOON + HOUR}, "warning", ""),
        ({"endpoint": {"url": "/hooks/bus", "verified": False}}, "warning", "whoever reaches /hooks/bus"),
        ({"endpoint": {"url": "/hooks/bus", "verified": True}}, "warning", ""),
        ({"daemon": False}, "warning", "no daemon runs"),
        ({"notes": {"signature": (NOON, "refused: no header")}}, "warning",
         "signature of the last that came (2024-03-05T12:00:00Z): refused: no header"),
        ({"notes": {"signature": (NOON, "valid"), "mapping": (NOON, "2 events")}}, "warning", ""),
        ({"notes": {"mapping": (NOON, "not understood: no alerts")}}, "warning", "not understood: no alerts"),
    ],
    ids=["clock ahead", "clock a little ahead", "late", "mostly known", "too few to say", "refused", "never heard",
         "quiet", "quiet, and judged otherwise", "no rhythm yet", "open hook", "verified hook", "no daemon",
         "bad signature", "good notes", "bad payload"],
)  # fmt: skip
def test_what_is_worth_a_word(fields: dict[str, Any], level: str, text: str) -> None:
    """It is said, and makes nothing unhealthy."""
    found = known(**fields)

    assert text in said(found, level)
    assert bool(text) == bool(said(found, level))
    assert examine(found)["healthy"] is True


def test_secrets_are_taken_out() -> None:
    """Of what was noted, reported and received, in either form."""
    notes = {
        "payload": (NOON, b'{"password": "hunter2", "share": 0.5}'),
        "mapping": (NOON, {"token": "hunter2"}),
        "last_header": (NOON, b"Authorization: Bearer hunter2hunter2"),
    }
    shape = examine(known(notes=notes, report={"url": "https://ann:hunter2@example.org", "api_key": "hunter2"}))

    assert "hunter2" not in json.dumps(shape)
    assert "0.5" in json.dumps(shape)
    assert shape["mapping"] is not None
    assert list(shape["notes"]) == ["last_header"]


def test_the_last_payload_is_the_newest_event_s_data_when_nothing_was_noted() -> None:
    """Cut, and without secrets."""
    event = make_event(data={"secret": "hunter2", "text": ["x" * 500] * 100})
    shape = examine(known(last_event=event))

    assert shape["payload"] is not None
    assert "hunter2" not in shape["payload"]["text"]
    assert len(shape["payload"]["text"]) <= MAX_PAYLOAD + 1
    assert shape["last_event"] is not None
    assert shape["last_event"]["id"] == event.id


def test_the_lag_is_what_it_reports_or_noted() -> None:
    """The report is fresher."""
    noted = known(notes={"lag": (NOON, 7)})

    assert summarize(noted)["lag"] == 7
    assert summarize(replace(noted, report={"lag": {"t/0": 3}}))["lag"] == {"t/0": 3}
    assert summarize(known())["lag"] is None
