"""Makes a failure smaller: leaves out whatever went wrong that the failure does not need."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.simulation.play import Report, Theatre


def shrink(theatre: Theatre, seed: int, say: Callable[[str], None]) -> tuple[Report, frozenset[str]]:
    """Return the report of a seed with as few strikes as still break an invariant, and which were left out.

    First halves, then quarters, and so on down to single strikes, until none can be left out any more.
    """
    without: frozenset[str] = frozenset()
    report = theatre.play(seed)
    if not report.broken:
        return report, without
    size = max(len(report.strikes) // 2, 1)
    while True:
        smaller = _leave_out(theatre, seed, report, without, size)
        if smaller is not None:
            report, without = smaller
            say(f"{len(report.strikes)} strikes still break {report.broken[0].invariant}")
        elif size == 1:
            return report, without
        else:
            size = max(size // 2, 1)


def _leave_out(
    theatre: Theatre, seed: int, report: Report, without: frozenset[str], size: int
) -> tuple[Report, frozenset[str]] | None:
    """Leave out one group of so many strikes without which it still fails."""
    names: Sequence[str] = [strike.place for strike in report.strikes]
    for start in range(0, len(names), size):
        fewer = without | set(names[start : start + size])
        found = theatre.play(seed, without=fewer)
        if found.broken and len(found.strikes) < len(report.strikes):
            return found, fewer
    return None
