"""Many seeds: in processes of their own, with a log that says which were played, so that the next campaign goes on where this one ends.

A line of the log is one range of seeds: `seeds 0-999: 1000 played, 0 failed; 7311 events acknowledged, …`. Failures stand below it, each
with its seed; the seed alone brings it back.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.play import theatre

#: Seeds that one process plays before it reports.
BLOCK = 250
_LINE = re.compile(r"^seeds (\d+)-(\d+): (\d+) played, (\d+) failed; (.*)$")
#: What is counted, and how the log calls it.
WORDS: Mapping[str, str] = {
    "events": "events acknowledged",
    "launches": "launches",
    "promotions": "promotions",
    "leaders": "changes of leader",
    "commits": "commits",
    "crashes": "crashes",
    "pauses": "pauses",
    "lost answers": "answers or requests lost",
    "other": "other disturbances",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """What a range of seeds came to."""

    first: int
    last: int
    counts: Mapping[str, int]
    #: The reports of seeds that failed, as text.
    failures: Sequence[str]

    def line(self) -> str:
        """Return its line in the log."""
        words = ", ".join(f"{self.counts.get(name, 0)} {word}" for name, word in WORDS.items())
        played = self.last - self.first + 1
        return f"seeds {self.first}-{self.last}: {played} played, {len(self.failures)} failed; {words}"


def play_block(first: int, last: int) -> Block:
    """Play a range of seeds."""
    counts: Counter[str] = Counter()
    failures = []
    with theatre() as stage:
        for seed in range(first, last + 1):
            report = stage.play(seed)
            counts.update(_summed(report.counts, [strike.kind for strike in report.strikes]))
            if report.broken:
                failures.append(report.text())
    return Block(first=first, last=last, counts=counts, failures=failures)


def _summed(counts: Mapping[str, int], kinds: Sequence[str]) -> Counter[str]:
    """Return the counts of one seed under the names of the log."""
    found = Counter({name: counts[name] for name in ("events", "launches", "promotions", "leaders", "commits")})
    for kind in kinds:
        if kind in ("crash", "emit crash", "kill", "gone", "reboot"):
            found["crashes"] += 1
        elif kind in ("stop", "emit stop", "linger"):
            found["pauses"] += 1
        elif kind.endswith("lost"):
            found["lost answers"] += 1
        else:
            found["other"] += 1
    return found


def played(log: Path) -> int:
    """Return the first seed that a log does not say was played."""
    if not log.exists():
        return 0
    ranges = [(int(found[1]), int(found[2])) for line in log.read_text().splitlines() if (found := _LINE.match(line))]
    following = 0
    for first, last in sorted(ranges):
        if first > following:
            break
        following = max(following, last + 1)
    return following


def totals(log: Path) -> Counter[str]:
    """Return the sums over a log: `played`, `failed` and everything that is counted."""
    found: Counter[str] = Counter()
    if not log.exists():
        return found
    names = {word: name for name, word in WORDS.items()}
    for line in log.read_text().splitlines():
        if match := _LINE.match(line):
            found["played"] += int(match[3])
            found["failed"] += int(match[4])
            for part in match[5].split(", "):
                number, _, word = part.partition(" ")
                found[names[word]] += int(number)
    return found


def run(first: int, last: int, *, jobs: int) -> Iterator[Block]:
    """Play a range of seeds in so many processes, and give each block when it is done, in order."""
    starts = range(first, last + 1, BLOCK)
    ends = [min(start + BLOCK - 1, last) for start in starts]
    if jobs == 1:
        yield from map(play_block, starts, ends)
        return
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        yield from pool.map(play_block, starts, ends)
