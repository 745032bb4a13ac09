"""How long a folder of very many known files takes to be scanned again, beside the floor of this machine.

The tree lies in a temporary folder: empty files, a thousand in each directory. It is made known to the real file source over a real store,
and then scanned again by a process of its own, twice: as after a restart, where the ledger is read first, and once more with it in memory.
The floor is a bare walk over the same tree with `os.scandir` and `os.stat`, in the same process. Meanwhile another thread of that process
wants to run every 10 ms; its longest delay is what other loops would feel. RSS growth is counted from after the floor.
Beside it: 20,000 new files of 1 kB, read, digested and stored.

    python benchmarks/rescan.py [--files 1000000] [--new 20000] [--folder DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from controller.clock import Ids, SystemClock, system_random
from controller.core.model import Json, Receipt
from controller.ports import Batch, SourceContext
from controller.sources.files import FileOptions, FileSource
from controller.store import Store
from controller.testing import RecordingLog

PER_FOLDER = 1_000
#: The goals.
SECONDS, RSS_GROWTH_MB = 60, 300
_TICK_SECONDS = 0.01


def main() -> int:
    """Run the benchmark and print its figures."""
    options = _parse()
    if options.step:
        print(json.dumps(STEPS[options.step](Path(options.folder), options.files)))
        return 0
    with tempfile.TemporaryDirectory(prefix="retrain-rescan-", dir=options.folder) as name:
        folder = Path(name)
        report: dict[str, Any] = {"machine": platform.platform(), "cores": os.cpu_count(), "files": options.files}
        print(f"making {options.files:,} files", flush=True)
        make_tree(folder / "known", options.files, b"")
        make_tree(folder / "new", options.new, b"x" * 1_000)
        for step, count in (("arrive", options.new), ("learn", options.files), ("rescan", options.files)):
            print(f"{step}: {count:,} files", flush=True)
            report[step] = in_a_process(step, folder, count)
            print(json.dumps(report[step], indent=1), flush=True)
        show(report)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000, help="known files")
    parser.add_argument("--new", type=int, default=20_000, help="new files")
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument("--json", help="where the figures go")
    parser.add_argument("--step", choices=sorted(STEPS), help=argparse.SUPPRESS)
    return parser.parse_args()


def make_tree(root: Path, count: int, content: bytes) -> None:
    """Make so many files."""
    for start in range(0, count, PER_FOLDER):
        folder = root / f"day={start // PER_FOLDER:05}"
        folder.mkdir(parents=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for number in range(start, min(start + PER_FOLDER, count)):
            file = os.open(f"part-{number:08}.csv", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=descriptor)
            if content:
                os.write(file, content)
            os.close(file)
        os.close(descriptor)


def in_a_process(step: str, folder: Path, count: int) -> Any:
    """Take a step in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder), "--files", str(count)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


# ---------------------------------------------------------------------------------------------------- the steps


def arrive(folder: Path, count: int) -> Mapping[str, Any]:
    """Read, digest and store new files."""
    with make_source(folder, "new") as (source, _):
        seconds, emitted = timed(source.scan)
    return {"files": count, "events": emitted, "seconds": seconds, "files_per_second": round(count / seconds)}


def learn(folder: Path, count: int) -> Mapping[str, Any]:
    """Make the tree known, without events."""
    with make_source(folder, "known") as (source, _):
        seconds = 0.0
        while source.report()["known"] < count:
            took, _ = timed(source.scan)
            seconds += took
    return {"files": count, "seconds": seconds, "files_per_second": round(count / seconds)}


def rescan(folder: Path, count: int) -> Mapping[str, Any]:
    """Scan what is known, after a restart and once more."""
    floor, walked = timed(lambda: walk(folder / "known"))
    assert walked == count, (walked, count)
    with make_source(folder, "known") as (source, batches):
        before = rss_mb()
        report: dict[str, Any] = {"files": count, "floor_seconds": floor, "rss_before_mb": before}
        for name in ("restarted", "again"):
            with ticking() as stalls, sampling() as sizes:
                seconds, emitted = timed(source.scan)
            report[name] = {
                "seconds": seconds,
                "times_the_floor": round(seconds / floor, 1),
                "rss_growth_mb": round(max(sizes) - before),
                "longest_stall_ms": round(max(stalls) * 1000),
                "stalls_over_50_ms": sum(stall > 0.05 for stall in stalls),
                "ticks": len(stalls),
            }
            assert (emitted, batches) == (0, []), (emitted, len(batches))
        assert source.report()["known"] == count
        report["rss_after_mb"] = rss_mb()
        report["rss_highest_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return report


STEPS: Mapping[str, Callable[[Path, int], Mapping[str, Any]]] = {"arrive": arrive, "learn": learn, "rescan": rescan}


def walk(root: Path) -> int:
    """Look at everything once, and do nothing with it."""
    folders, count = [str(root)], 0
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    entry.stat(follow_symlinks=False)
                    count += 1
    return count


# ------------------------------------------------------------------------------------------------- what it stands on


@contextmanager
def make_source(folder: Path, name: str) -> Iterator[tuple[FileSource, list[int]]]:
    """A file source over a store on disk, and the sizes of what it stored."""
    clock = SystemClock()
    store = Store.open(f"sqlite:///{folder}/{name}.db", base=folder, clock=clock, ids=Ids(clock, system_random()))
    store.upgrade()
    batches: list[int] = []

    def emit(batch: Batch) -> Sequence[Receipt]:
        with store.transaction("inbox", fenced=False) as tx:
            receipts = tx.events.add(name, batch.events) if batch.events else []
            tx.events.remember(name, batch.ledger)
        batches.append(len(batch.ledger))
        return receipts

    def recall(prefix: str) -> Mapping[str, Json]:
        with store.reading() as tx:
            return tx.events.recall(name, prefix)

    context = SourceContext(
        name=name,
        base=folder,
        clock=clock,
        random=system_random(),
        log=RecordingLog(),
        emit=emit,
        recall=recall,
        complain=lambda *_: None,
        note=lambda *_: None,
    )
    is_known = name == "known"
    options = FileOptions(
        path=name,
        recursive=True,
        settle="0s",  # type: ignore[arg-type]
        digest=not is_known,
        on_start="ignore" if is_known else "backfill",
    )
    try:
        yield FileSource(options, context), batches
    finally:
        store.close()


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many seconds something took, and what it returned."""
    began = time.perf_counter()
    answer = action()
    return round(time.perf_counter() - began, 3), answer


def rss_mb() -> float:
    """Return the memory this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@contextmanager
def ticking() -> Iterator[list[float]]:
    """How much too late a thread runs that wants to run every 10 ms."""
    late, stop = [0.0], threading.Event()

    def tick() -> None:
        while not stop.is_set():
            began = time.perf_counter()
            time.sleep(_TICK_SECONDS)
            late.append(time.perf_counter() - began - _TICK_SECONDS)

    with _running(tick, stop):
        yield late


@contextmanager
def sampling() -> Iterator[list[float]]:
    """The memory of this process, ten times a second."""
    sizes, stop = [rss_mb()], threading.Event()

    def sample() -> None:
        while not stop.wait(0.1):
            sizes.append(rss_mb())

    with _running(sample, stop):
        yield sizes


@contextmanager
def _running(action: Callable[[], None], stop: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def show(report: Mapping[str, Any]) -> None:
    """Print the figures beside what is asked for."""
    rescanned = report["rescan"]
    print(f"\n{report['machine']}, {report['cores']} cores")
    print(f"{report['arrive']['files']:,} new files: {report['arrive']['seconds']:.1f} s (asked: {SECONDS})")
    print(f"{report['files']:,} known files; a bare walk: {rescanned['floor_seconds']:.1f} s")
    for name in ("restarted", "again"):
        each = rescanned[name]
        print(
            f"  {name:10} {each['seconds']:6.1f} s (asked: {SECONDS}), {each['times_the_floor']} x the floor, "
            f"RSS +{each['rss_growth_mb']} MB (asked: {RSS_GROWTH_MB}), "
            f"another thread late by {each['longest_stall_ms']} ms at most, {each['stalls_over_50_ms']} times over 50 ms"
        )


if __name__ == "__main__":
    sys.exit(main())
