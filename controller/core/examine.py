"""What is to be said of a source, from everything that is known of it: pure, so that the daemon and an offline reading say the same.

Findings are sentences with what to do about them; the verdict is the first that is wrong. Payloads and notes come from outside and may hold
secrets, which are taken out here, whoever asks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from controller.core.duration import format_duration
from controller.core.model import Event, Json
from controller.core.redact import redact, redact_bytes
from controller.core.rhythm import SourceStat, clock_skew_seconds, rate_per_minute, rhythm
from controller.core.source_shapes import (
    EndpointShape,
    FindingShape,
    LastEventShape,
    NoteShape,
    PayloadShape,
    RhythmShape,
    SourceShape,
    SourceSummary,
)

#: At most so much of the last payload is shown, in characters.
MAX_PAYLOAD = 4_000
#: An event time that is further ahead of our clock than this is the clock's fault.
AHEAD_SECONDS = 2.0
#: Events that regularly come so long after they happened are late, or their clock is behind.
LATE_SECONDS = 300.0
#: More known events than this share, of at least so many, are worth a word.
_MANY_DUPLICATES, _SO_MANY_EVENTS = 0.5, 20
#: A source without `expect_every` is worth a word when it is quiet for so many times its longest gap, of at least so many gaps.
_LONGER, _SO_MANY_GAPS = 5.0, 8

#: Notes of sources that say that something went wrong with the last that came: name, how it begins, what to do.
_TELLING_NOTES = (
    ("signature", "refused", "compare the secret with its sender's; rotating: name both secrets"),
    ("mapping", "not understood", "compare the format or the mapping with the payload above"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """Everything that is known of a source at one instant."""

    name: str
    #: Name of the plugin.
    type: str
    stat: SourceStat
    now: datetime
    #: stream, timed or push; None for one that was not built.
    shape: str | None = None
    #: Whether a daemon runs; without one only the database speaks.
    daemon: bool = True
    #: It runs on the replica that leads and not on the one that was asked: where that is.
    elsewhere: str | None = None
    expect_every: timedelta | None = None
    quiet_seconds: float | None = None
    #: Reasons by what they are about.
    complaints: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, tuple[datetime, Json | bytes]] = field(default_factory=dict)
    report: Mapping[str, Json] = field(default_factory=dict)
    last_event: Event | None = None
    #: Dead letters that wait for a person.
    dead_letters: int = 0
    endpoint: EndpointShape | None = None
    policies: Sequence[str] = ()


def summarize(known: Known) -> SourceSummary:
    """Return a source in one line."""
    stat = known.stat
    state, reason = _state(known)
    return {
        "name": known.name,
        "type": known.type,
        "shape": known.shape,
        "state": state,
        "reason": reason,
        "last_event_id": stat.last_event_id,
        "last_event_at": _text(stat.last_at),
        "rhythm": _rhythm(stat),
        "rate_per_minute": round(rate_per_minute(stat.arrivals, known.now), 2),
        "stored": stat.stored,
        "duplicates": stat.duplicates,
        "refused": stat.refused,
        "dead": known.dead_letters,
        "lag": redact(_lag(known)),
        "expected_every_seconds": None if known.expect_every is None else known.expect_every.total_seconds(),
        "silent_since": _text(stat.silent_since),
    }


def examine(known: Known) -> SourceShape:
    """Return everything about a source, with findings and a verdict."""
    findings = sorted(_findings(known), key=lambda finding: ("wrong", "warning", "note").index(finding["level"]))
    wrong = [finding for finding in findings if finding["level"] == "wrong"]
    notes = {name: _note(at, value) for name, (at, value) in sorted(known.notes.items()) if name != "payload"}
    skew = clock_skew_seconds(known.stat.arrivals)
    return {
        **summarize(known),
        "since": _instant(known.stat.since),
        "complaints": dict(known.complaints),
        "last_event": _last_event(known.last_event),
        "payload": _payload(known),
        "mapping": notes.pop("mapping", None),
        "signature": notes.pop("signature", None),
        "notes": notes,
        "report": redact(dict(known.report)),
        "quiet_for_seconds": None if known.quiet_seconds is None else round(known.quiet_seconds, 3),
        "duplicates_share": round(_duplicates_share(known.stat), 4),
        "clock_skew_seconds": None if skew is None else round(skew, 3),
        "endpoint": known.endpoint,
        "policies": list(known.policies),
        "findings": findings,
        "healthy": not wrong,
        "verdict": _verdict(known, wrong),
    }


# --------------------------------------------------------------------------------------------------------- findings


def _findings(known: Known) -> Iterator[FindingShape]:
    yield from _of_state(known)
    yield from _of_silence(known)
    if known.dead_letters:
        yield _finding(
            "wrong",
            f"{known.dead_letters:,} dead letters wait for a person",
            f"see why: retrainctl dead list --source {known.name}",
        )
    yield from _of_counts(known)
    yield from _of_the_clock(known)
    if known.endpoint is not None and not known.endpoint["verified"]:
        yield _finding(
            "warning", f"whoever reaches {known.endpoint['url']} can post events", "give it a verifier: `verify`"
        )


def _of_state(known: Known) -> Iterator[FindingShape]:
    if not known.daemon:
        yield _finding("warning", "no daemon runs, so nothing is taken in", "start it: retraind")
        return
    if known.elsewhere is not None:
        yield _finding("note", "it runs on the replica that leads, which knows more of it", known.elsewhere)
        return
    for about, reason in known.complaints.items():
        hint = "correct the configuration, then: retrainctl reload" if about == "build" else ""
        yield _finding("wrong", reason, hint)
    if known.shape is None and "build" not in known.complaints:
        yield _finding("wrong", "it was not built", "see the daemon's log")
    for name, beginning, hint in _TELLING_NOTES:
        at, value = known.notes.get(name, (known.now, None))
        if isinstance(value, str) and value.startswith(beginning):
            yield _finding("warning", f"{name} of the last that came ({_text(at)}): {value}", hint)


def _of_silence(known: Known) -> Iterator[FindingShape]:
    stat = known.stat
    if stat.silent_since is not None:
        expected = f", and something is expected every {_length(known.expect_every)}" if known.expect_every else ""
        yield _finding(
            "wrong",
            f"silent: nothing came since {_text(stat.silent_since)}{expected}",
            f"look at its producer; does the way here work? retrainctl doctor sources {known.name} --test",
        )
        return
    if stat.heard_at is None:
        yield _finding("note", "nothing has come yet", "")
        return
    found = rhythm(stat.arrivals)
    quiet = (known.now - stat.heard_at).total_seconds()
    if (
        known.expect_every is None
        and found is not None
        and found.gap_count >= _SO_MANY_GAPS
        and quiet > max(_LONGER * found.longest_seconds, 60.0)
    ):
        yield _finding(
            "warning",
            f"quiet for {_seconds(quiet)}, and it never was for longer than {_seconds(found.longest_seconds)} lately",
            "if it should not be, say so: `expect_every`",
        )


def _of_counts(known: Known) -> Iterator[FindingShape]:
    stat = known.stat
    share = _duplicates_share(stat)
    if share > _MANY_DUPLICATES and stat.stored + stat.duplicates >= _SO_MANY_EVENTS:
        yield _finding(
            "note",
            f"{share:.0%} of what comes is known already, which is harmless",
            "if each of them is meant as an event of its own, its ids are not unique",
        )
    if stat.refused:
        yield _finding(
            "note", f"{stat.refused:,} events were refused by the store, and their producers told to come again", ""
        )


def _of_the_clock(known: Known) -> Iterator[FindingShape]:
    skew = clock_skew_seconds(known.stat.arrivals)
    if skew is not None and skew < -AHEAD_SECONDS:
        yield _finding(
            "warning",
            f"its events say that they happen {_seconds(-skew)} from now: its clock is ahead, or ours is behind",
            "let NTP set both clocks; until then these events count as happening when they are received",
        )
    elif skew is not None and skew > LATE_SECONDS:
        yield _finding(
            "note",
            f"its events come {_seconds(skew)} after they happened: they are late, or its clock is behind",
            "if they are not late, let NTP set both clocks; windows count by the events' own time",
        )


def _finding(level: str, text: str, hint: str) -> FindingShape:
    return {"level": level, "text": text, "hint": hint}


def _verdict(known: Known, wrong: Sequence[FindingShape]) -> str:
    if wrong:
        first = wrong[0]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return f"{first['text']}{more}" + (f"; {first['hint']}" if first["hint"] else "")
    if not known.daemon:
        return "nobody can say while no daemon runs; start it: retraind"
    if known.elsewhere is not None:
        return f"nothing is known against it here; {known.elsewhere}"
    if known.stat.heard_at is None:
        return f"it runs, and nothing has come yet; send a test: retrainctl doctor sources {known.name} --test"
    return "it is well"


# ---------------------------------------------------------------------------------------------------------- details


def _state(known: Known) -> tuple[str, str | None]:
    if not known.daemon:
        return "unknown", "no daemon runs"
    if known.elsewhere is not None and known.stat.silent_since is None:
        return "elsewhere", known.elsewhere
    if known.shape is None:
        return "not built", known.complaints.get("build", "it was not built")
    if known.complaints:
        return "complains", next(iter(known.complaints.values()))
    if known.stat.silent_since is not None:
        return "silent", f"nothing came since {_text(known.stat.silent_since)}"
    return "ok", None


def _rhythm(stat: SourceStat) -> RhythmShape | None:
    found = rhythm(stat.arrivals)
    if found is None:
        return None
    return {
        "median_seconds": round(found.median_seconds, 3),
        "longest_seconds": round(found.longest_seconds, 3),
        "gap_count": found.gap_count,
    }


def _lag(known: Known) -> Json:
    if "lag" in known.report:
        return known.report["lag"]
    noted = known.notes.get("lag")
    return None if noted is None or isinstance(noted[1], bytes) else noted[1]


def _duplicates_share(stat: SourceStat) -> float:
    total = stat.stored + stat.duplicates
    return stat.duplicates / total if total else 0.0


def _last_event(event: Event | None) -> LastEventShape | None:
    if event is None:
        return None
    return {
        "id": event.id,
        "type": event.type,
        "subject": event.subject,
        "time": _instant(event.time),
        "received_at": _instant(event.received_at),
        "state": event.state,
    }


def _payload(known: Known) -> PayloadShape | None:
    """Return what came last: as the source noted it, else the data of its newest event."""
    if "payload" in known.notes:
        at, value = known.notes["payload"]
        return {"at": _instant(at), "text": _shown(value)}
    if known.last_event is not None and known.last_event.data is not None:
        return {"at": _instant(known.last_event.received_at), "text": _shown(known.last_event.data)}
    return None


def _note(at: datetime, value: Json | bytes) -> NoteShape:
    return {"at": _instant(at), "value": _shown(value) if isinstance(value, bytes) else redact(value)}


def _shown(value: Json | bytes) -> str:
    if isinstance(value, bytes):
        return redact_bytes(value, MAX_PAYLOAD)
    text = json.dumps(redact(value), ensure_ascii=False, default=str)
    return text if len(text) <= MAX_PAYLOAD else f"{text[:MAX_PAYLOAD]}…"


def _text(at: datetime | None) -> str | None:
    return None if at is None else _instant(at)


def _instant(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _length(length: timedelta) -> str:
    return format_duration(length)


def _seconds(seconds: float) -> str:
    return format_duration(timedelta(seconds=max(round(seconds), 1)))
