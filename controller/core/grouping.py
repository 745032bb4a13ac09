"""Data sets: which files or objects belong together, when all of them are there, and what they are together.

A data set arrives in parts, and nobody says of one part whether it was the last.
What says so is settled in the configuration: a marker beside the parts, a manifest that names them, their number, or that
nothing came for a while (`quiet`). `quiet` beside one of the others is a time limit: whichever comes first.
The identity of a data set is its name and its content, the digest over the names, digests and sizes of its parts, so that
however often it is found again, it is one event; a part that comes later makes another content, and another event.

Everything here computes from its arguments. `core/manifest.py` reads manifests, `core/datasets.py` keeps what is known
between the parts; the sources look at the world.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from controller.core.duration import format_duration, parse_duration
from controller.core.manifest import Listed
from controller.core.model import Json, NewEvent
from controller.errors import InvalidInput

DEFAULT_MAX_PARTS = 10_000
#: A data set may be told to have so many parts at most.
HIGHEST_MAX_PARTS = 100_000
#: Parts that an event names; more are counted, and part of the digest.
SHOWN_PARTS = 1_000
#: How long nothing may have come before late parts are another event, without `quiet`.
LATE_QUIET = timedelta(minutes=1)
#: Characters of a name that are kept in an event's id.
_ID_LIMIT = 400
#: Names of missing parts that are told to people.
SHOWN_MISSING = 10

_KEYS = ("by", "complete", "max_parts")
_RULES = ("marker", "manifest", "parts")
_EXAMPLE = "such as group: {by: directory, complete: {marker: _SUCCESS}}"

Role = Literal["part", "marker", "manifest"]
Rule = Literal["marker", "manifest", "parts", "quiet"]

#: What `group` may be, for editors.
GROUP_SCHEMA: Json = {
    "type": "object",
    "additionalProperties": False,
    "required": ["complete"],
    "properties": {
        "by": {
            "type": "string",
            "description": "directory, or a regular expression whose groups, found in a path, name the data set; default directory",
        },
        "complete": {
            "type": "object",
            "additionalProperties": False,
            "minProperties": 1,
            "properties": {
                "marker": {"type": "string", "description": "Name (or glob) of a file that is written after the parts"},
                "manifest": {"type": "string", "description": "Name (or glob) of a file that names the parts"},
                "parts": {"type": "integer", "minimum": 1, "description": "Number of the parts"},
                "quiet": {
                    "type": "string",
                    "description": "Complete when nothing came for so long; beside another rule a time limit",
                },
            },
        },
        "max_parts": {
            "type": "integer",
            "minimum": 1,
            "maximum": HIGHEST_MAX_PARTS,
            "description": f"Parts that a data set may have; default {DEFAULT_MAX_PARTS}",
        },
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Grouping:
    """What belongs together, and when it is complete; made by `load_grouping`."""

    #: None groups by directory.
    by: re.Pattern[str] | None
    #: Glob of the marker's name.
    marker: str | None
    #: Glob of the manifest's name.
    manifest: str | None
    #: Number of parts that make it complete.
    parts: int | None
    #: How long nothing may have come.
    quiet: timedelta | None
    max_parts: int

    def group_of(self, path: str) -> str | None:
        """Return the name of the data set that a path belongs to; None for none.

        In the root itself, the directory's name is `.`.
        """
        if self.by is None:
            return path.rpartition("/")[0] or "."
        found = self.by.search(path)
        if found is None:
            return None
        named = found.groupdict()
        parts = named.values() if named else found.groups()
        return "/".join(part for part in parts if part) or None

    def role_of(self, path: str) -> Role:
        """Return what a path of a data set is to it."""
        name = path.rpartition("/")[2]
        if self.marker is not None and fnmatch.fnmatchcase(name, self.marker):
            return "marker"
        if self.manifest is not None and fnmatch.fnmatchcase(name, self.manifest):
            return "manifest"
        return "part"

    @property
    def signals(self) -> tuple[str, ...]:
        """The globs of names that are no parts, and count though they may not be included."""
        return tuple(glob for glob in (self.marker, self.manifest) if glob is not None)

    @property
    def shape(self) -> str:
        """What must be equal for two groupings to have the same data sets with the same parts."""
        by = None if self.by is None else self.by.pattern
        return hashlib.sha256(json.dumps([by, self.marker, self.manifest, self.max_parts]).encode()).hexdigest()[:16]

    def written(self) -> Json:
        """Return it as it stands in a configuration, with every default."""
        quiet = None if self.quiet is None else format_duration(self.quiet)
        rules = {"marker": self.marker, "manifest": self.manifest, "parts": self.parts, "quiet": quiet}
        return {
            "by": "directory" if self.by is None else self.by.pattern,
            "complete": {name: value for name, value in rules.items() if value is not None},
            "max_parts": self.max_parts,
        }


def load_grouping(value: Json) -> Grouping:
    """Read `group` of a configuration; raises `InvalidInput` with a sentence for whoever wrote it."""
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{value!r} is not a group", hint=_EXAMPLE)
    _refuse_unknown(value, _KEYS, "group")
    complete = value.get("complete")
    if not isinstance(complete, Mapping) or not complete:
        raise InvalidInput("`complete` must say when a data set is complete", hint=_EXAMPLE)
    _refuse_unknown(complete, (*_RULES, "quiet"), "complete")
    rules = [name for name in _RULES if complete.get(name) is not None]
    if len(rules) > 1:
        raise InvalidInput(
            f"`{rules[0]}` and `{rules[1]}` contradict each other: one of them says when a data set is complete",
            hint="keep one; only `quiet` can stand beside another, as a time limit",
        )
    parts = complete.get("parts")
    max_parts = value.get("max_parts", DEFAULT_MAX_PARTS)
    _require_count(max_parts, "max_parts", HIGHEST_MAX_PARTS)
    if parts is not None:
        _require_count(parts, "parts", max_parts)
    return Grouping(
        by=_read_by(value.get("by", "directory")),
        marker=_read_glob(complete.get("marker"), "marker"),
        manifest=_read_glob(complete.get("manifest"), "manifest"),
        parts=parts,
        quiet=_read_quiet(complete.get("quiet")),
        max_parts=max_parts,
    )


def _refuse_unknown(value: Mapping[str, Json], known: Sequence[str], what: str) -> None:
    for key in value:
        if key not in known:
            raise InvalidInput(f"`{what}` has no key {key!r}", hint=f"it has: {', '.join(known)}")


def _require_count(value: Json, name: str, highest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= highest:
        raise InvalidInput(f"`{name}` is {value!r}; it must be a whole number from 1 to {highest}")


def _read_by(value: Json) -> re.Pattern[str] | None:
    if value == "directory":
        return None
    if not isinstance(value, str):
        raise InvalidInput(f"`by` is {value!r}; write directory, or a regular expression with a group")
    try:
        pattern = re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidInput(f"`by` is {value!r}, which is no regular expression: {error}") from None
    if pattern.groups == 0:
        raise InvalidInput(
            f"`by` is {value!r}, which has no group to name the data set by",
            hint="put the part of the path that names it in parentheses, such as '(day=[^/]+)/', or write directory",
        )
    return pattern


def _read_glob(value: Json, name: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or "/" in value:
        raise InvalidInput(f"`{name}` is {value!r}; it must be the name of a file, without a folder, such as _SUCCESS")
    return value


def _read_quiet(value: Json) -> timedelta | None:
    if value is None:
        return None
    try:
        quiet = (
            value if isinstance(value, timedelta) else parse_duration(value if isinstance(value, str) else repr(value))
        )
    except ValueError as error:
        raise InvalidInput(f"`quiet`: {error}") from None
    if quiet <= timedelta(0):
        raise InvalidInput("`quiet` of 0s would make every part a data set of its own", hint="write 5m")
    return quiet


# --------------------------------------------------------------------------------------------------- what is known


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One file or object of a data set."""

    #: Its path below the source's root.
    name: str
    size: int
    #: What tells its content: `sha256:…`, `etag:…`, or `stamp:…` where the content was not read.
    digest: str
    #: Records in it; None when nobody counted.
    rows: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """What is known of a data set, beside its parts."""

    name: str
    #: When the first of it was found, or the first since its last event.
    since: datetime
    #: When a part of it was last found new, changed or gone.
    changed_at: datetime
    #: Parts known.
    count: int = 0
    #: When the marker or the manifest was last found; None: not yet.
    marked_at: datetime | None = None
    #: Parts that the manifest names; None without one.
    listed: int | None = None
    #: Number of its events so far.
    generation: int = 0
    #: Digest of its last event.
    digest: str | None = None
    #: Whether something came since its last event.
    open: bool = False
    #: Whether it has more parts than it may have; such a data set never becomes an event.
    overfull: bool = False

    @property
    def late(self) -> bool:
        """Whether what came since came after its event."""
        return self.generation > 0


# ------------------------------------------------------------------------------------------------------ judgement


def ready_at(grouping: Grouping, group: Group) -> datetime | None:
    """Return when a data set may be complete if nothing more happens; None when only something new can complete it.

    Without looking at the parts, so a manifest's data set may turn out to lack some.
    Late parts wait until nothing came for `quiet` (a minute without it), or marker or manifest are written again after them.
    """
    if not group.open or group.overfull or group.count == 0:
        return None
    rule = _satisfied(grouping, group)
    if rule is not None and not group.late:
        return group.changed_at
    if rule is not None and group.marked_at is not None and group.marked_at >= group.changed_at:
        return group.marked_at
    if rule is not None:
        return group.changed_at + (grouping.quiet or LATE_QUIET)
    return None if grouping.quiet is None else group.changed_at + grouping.quiet


def _satisfied(grouping: Grouping, group: Group) -> Rule | None:
    """Return the rule that calls a data set complete, as far as its numbers tell."""
    if grouping.marker is not None:
        return "marker" if group.marked_at is not None else None
    if grouping.manifest is not None:
        return "manifest" if group.listed is not None and group.count >= group.listed else None
    if grouping.parts is not None:
        return "parts" if group.count >= grouping.parts else None
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was found of a data set's completeness."""

    #: None: it is not complete.
    complete_by: Rule | None
    #: What belongs to it, in order of name.
    parts: tuple[Part, ...]
    #: What a manifest names and is not there, or not so; at most `SHOWN_MISSING`, in sentences.
    missing: tuple[str, ...]
    #: How many are missing.
    missing_count: int
    #: When to look again if nothing happens; None: when something does.
    look_at: datetime | None


def judge(
    grouping: Grouping,
    group: Group,
    parts: Mapping[str, Part],
    listed: Sequence[Listed],
    now: datetime,
) -> Verdict:
    """Say whether a data set is complete at `now`, and of what.

    With a manifest, the parts are those it names, and others do not count; unless it became complete by being quiet.
    """
    everything = tuple(parts[name] for name in sorted(parts))
    rule = _satisfied(grouping, group)
    found = everything
    missing: tuple[str, ...] = ()
    count = 0
    if grouping.manifest is not None and group.listed is not None:
        found, missing = compare(listed, parts)
        rule = None if missing else "manifest"
        count, missing = len(missing), missing[:SHOWN_MISSING]
    elif grouping.parts is not None:
        count = max(0, grouping.parts - len(everything))
    at = ready_at(grouping, group)
    if at is None or (rule is None and grouping.quiet is None):
        return Verdict(complete_by=None, parts=everything, missing=missing, missing_count=count, look_at=None)
    if rule is None and grouping.quiet is not None:
        at = max(at, group.changed_at + grouping.quiet)
    if at > now:
        return Verdict(complete_by=None, parts=everything, missing=missing, missing_count=count, look_at=at)
    return Verdict(
        complete_by=rule or "quiet",
        parts=found if rule else everything,
        missing=missing,
        missing_count=count,
        look_at=None,
    )


def compare(listed: Sequence[Listed], parts: Mapping[str, Part]) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """Return the parts that a manifest names and that are there as it says, and a sentence for each that is not."""
    found: dict[str, Part] = {}
    missing: list[str] = []
    for entry in listed:
        part = next((parts[name] for name in entry.names if name in parts), None)
        if part is None:
            missing.append(entry.names[0])
        elif entry.size is not None and entry.size != part.size:
            missing.append(f"{part.name} (of {part.size} bytes instead of {entry.size})")
        elif not _same_digest(entry.digest, part.digest):
            missing.append(f"{part.name} (its digest is {part.digest} instead of {entry.digest})")
        else:
            found[part.name] = part
    return tuple(found[name] for name in sorted(found)), tuple(missing)


def _same_digest(wanted: str | None, digest: str) -> bool:
    """Return whether two digests are equal, as far as they can be compared at all."""
    if wanted is None:
        return True
    kind, _, value = wanted.rpartition(":")
    ours, _, our_value = digest.partition(":")
    value = value.strip('"').lower()
    if kind.lower() in ("sha256", "sha-256") or (not kind and re.fullmatch("[0-9a-f]{64}", value)):
        return ours != "sha256" or our_value == value
    if kind.lower() in ("", "etag"):
        return ours != "etag" or our_value.strip('"').lower() == value
    return True


def digest_of(parts: Sequence[Part]) -> str:
    """Return the digest of a data set: the SHA-256 over name, digest and size of its parts, in order of name."""
    lines = (json.dumps([part.name, part.digest, part.size]) for part in sorted(parts, key=lambda part: part.name))
    sha = hashlib.sha256()
    for line in lines:
        sha.update(line.encode("ascii") + b"\n")
    return f"sha256:{sha.hexdigest()}"


# ---------------------------------------------------------------------------------------------------------- events


def group_event(group: Group, verdict: Verdict, *, source: str, type: str, digest: str) -> NewEvent:
    """Return the event of a data set that is complete."""
    rows = [part.rows for part in verdict.parts]
    shown = verdict.parts[:SHOWN_PARTS]
    data: dict[str, Json] = {
        "group": group.name,
        "parts": [_shown(part) for part in shown],
        "parts_truncated": len(shown) < len(verdict.parts),
        "count": len(verdict.parts),
        "bytes": sum(part.size for part in verdict.parts),
        "digest": digest,
        "complete_by": verdict.complete_by,
        "generation": group.generation + 1,
        "previous": group.digest,
        "late": group.late,
    }
    counted = [row for row in rows if row is not None]
    if len(counted) == len(rows):
        data["rows"] = sum(counted)
    if verdict.missing_count:
        data["missing"] = list(verdict.missing)
        data["missing_count"] = verdict.missing_count
    return NewEvent(
        source=source,
        source_id=_event_id(group.name, digest),
        type=type,
        subject=group.name,
        time=group.changed_at,
        data=data,
    )


def _shown(part: Part) -> Json:
    kind, _, value = part.digest.partition(":")
    shown: dict[str, Json] = {"name": part.name, "size": part.size}
    if kind == "etag":
        shown["etag"] = value
    elif kind != "stamp":
        shown["digest"] = part.digest
    if part.rows is not None:
        shown["rows"] = part.rows
    return shown


def _event_id(name: str, digest: str) -> str:
    """Return `name@digest`; a name too long for an index is cut and told apart by its hash."""
    if len(name) > _ID_LIMIT:
        name = f"{name[:_ID_LIMIT]}…{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:24]}"
    return f"{name}@{digest}"
