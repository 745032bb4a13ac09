"""Crash points: which a story reaches, and what it comes to when daemons die there.

A case is a story, a database and the points at which one daemon after the other dies: one for the first run, two for a recovery that is
killed as well, several to try many points in one go. A trace of everything the daemons reach and the driver does says afterwards whether
the second one died while it still cleared up what the first had left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tests.acceptance import nominal as nominal_story
from tests.acceptance import trouble as trouble_story
from tests.acceptance.nominal import facts

if TYPE_CHECKING:
    from tests.acceptance.harness import Installation
    from tests.postgres import PostgresServer

DATABASES = ("sqlite", "postgresql")
#: Installations at once: they mostly wait for each other's processes.
PARALLEL = max(2, 2 * (os.cpu_count() or 1))
#: Longer than any loop sleeps, and than a lease goes without being renewed: whatever a clock does is reached in it.
LINGER = 11.0
#: How long a point that only a clock reaches may keep us waiting.
LONGEST_LINGER = 30.0

Server = Callable[[], "PostgresServer"]
_NEVER = "never reached"
#: The server numbers its databases.
_creating = threading.Lock()


class Story(Protocol):
    """A module that plays an installation to the same end, however often its daemon dies."""

    def install(self, folder: Path, database: str | None = None) -> Installation:
        """Write its scripts and its first configuration."""
        ...

    def play(self, there: Installation) -> dict[str, Any]:
        """Play it, and return what must be the same each time."""
        ...

    def problems(self, found: dict[str, Any]) -> list[str]:
        """Return what is wrong with that in itself."""
        ...


STORIES: Mapping[str, Story] = {"nominal": nominal_story, "trouble": trouble_story}


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to try: the first daemon dies at the first point, its successor at the second, and so on; the last one goes on."""

    story: str
    database: str
    points: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.database:<10} {self.story:<7} {' > '.join(self.points)}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What it came to; no problems means the same end as without a crash."""

    case: Case
    problems: tuple[str, ...]
    seconds: float
    #: For each death: the points that the next daemon reached before anything new was asked of it, until it died or went on.
    recoveries: tuple[frozenset[str], ...] = ()
    #: Points of the case at which nobody died.
    unreached: tuple[str, ...] = ()

    @property
    def was_in_recovery(self) -> bool:
        """Whether the last daemon that died was still clearing up what the one before had left."""
        return len(self.recoveries) > 1 and self.case.points[-1] in self.recoveries[-2]

    @property
    def passed_by(self) -> tuple[Case, ...]:
        """Return what is left to try alone of a chain whose only trouble is that an earlier daemon of it had done the rest already."""
        if (
            len(self.case.points) == 1
            or not self.problems
            or any(not each.startswith(_NEVER) for each in self.problems)
        ):
            return ()
        return tuple(Case(self.case.story, self.case.database, (point,)) for point in self.unreached)

    @property
    def was_passed_by(self) -> bool:
        """Whether nothing went wrong but that the last point was reached too late, or not at all."""
        return not self.was_in_recovery and all(problem.startswith(_NEVER) for problem in self.problems)

    def __str__(self) -> str:
        said = "ok" if not self.problems else "FAILED: " + " | ".join(self.problems)
        return f"{self.case}  {self.seconds:.1f}s  {said}"


@dataclass(frozen=True, slots=True)
class Nominal:
    """A story that nobody disturbed."""

    #: Every point it reached, in order.
    points: tuple[str, ...]
    facts: dict[str, Any]
    #: The step in which each point was reached last, as a number from 0.
    last_steps: Mapping[str, int] = field(default_factory=dict)
    #: Points that were reached only while the daemon ended.
    of_the_end: frozenset[str] = frozenset()


def nominal(database: str, server: Server, story: str = "nominal") -> Nominal:
    """Play a story without a crash; return every point it reached, in order, and its end."""
    with _installed(story, database, server) as there:
        there.lingers = LINGER
        there.start()
        end = STORIES[story].play(there)
        lines = _trace(there)
    if wrong := STORIES[story].problems(end):
        raise AssertionError(f"the undisturbed story {story!r} on {database} went wrong: {wrong}")
    return _read(lines, end)


def nominal_all(keys: Iterable[tuple[str, str]], server: Server) -> dict[tuple[str, str], Nominal]:
    """Play stories on databases, several at a time."""
    wanted = list(keys)
    with ThreadPoolExecutor(PARALLEL) as pool:
        played = list(pool.map(lambda key: nominal(key[1], server, key[0]), wanted))
    return dict(zip(wanted, played, strict=True))


def _read(lines: Sequence[str], end: dict[str, Any]) -> Nominal:
    step, last, before_the_end = -1, {}, set()
    is_end = False
    for line in lines:
        if line.startswith("# "):
            step, is_end = step + 1, line == "# stop"
            continue
        last[line] = step
        if not is_end:
            before_the_end.add(line)
    return Nominal(tuple(last), end, last, frozenset(last) - before_the_end)


def crash(case: Case, undisturbed: Nominal, server: Server) -> Outcome:
    """Play a story on a fresh installation, with one daemon after the other killed where the case says."""
    began = time.monotonic()
    recoveries: tuple[frozenset[str], ...] = ()
    unreached = case.points
    try:
        wrong, recoveries, unreached = _crash(case, undisturbed, server)
    except Exception as error:  # noqa: BLE001 - one case that goes wrong is a line of the report
        wrong = [f"{type(error).__name__}: {error}"]
    return Outcome(case, tuple(wrong), time.monotonic() - began, recoveries, unreached)


def _crash(
    case: Case, undisturbed: Nominal, server: Server
) -> tuple[list[str], tuple[frozenset[str], ...], tuple[str, ...]]:
    first, *others = case.points
    with _installed(case.story, case.database, server) as there:
        there.successors = [{"RETRAIN_CRASH": point} for point in others]
        there.patience *= len(case.points)  # all of them may die while one thing is waited for
        there.lingers = None if undisturbed.of_the_end & set(case.points) else LONGEST_LINGER
        there.start(RETRAIN_CRASH=first)
        try:
            end = STORIES[case.story].play(there)
            wrong = STORIES[case.story].problems(end)
            expected = undisturbed.facts
            wrong += [f"{name}: {end[name]} instead of {expected[name]}" for name in end if end[name] != expected[name]]
        except AssertionError as error:
            wrong = [str(error)]
        unreached = case.points[len(there.deaths) :]
        if there.deaths != list(case.points):
            wrong.append(f"{_NEVER}: {', '.join(unreached)}")
        if wrong and (keep := os.environ.get("RETRAIN_KEEP")):
            kept = Path(keep) / f"{case.database}-{case.story}-{'-'.join(case.points)}"
            ignored = shutil.ignore_patterns("*.sock")
            shutil.copytree(there.folder, kept, symlinks=True, ignore=ignored, dirs_exist_ok=True)
        return wrong, recoveries_in(_trace(there)), unreached


def recoveries_in(lines: Sequence[str]) -> tuple[frozenset[str], ...]:
    """Return for each death in a trace what the next daemon reached before the driver began anything new.

    What the driver begins while nobody is there yet belongs to it: the daemon finds both together.
    """
    found: list[set[str]] = []
    is_recovering = False
    for line in lines:
        if line.startswith("! "):
            found.append(set())
            is_recovering = True
        elif line.startswith("# "):
            is_recovering = is_recovering and not found[-1]
        elif is_recovering:
            found[-1].add(line)
    return tuple(map(frozenset, found))


def crash_all(
    cases: Sequence[Case],
    undisturbed: Mapping[tuple[str, str], Nominal],
    server: Server,
    *,
    said: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Try many cases, several at a time."""

    def one(case: Case) -> Outcome:
        return crash(case, undisturbed[case.story, case.database], server)

    outcomes = []
    with ThreadPoolExecutor(PARALLEL) as pool:
        for outcome in pool.map(one, cases):
            said(outcome)
            outcomes.append(outcome)
    return outcomes


# ----------------------------------------------------------------------------------------------------- which cases


def first_runs(undisturbed: Mapping[tuple[str, str], Nominal]) -> list[Case]:
    """Return every point on every database, in the first story that reaches it."""
    cases: dict[tuple[str, str], Case] = {}
    for story in STORIES:
        for (name, database), played in undisturbed.items():
            if name == story:
                for point in played.points:
                    cases.setdefault((database, point), Case(story, database, (point,)))
    return list(cases.values())


def chained(cases: Sequence[Case], undisturbed: Mapping[tuple[str, str], Nominal], *, links: int) -> list[Case]:
    """Return cases that try the points of single ones, up to `links` in one go.

    A daemon that dies at a point can be followed by one that dies at a point that comes later in the story: in the order of the
    steps in which they are reached last, with as many steps between them as there is room for.
    """
    chains = []
    for key in dict.fromkeys((case.story, case.database) for case in cases):
        played = undisturbed[key]
        points = [case.points[0] for case in cases if (case.story, case.database) == key]
        last = {point for point in points if point in played.of_the_end}
        points = sorted(set(points) - last, key=lambda point: (played.last_steps[point], played.points.index(point)))
        rows = -(-len(points) // links)
        chains += [Case(*key, tuple(points[start::rows])) for start in range(rows)]
        chains += [Case(*key, (point,)) for point in sorted(last)]
    return chains


def alternating(cases: Sequence[Case]) -> list[Case]:
    """Return each point once: on one database or the other by turns, as far as both reach it."""
    chosen = []
    by_point: dict[str, list[Case]] = {}
    for case in cases:
        by_point.setdefault(case.points[0], []).append(case)
    for number, choices in enumerate(by_point.values()):
        chosen.append(choices[number % len(choices)])
    return chosen


def recovering(outcomes: Sequence[Outcome], *, choices: int = 1) -> list[list[Case]]:
    """Pair each point that a recovery reaches with first deaths that lead there; no first death is used more than need be.

    `outcomes` are those of single points: each says what the daemon after its death reached. Several choices, the best first, are for
    deaths by a clock: where those fall in the story differs each time, and so does what is left to clear up.
    """
    ways: dict[tuple[str, str], list[Case]] = {}
    for outcome in outcomes:
        if outcome.recoveries and len(outcome.case.points) == 1:
            for point in outcome.recoveries[0]:
                ways.setdefault((outcome.case.database, point), []).append(outcome.case)
    used: dict[Case, int] = {}
    pairs = []
    for (database, point), firsts in sorted(ways.items(), key=lambda way: (len(way[1]), way[0])):
        # A crash at the very same point is the least of surprises.
        best = sorted(firsts, key=lambda case: (case.points[0] == point, used.get(case, 0)))[:choices]
        used[best[0]] = used.get(best[0], 0) + 1
        pairs.append([Case(first.story, database, (*first.points, point)) for first in best])
    return pairs


@contextlib.contextmanager
def _installed(story: str, database: str, server: Server) -> Iterator[Installation]:
    folder = Path(tempfile.mkdtemp(prefix="retrain-crash-"))
    url = None
    if database == "postgresql":
        with _creating:
            url = server().create_database()
    there = STORIES[story].install(folder / "here", url)
    there.trace = folder / "trace"
    try:
        yield there
    finally:
        there.close()
        if url is not None:
            server().drop(url)
        shutil.rmtree(folder, ignore_errors=True)


def _trace(there: Installation) -> list[str]:
    return [] if there.trace is None or not there.trace.exists() else there.trace.read_text().splitlines()


__all__ = [
    "DATABASES",
    "LINGER",
    "STORIES",
    "Case",
    "Nominal",
    "Outcome",
    "alternating",
    "chained",
    "crash",
    "crash_all",
    "facts",
    "first_runs",
    "nominal",
    "nominal_all",
    "recoveries_in",
    "recovering",
]
