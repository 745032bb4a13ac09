"""Crash points: which there are, and what one pair of a point and a database comes to."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.acceptance.nominal import facts, install, play, problems

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

DATABASES = ("sqlite", "postgresql")
#: Installations at once: they mostly wait for each other's processes.
PARALLEL = max(2, 2 * (os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class Pair:
    """One thing to try: kill the daemon at this point, on this database."""

    point: str
    database: str

    def __str__(self) -> str:
        return f"{self.database:<10} {self.point}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What it came to; no problems means the same end as without a crash."""

    pair: Pair
    problems: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        said = "ok" if not self.problems else "FAILED: " + " | ".join(self.problems)
        return f"{self.pair}  {self.seconds:.1f}s  {said}"


@dataclass(frozen=True, slots=True)
class Nominal:
    """The undisturbed flow on one database."""

    points: tuple[str, ...]
    facts: dict[str, Any]


def nominal(database: str, server: Callable[[], PostgresServer]) -> Nominal:
    """Play the flow without a crash; return every point it reached, in order, and its end."""
    with _installed(database, server) as there:
        trace = there.folder / "trace"
        there.start(RETRAIN_CRASH_TRACE=str(trace))
        end = play(there)
        points = tuple(dict.fromkeys(trace.read_text().splitlines()))
    if wrong := problems(end):
        raise AssertionError(f"the undisturbed flow on {database} went wrong: {wrong}")
    return Nominal(points, end)


def crash(pair: Pair, expected: dict[str, Any], server: Callable[[], PostgresServer]) -> Outcome:
    """Play the flow on a fresh installation, with the daemon killed at the pair's point when it is first reached.

    A point that two threads race for may be passed by: what was not reached is tried again, and fails after three tries.
    """
    began = time.monotonic()
    wrong: list[str] = []
    for _ in range(3):
        try:
            crashed, wrong = _crash_once(pair, expected, server)
        except Exception as error:  # noqa: BLE001 - one pair that goes wrong is a line of the report
            crashed, wrong = True, [f"{type(error).__name__}: {error}"]
        if crashed:
            break
        wrong.append("the point was never reached")
    return Outcome(pair, tuple(wrong), time.monotonic() - began)


def _crash_once(pair: Pair, expected: dict[str, Any], server: Callable[[], PostgresServer]) -> tuple[bool, list[str]]:
    with _installed(pair.database, server) as there:
        there.start(RETRAIN_CRASH=pair.point)
        try:
            end = play(there)
            wrong = problems(end)
            wrong += [f"{name}: {end[name]} instead of {expected[name]}" for name in end if end[name] != expected[name]]
        except AssertionError as error:
            wrong = [str(error)]
        if wrong and (keep := os.environ.get("RETRAIN_KEEP")):
            kept = Path(keep) / f"{pair.database}-{pair.point}"
            ignored = shutil.ignore_patterns("*.sock")
            shutil.copytree(there.folder, kept, symlinks=True, ignore=ignored, dirs_exist_ok=True)
        return there.crashed, wrong


def crash_all(
    pairs: Sequence[Pair],
    expected: dict[str, dict[str, Any]],
    server: Callable[[], PostgresServer],
    *,
    said: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Try many pairs, several at a time."""
    outcomes = []
    with ThreadPoolExecutor(PARALLEL) as pool:
        for outcome in pool.map(lambda pair: crash(pair, expected[pair.database], server), pairs):
            said(outcome)
            outcomes.append(outcome)
    return outcomes


@contextlib.contextmanager
def _installed(database: str, server: Callable[[], PostgresServer]) -> Iterator[Any]:
    folder = Path(tempfile.mkdtemp(prefix="retrain-crash-"))
    url = server().create_database() if database == "postgresql" else None
    there = install(folder / "here", url)
    try:
        yield there
    finally:
        there.close()
        if url is not None:
            server().drop(url)
        shutil.rmtree(folder, ignore_errors=True)


__all__ = ["DATABASES", "Nominal", "Outcome", "Pair", "crash", "crash_all", "facts", "nominal"]
