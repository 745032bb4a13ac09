"""One daemon under mixed load for an hour, with a fault a minute: nothing is lost, every run ends, and the process does not grow.

    python tests/campaign/soak.py [--minutes 60] [--every 60] [--ahead 100000] [--database sqlite|postgresql] [--seed N]
                                  [--log FILE] [--plot FILE]

Half of the time anything may happen, also to the process itself: `kill -9`. A process that is new every few minutes tells nothing of
growth, so in the other half nothing kills it: it is stopped for seconds, its database and its jobs are killed, its configuration is
changed and broken, it is flooded. Every ten seconds its memory, descriptors, threads, children and files are measured.

What counts is the last two thirds of that half, when caches and pools are full.
SQLite keeps up to 4 MiB of pages for every connection, so a small database that grows looks like a process that does: a hundred thousand
events are stored before it begins.
Memory may rise there by at most `RISE` of itself, by the middle of the slopes of all pairs of samples (Theil and Sen), so that a burst does
not decide it; the same slope is told for an hour. It is no proof of less than one per cent an hour: half an hour cannot give one.
Descriptors, threads and children end where they began, but for `SPARE`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from controller.api.socketpath import reachable
from controller.store import schema
from tests.acceptance.harness import DaemonGone, Installation
from tests.campaign.ingest_kills import (
    BEARER,
    SETTLE,
    Alerts,
    Batches,
    Files,
    Identity,
    Producer,
    Single,
    Tally,
    identities,
    make_event,
)
from tests.campaign.plot import Curve, draw

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

#: Seconds between two measurements.
SAMPLE = 10.0
#: How much of itself the process may grow by while it is judged, and for how many minutes it must be watched to be judged by that.
RISE, LONG_ENOUGH = 0.05, 9.0
#: Descriptors, threads and children that may come and go.
SPARE = 3
#: The write-ahead log is bounded whatever happens.
LARGEST_WAL = 64 << 20
#: Seconds between two events of a producer, at most: a load that leaves the machine room, and a hundred thousand events an hour.
PAUSES = {"single": 0.2, "batches": 8.0, "alerts": 1.0, "files": 2.0}

_JOB = r"""
echo "$RETRAIN_JOB_ID $RETRAIN_ATTEMPT" >>"$STARTS"
case $RETRAIN_PARAMS in *hangs*) exec sleep 3600 ;; esac
sleep 0.5
echo "$RETRAIN_JOB_ID" >"$RETRAIN_ARTIFACT_DIR/model"
echo '{"metrics": {"auc": 0.8}, "champion_metrics": {"auc": 0.7}, "artifact": "model"}' >"$RETRAIN_RESULT.partial"
mv "$RETRAIN_RESULT.partial" "$RETRAIN_RESULT"
"""


# ----------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The daemon's process at one instant."""

    #: Seconds since the campaign began.
    at: float
    pid: int
    rss: int
    descriptors: int
    threads: int
    children: int
    database: int
    wal: int


def measure(installation: Installation, at: float) -> Sample | None:
    """Look at the present process; None while there is none."""
    process = installation.process
    if process is None or process.poll() is not None:
        return None
    proc = Path("/proc") / str(process.pid)
    try:
        status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
        children = sum(len((task / "children").read_text().split()) for task in (proc / "task").iterdir())
        descriptors = len(list((proc / "fd").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return None
    if "VmRSS" not in status:
        return None  # it is ending just now
    return Sample(
        at=at,
        pid=process.pid,
        rss=int(status["VmRSS"].split()[0]) << 10,
        descriptors=descriptors,
        threads=int(status["Threads"]),
        children=children,
        database=_size(installation.folder / "retrain.db"),
        wal=_size(installation.folder / "retrain.db-wal"),
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """What a process did while it was judged."""

    samples: int
    minutes: float
    #: Bytes at the beginning of it.
    rss: float
    #: Bytes an hour, by the slope of Theil and Sen.
    rss_an_hour: float
    #: Last less first quarter, by the median.
    descriptors: float
    threads: float
    children: float
    wal: int

    def problems(self) -> list[str]:
        """Return what is no longer flat."""
        wrong = []
        risen = self.rss_an_hour * self.minutes / 60
        if self.minutes >= LONG_ENOUGH and risen > RISE * self.rss:
            wrong.append(
                f"memory rose by {risen / 2**20:.1f} MiB from {self.rss / 2**20:.0f} MiB in {self.minutes:.0f} min"
            )
        counts = {"descriptors": self.descriptors, "threads": self.threads, "children": self.children}
        wrong += [f"{name} rose by {count:g}" for name, count in counts.items() if count > SPARE]
        if self.wal > LARGEST_WAL:
            wrong.append(f"the write-ahead log had {self.wal >> 20} MiB")
        return wrong

    def __str__(self) -> str:
        judged = "" if self.minutes >= LONG_ENOUGH else " (too short to judge memory by)"
        return (
            f"{self.samples} samples over {self.minutes:.0f} min{judged}: RSS {self.rss / 2**20:.0f} MiB "
            f"{self.rss_an_hour / self.rss:+.1%}/h, descriptors {self.descriptors:+g}, threads {self.threads:+g}, "
            f"children {self.children:+g}, WAL at most {self.wal / 2**20:.1f} MiB"
        )


def judge(samples: Sequence[Sample]) -> Growth | None:
    """Return how the process of the last sample grew over the last two thirds of its samples; None when they are too few to say."""
    own = [sample for sample in samples if sample.pid == samples[-1].pid]
    own = own[len(own) // 3 :]
    if len(own) < 8:
        return None
    quarter = len(own) // 4
    slopes = [(b.rss - a.rss) / (b.at - a.at) for a, b in itertools.combinations(own, 2) if b.at > a.at]

    def risen(read: Callable[[Sample], int]) -> float:
        return statistics.median(map(read, own[-quarter:])) - statistics.median(map(read, own[:quarter]))

    return Growth(
        samples=len(own),
        minutes=(own[-1].at - own[0].at) / 60,
        rss=statistics.median(sample.rss for sample in own[:quarter]),
        rss_an_hour=statistics.median(slopes) * 3600,
        descriptors=risen(lambda sample: sample.descriptors),
        threads=risen(lambda sample: sample.threads),
        children=risen(lambda sample: sample.children),
        wal=max(sample.wal for sample in own),
    )


# ----------------------------------------------------------------------------------------------------- faults


@dataclass
class Soak:
    """An installation under load, and what is done to it."""

    installation: Installation
    tally: Tally
    choose: random.Random
    server: PostgresServer | None = None
    version: int = 0
    done: Counter[str] = field(default_factory=Counter)
    marks: list[tuple[float, str]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def store_ahead(self, count: int) -> None:
        """Store so many events that no policy wants, before anything is measured."""
        for first in range(0, count, 1000):
            events = [make_event("/ahead", f"{first + each}") | {"type": "noise"} for each in range(1000)]
            self.installation.insist("POST", "/v1/events", events, Content_Type="application/cloudevents-batch+json")
            self.tally.note([("api", event["source"], event["id"]) for event in events])

    def faults(self, *, deadly: bool) -> dict[str, Callable[[], None]]:
        """Return what may happen, by name; without the deadly ones the process lives on."""
        found = {
            "stopped 5 s": self.stop_and_continue,
            "reload": self.reload,
            "broken configuration": self.break_configuration,
            "job killed": self.kill_job,
            "hanging job cancelled": self.cancel_hanging_job,
            "burst": self.burst,
            "slow client": self.slow_client,
        }
        if self.server is not None:
            found["database restarted"] = self.restart_database
        if deadly:
            found["kill -9"] = self.kill
        return found

    def kill(self) -> None:
        """End the daemon as a power cut of the process does, and start it again."""
        self.installation.kill()
        self.installation.start()

    def stop_and_continue(self) -> None:
        """Stop the daemon for five seconds, as a host under pressure does."""
        process = self.installation.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        self.rest(5)
        process.send_signal(signal.SIGCONT)

    def restart_database(self) -> None:
        """End the database with everything it has in work, and start it again."""
        assert self.server is not None
        self.server.crash()
        self.rest(2)
        self.server.restart()

    def reload(self) -> None:
        """Change the configuration, and have it read."""
        self.version += 1
        self.installation.configure(configuration(self.installation, version=self.version))
        self.installation.insist("POST", "/v1/reload")

    def break_configuration(self) -> None:
        """Write one that makes no sense; the old one stays in force until a good one is there."""
        path = self.installation.folder / "retrain.yaml"
        good = path.read_text()
        path.write_text("version: 1\nmodels: [this is no mapping\n")
        answer = self.asked("POST", "/v1/reload")
        assert answer is None or answer >= 400, "a broken configuration was taken"
        path.write_text(good)
        self.installation.insist("POST", "/v1/reload")

    def kill_job(self) -> None:
        """Kill a job, or the shim that watches it."""
        pids = self.installation.job_pids()
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.choose.choice(pids), signal.SIGKILL)

    def cancel_hanging_job(self) -> None:
        """Start a job that never ends, and cancel its run."""
        number = self.done["hanging job cancelled"]
        body = {"reason": "soak", "params": {"mode": "hangs"}}
        self.installation.insist("POST", "/v1/models/hanging/retrain", body, Idempotency_Key=f"hang-{number}")
        run = self.installation.wait(
            lambda: self.open_run("hanging", "TRAINING"), what="the hanging run", seconds=SETTLE
        )
        acts = self.installation.acts("cancel")
        cancelled = lambda: self.installation.acts("cancel") > acts  # noqa: E731
        self.installation.insist("POST", f"/v1/runs/{run.id}/cancel", {"reason": "soak"}, unless=cancelled)

    def burst(self) -> None:
        """Send two thousand events at once."""
        number = self.done["burst"]
        for part in range(10):
            events = [make_event("/burst", f"{number}-{part}-{each}") for each in range(200)]
            kind = "application/cloudevents-batch+json"
            self.installation.insist("POST", "/v1/events", events, Content_Type=kind)
            self.tally.note([("api", event["source"], event["id"]) for event in events])

    def slow_client(self) -> None:
        """Send a request byte by byte, until the server has enough of it or a few seconds have passed."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            with reachable(self.installation.socket) as name:
                client.connect(name)
            for byte in b"POST /v1/events HTTP/1.1\r\nhost":
                client.send(bytes([byte]))
                self.rest(0.3)

    # ------------------------------------------------------------------------------------------------ around them

    def strike(self, *, deadly: bool) -> None:
        """Let one thing happen, and see that the daemon comes back from it."""
        faults = self.faults(deadly=deadly)
        # Each of them about as often as the others, in an order that the seed gives.
        least = min(self.done[name] for name in faults)
        name = self.choose.choice(sorted(name for name in faults if self.done[name] == least))
        self.marks.append((time.monotonic() - self.began, name))
        faults[name]()
        self.done[name] += 1
        self.installation.wait_ready()

    def asked(self, method: str, path: str) -> int | None:
        """Ask once; None when there was no answer."""
        with contextlib.suppress(DaemonGone):
            return self.installation.ask(method, path).status
        return None

    def open_run(self, model: str, state: str) -> Any:
        """Return a run of a model that is in a state."""
        run = schema.run.c
        rows = self.installation.rows(sa.select(run.id).where(run.model == model, run.state == state))
        return rows[0] if rows else None

    def rest(self, seconds: float) -> None:
        """Let real time pass: that is what a fault that lasts is made of."""
        threading.Event().wait(seconds)


def configuration(there: Installation, *, version: int = 0) -> dict[str, Any]:
    """Return an installation with three ways in and models that train, compete and are promoted; each version differs from the last."""
    training = {
        "command": ["/bin/sh", str(there.folder / "job.sh")],
        "env": {"STARTS": str(there.folder / "starts")},
        "retries": {"attempts": 3, "backoff": "1s"},
        "stop_grace": "2s",
    }
    policies = {
        "drift": {"on": {"type": "drift.*", "when": "event.data.share > 0.3"}},
        "alert": {"on": {"source": "alerts", "count": 50 + version % 7, "within": "1h"}},
        "data": {
            "on": {"source": "landing", "count": 20, "within": "1h"},
            "debounce": {"quiet": "2s", "max_wait": "10s"},
        },
    }
    model = {
        "policies": policies,
        "train": {**training, "candidates": {"a": {}, "b": {}}},
        "gate": {"objective": {"metric": "auc"}},
        "promote": [{"type": "alias", "path": "models/churn"}],
        "keep_artifacts": 2,
    }
    hanging = {"policies": {"never": {"on": {"type": "never"}}}, "train": training}
    return {
        "sources": {
            "alerts": {"type": "webhook", "format": "alertmanager", "verify": {"bearer": "file:bearer"}},
            "landing": {"type": "files", "path": "landing", "include": ["*.csv"], "settle": "0s", "scan_every": "10s"},
            "hourly": {"type": "cron", "schedule": "0 * * * *", "catch_up": "last"},
            "share": {"type": "command", "command": ["echo", "0.5"], "every": "5s"},
        },
        "models": {"churn": model, "hanging": hanging},
    }


# ----------------------------------------------------------------------------------------------------- the campaign


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a soak came to."""

    done: Counter[str]
    samples: list[Sample]
    marks: list[tuple[float, str]]
    #: Seconds after which nothing killed the process any more.
    split: float
    acknowledged: int
    runs: int
    growth: Growth | None
    problems: list[str]


def play(
    folder: Path,
    *,
    minutes: float,
    every: float,
    ahead: int,
    seed: int,
    database: str | None,
    server: PostgresServer | None,
) -> Outcome:
    """Let producers send for so long, with a fault every so many seconds; measure, and compare in the end."""
    installation = Installation(folder / "installation", database)
    (installation.folder / "landing").mkdir()
    (installation.folder / "job.sh").write_text(_JOB)
    (installation.folder / "bearer").write_text(BEARER)
    (installation.folder / "bearer").chmod(0o600)
    installation.configure(configuration(installation))
    soak = Soak(installation, Tally(), random.Random(seed), server)
    try:
        installation.start()
        installation.wait_ready()
        soak.store_ahead(ahead)
        soak.began = time.monotonic()
        producers = [kind(installation, soak.tally, seed) for kind in (Single, Batches, Alerts, Files)]
        for producer in producers:
            producer.pause = PAUSES[producer.name]
            producer.start()
        samples: list[Sample] = []
        half = minutes * 30
        disturb(soak, samples, until=half, every=every, deadly=True)
        disturb(soak, samples, until=2 * half, every=every, deadly=False)
        return settle(soak, producers, samples, split=half)
    finally:
        if server is not None and server.process.poll() is not None:
            server.restart()
        installation.close()


def disturb(soak: Soak, samples: list[Sample], *, until: float, every: float, deadly: bool) -> None:
    """Let something happen every so many seconds until an instant of the campaign, measuring meanwhile."""
    stop = threading.Event()

    def measure_on() -> None:
        while not stop.wait(SAMPLE):
            sample = measure(soak.installation, time.monotonic() - soak.began)
            if sample is not None:
                samples.append(sample)

    watcher = threading.Thread(target=measure_on, daemon=True)
    watcher.start()
    try:
        due = time.monotonic() - soak.began + every
        while due < until:
            soak.rest(max(due - (time.monotonic() - soak.began), 0))
            soak.strike(deadly=deadly)
            due = max(due + every, time.monotonic() - soak.began)
        soak.rest(max(until - (time.monotonic() - soak.began), 0))
    finally:
        stop.set()
        watcher.join()


def settle(soak: Soak, producers: Sequence[Producer], samples: list[Sample], *, split: float) -> Outcome:
    """Let everything come to its end, and say what is wrong."""
    installation = soak.installation
    for producer in producers:
        producer.stop()
    run, event = schema.run.c, schema.event.c
    open_runs = sa.select(run.id, run.state).where(run.finished_at.is_(None))
    undecided = sa.select(event.id).where(event.state != "PROCESSED").limit(9)
    wanted = set(soak.tally.acknowledged)

    def is_settled() -> bool:
        done = not installation.rows(open_runs) and not installation.rows(undecided)
        return done and wanted <= set(_stored(installation))

    with contextlib.suppress(AssertionError):  # what is wrong in the end is said below
        installation.wait(is_settled, what="the end of everything", seconds=SETTLE)
    stored = Counter(_stored(installation))
    starts = Counter((installation.folder / "starts").read_text().splitlines())
    growth = judge(samples) if samples else None
    problems = [
        f"{len(lost)} acknowledged events are not stored, such as {min(lost)}"
        for lost in [wanted - set(stored)]
        if lost
    ]
    problems += [
        f"{name} is stored {times} times" for name, times in itertools.islice(stored.items(), 10**9) if times > 1
    ][:3]
    problems += [f"undecided: {row.id}" for row in installation.rows(undecided)]
    problems += [f"run {row.id} is still {row.state}" for row in installation.rows(open_runs)]
    problems += [f"started {times} times: {line}" for line, times in starts.items() if times > 1]
    problems += [f"left running: {pids}" for pids in [installation.job_pids()] if pids]
    problems += ["too few samples to say whether it grows"] if growth is None else growth.problems()
    runs = installation.rows(sa.select(sa.func.count()).select_from(schema.run))[0][0]
    return Outcome(
        done=soak.done,
        samples=samples,
        marks=soak.marks,
        split=split,
        acknowledged=len(wanted),
        runs=runs,
        growth=growth,
        problems=problems,
    )


def _stored(installation: Installation) -> list[Identity]:
    """Return what the producers sent, as it is stored."""
    origins = ("api", "alerts", "landing")
    return [identity for identity in identities(installation) if identity[0] in origins]


def picture(outcome: Outcome, title: str) -> str:
    """Return the measurements as an SVG."""
    mib = 1 / 2**20
    curves = {
        "RSS, MiB": lambda sample: sample.rss * mib,
        "descriptors": lambda sample: sample.descriptors,
        "threads": lambda sample: sample.threads,
        "children": lambda sample: sample.children,
        "database, MiB": lambda sample: sample.database * mib,
        "write-ahead log, MiB": lambda sample: sample.wal * mib,
    }
    drawn = [
        Curve(name=name, points=[(sample.at, read(sample)) for sample in outcome.samples])
        for name, read in curves.items()
    ]
    drawn = [curve for curve in drawn if any(value for _, value in curve.points)]
    return draw(title, drawn, marks=outcome.marks, split=outcome.split)


def main() -> int:
    """Run the campaign; returns 1 when something was lost, did not end, or grew."""
    options = _parse()
    print(f"seed {options.seed}: {options.minutes:g} minutes on {options.database}", flush=True)
    server = database = None
    if options.database == "postgresql":
        from tests import postgres

        programs = postgres.find_programs()
        if programs is None:
            raise SystemExit("PostgreSQL's programs are not on this machine")
        server = postgres.start(programs)
        database = server.create_database()
    try:
        with tempfile.TemporaryDirectory(prefix="retrain-soak-") as name:
            outcome = play(
                Path(name),
                minutes=options.minutes,
                every=options.every,
                ahead=options.ahead,
                seed=options.seed,
                database=database,
                server=server,
            )
    finally:
        if server is not None:
            server.stop()
    faults = ", ".join(f"{count} {name}" for name, count in sorted(outcome.done.items()))
    verdict = "; ".join(outcome.problems) or "nothing lost, every run ended, flat"
    line = (
        f"seed {options.seed}, {options.database}, {options.minutes:g} min: {outcome.done.total()} faults ({faults}), "
        f"{outcome.acknowledged} events acknowledged, {outcome.runs} runs; {outcome.growth}: {verdict}"
    )
    print(line)
    if options.log:
        with Path(options.log).open("a") as log:
            log.write(line + "\n")
    if options.plot:
        Path(options.plot).write_text(picture(outcome, line.partition(", RSS")[0].partition(" (")[0]))
    return int(bool(outcome.problems))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=60, help="seconds between two faults")
    parser.add_argument("--ahead", type=int, default=100_000, help="events that are stored before it begins")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--log", help="append one line of the outcome to this file")
    parser.add_argument("--plot", help="write the measurements to this file, as an SVG")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
