"""Three daemons on one PostgreSQL while leaders are killed, the database restarts and answers get lost: nothing lost, nothing twice.

    python tests/campaign/replicas.py --minutes 10 --log docs/campaigns/replicas.txt

Producers post to any replica and repeat each event under its id until it is acknowledged; they keep their own list.
A launcher, a registry and a receiver of messages lose a fifth of their answers (`tests/farside`), and keep a list of starts of their own.
Every half a minute the leader is killed (`kill -9`), stopped for longer than its lease (SIGSTOP) or asked to end (SIGTERM);
every minute PostgreSQL ends at once and starts again.
What a launcher that cannot be searched leaves UNKNOWN, an operator resolves, after a look at the far side.
At the end everything becomes quiet, and the three records are compared.
The same code is a test of two minutes: `tests/acceptance/test_replicas.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import psycopg

from controller.testing import wait_until
from tests import postgres
from tests.acceptance.harness import DaemonGone, Installation
from tests.farside.house import Farside, install

REPLICAS = 3
#: Models whose launcher can be searched, and models whose launcher cannot.
MODELS, BLIND_MODELS = 10, 2
#: What becomes of requests to the far side; the rest is answered.
FATES = {"after": 0.15, "before": 0.03, "late": 0.02}
#: Seconds between disturbances of the leader, and between restarts of PostgreSQL.
DISTURB, RESTART = 30.0, 60.0
#: How many events the others acknowledge before a killed daemon is started again, and before a stopped one goes on.
DOWN, STOPPED = 20, 40
#: Seconds that a hand-over may take: after a kill or a stop, and when it is planned.
HAND_OVER, PLANNED = 20.0, 2.0
#: Seconds within which everything has ended once nothing is disturbed any more.
QUIET = 180.0


@dataclass(slots=True)
class Findings:
    """What was counted, and what is wrong."""

    minutes: float
    changes: int = 0
    launches: int = 0
    acknowledged: int = 0
    missing: int = 0
    twice: int = 0
    runs: int = 0
    not_ended: int = 0
    resolved: int = 0
    restarts: int = 0
    lost_answers: int = 0
    #: Seconds of each hand-over: after a kill or a stop, and planned.
    hand_overs: list[float] = field(default_factory=list)
    planned: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        longest, planned = max(self.hand_overs, default=0.0), max(self.planned, default=0.0)
        said = "nothing lost" if not self.wrong else "FAILED: " + " | ".join(self.wrong)
        return (
            f"{self.minutes:g} min, {self.changes} changes of leader, {self.restarts} restarts of PostgreSQL, "
            f"{self.lost_answers} answers lost; {self.acknowledged} events acknowledged, {self.missing} missing; "
            f"{self.launches} launches, {self.twice} launched twice; {self.runs} runs, {self.not_ended} not ended, "
            f"{self.resolved} resolved by a person; hand-over at most {longest:.1f} s, planned {planned:.1f} s; {said}"
        )


class Site:
    """Three replicas, their database and their far side."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        programs = postgres.find_programs()
        assert programs is not None, "no PostgreSQL server programs found"
        self.random = random.Random(seed)
        self.folder = folder
        self.server = postgres.start(programs)
        self.url = self.server.create_database()
        self.farside = Farside(folder / "farside", seed=seed)
        self._environment = install(folder / "plugins")
        self.replicas = [Installation(folder / f"replica-{number}", self.url) for number in range(1, REPLICAS + 1)]
        #: Replicas that were ended or stopped on purpose.
        self.disturbed: set[int] = set()
        self.producers: list[Producer] = []
        for there in self.replicas:
            there.configure(self._config())
        for there in self.replicas:
            self.start(there)
        for there in self.replicas:
            there.wait_ready()

    def start(self, there: Installation) -> None:
        """Start the daemon of a replica."""
        there.start(**self._environment)

    def close(self) -> None:
        """End everything."""
        for there in self.replicas:
            if there.process is not None and there.process.poll() is None:
                there.process.send_signal(signal.SIGCONT)
            there.close()
        self.farside.stop()
        self.server.stop()

    def rows(self, statement: str) -> list[Any]:
        """Return the rows of a statement; tries again while the database is away."""
        answers: list[list[Any]] = []

        def asked() -> bool:
            with (
                contextlib.suppress(psycopg.OperationalError),
                psycopg.connect(self.url, connect_timeout=5) as connection,
            ):
                answers.append(connection.execute(statement).fetchall())  # type: ignore[arg-type]
            return bool(answers)

        wait_until(asked, timeout=60, pause=0.2, what="the database")
        return answers[0]

    def pass_by(self, events: int) -> None:
        """Wait until producers had so many more events acknowledged."""
        wanted = self.acknowledged() + events
        wait_until(lambda: self.acknowledged() >= wanted, timeout=60, pause=0.05, what=f"{events} acknowledgements")

    def acknowledged(self) -> int:
        """Return how many events were acknowledged by now."""
        return sum(len(producer.acknowledged) for producer in self.producers)

    def refuses(self) -> bool:
        """Say whether every replica that is there says that it is not well."""
        there = [replica for number, replica in enumerate(self.replicas) if number not in self.disturbed]
        with contextlib.suppress(DaemonGone):
            return not any(replica.ready()["ready"] for replica in there)
        return False

    def lease(self) -> tuple[int, str | None]:
        """Return the term, and the state directory of who leads."""
        found = self.rows("SELECT term, owner, replica FROM leader")
        return (found[0][0], found[0][1] if found[0][2] else None) if found else (0, None)

    def leader(self) -> int | None:
        """Return which replica leads."""
        _, owner = self.lease()
        for number, there in enumerate(self.replicas):
            path = there.folder / "state" / "owner"
            if owner is not None and path.exists() and path.read_text().strip() == owner:
                return number
        return None

    def _config(self) -> dict[str, Any]:
        def model(name: str, launcher: str) -> dict[str, Any]:
            return {
                "policies": {"due": {"on": {"type": f"due.{name}"}}},
                "train": {
                    "launcher": launcher,
                    "seconds": 0.5,
                    "candidates": {"a": {}, "b": {}},
                    "timeout": "2m",
                    "retries": {"attempts": 3, "backoff": "1s"},
                },
                "gate": {"require": ["candidate.metrics.auc > 0.6"], "select": {"metric": "auc", "goal": "maximize"}},
                "promote": [{"type": "farside", "url": self.farside.url}],
                "notify": ["people"],
                "keep_artifacts": 1,
            }

        models = {f"m{number}": model(f"m{number}", "farside") for number in range(MODELS)}
        models |= {f"blind{number}": model(f"blind{number}", "farside-blind") for number in range(BLIND_MODELS)}
        return {
            "runs_dir": str(self.folder / "runs"),
            "launchers": {"farside": {"url": self.farside.url}, "farside-blind": {"url": self.farside.url}},
            "notifiers": {
                "people": {"type": "farside", "url": self.farside.url, "group": {"wait": "0s", "repeat": "0s"}}
            },
            "models": models,
        }


class Producer:
    """Posts events to any replica, each until it is acknowledged, and keeps the list."""

    def __init__(self, site: Site, number: int, *, pause: float) -> None:
        self._site, self._name, self._pause = site, f"p{number}", pause
        self._random = random.Random(number)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self.acknowledged: list[str] = []
        self.failure: str | None = None
        self._thread.start()

    def stop(self) -> None:
        """Post the present event to its end, and no more."""
        self._ended.set()
        self._thread.join(90)

    def _run(self) -> None:
        names = [f"m{number}" for number in range(MODELS)] + [f"blind{number}" for number in range(BLIND_MODELS)]
        try:
            while not self._ended.is_set():
                event_id = f"{self._name}-{len(self.acknowledged) + 1}"
                self._insist(event_id, f"due.{self._random.choice(names)}")
                self.acknowledged.append(event_id)
                self._ended.wait(self._random.uniform(0, 2 * self._pause))
        except Exception as error:  # noqa: BLE001 - a producer that dies must show
            self.failure = f"{self._name}: {error!r}"

    def _insist(self, event_id: str, kind: str) -> None:
        event = {"specversion": "1.0", "id": event_id, "source": "/producer", "type": kind}
        wait_until(lambda: self._post(event), timeout=120, pause=0.1, what=f"an answer about {event_id}")

    def _post(self, event: dict[str, str]) -> bool:
        """Offer an event to some replica; return whether it was acknowledged."""
        number = self._random.randrange(REPLICAS)
        if number in self._site.disturbed:
            return False
        with contextlib.suppress(DaemonGone, json.JSONDecodeError):
            there = self._site.replicas[number]
            answer = there.ask("POST", "/v1/events", event, Content_Type="application/cloudevents+json")
            if answer.status >= 300 and answer.status != 503:
                raise RuntimeError(f"{event['id']} was answered {answer}")
            return answer.status < 300
        return False


class Operator:
    """Says what became of jobs that nobody can look up, after a look at the far side."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._since: dict[str, float] = {}
        self.resolved = 0

    def look(self) -> None:
        """Resolve what was UNKNOWN for longer than a late request takes."""
        unknown = self._site.rows(
            "SELECT j.run_id, j.candidate, a.id FROM job j JOIN attempt a ON a.job_id = j.id AND a.number = j.attempt "
            "WHERE j.state = 'UNKNOWN'"
        )
        known = {job["name"]: job for job in self._site.farside.record()["jobs"]} if unknown else {}
        for run_id, candidate, attempt_id in unknown:
            if time.monotonic() - self._since.setdefault(attempt_id, time.monotonic()) < 5:
                continue
            job = known.get(attempt_id)
            body: dict[str, Any] = {"as": "failed", "candidate": candidate, "reason": "the far side has no such job"}
            if job is not None:
                handle = {"key": f"#{job['number']}", "seconds": 0.5}
                body = {"as": "running", "candidate": candidate, "reason": "it is there", "handle": handle}
            self._say(run_id, body, key=f"resolve-{attempt_id}")

    def _say(self, run_id: str, body: dict[str, Any], *, key: str) -> None:
        for number, there in enumerate(self._site.replicas):
            if number in self._site.disturbed:
                continue
            with contextlib.suppress(DaemonGone, json.JSONDecodeError):
                answer = there.ask("POST", f"/v1/runs/{run_id}/resolve", body, Idempotency_Key=key)
                if answer.status < 300:
                    self.resolved += not answer.body.get("duplicate", False)
                if answer.status != 503:
                    return


def campaign(folder: Path, *, minutes: float, seed: int = 0, say: Callable[[str], None] = print) -> Findings:
    """Run it, and return what was found."""
    findings = Findings(minutes=minutes)
    site = Site(folder, seed=seed)
    try:
        _disturb(site, findings, minutes * 60, say)
        return findings
    finally:
        site.close()


def _disturb(site: Site, findings: Findings, seconds: float, say: Callable[[str], None]) -> None:
    first_term, _ = site.lease()
    site.farside.fates(**FATES)
    producers = site.producers = [Producer(site, number, pause=0.4) for number in range(4)]
    operator = Operator(site)
    began = time.monotonic()
    plan = _plan(site, seconds)
    waking = threading.Event()
    for at, what in plan:
        while time.monotonic() - began < at:
            waking.wait(min(2.0, max(0.01, at - (time.monotonic() - began))))
            operator.look()
            _check_alive(site, findings)
        say(f"{time.monotonic() - began:6.1f} s  {what}")
        _ACTS[what](site, findings)
    for producer in producers:
        producer.stop()
    site.farside.fates()
    _settle(site, operator, findings)
    findings.changes = site.lease()[0] - first_term
    findings.resolved = operator.resolved
    _compare(site, findings, producers)


def _plan(site: Site, seconds: float) -> list[tuple[float, str]]:
    """Return what is done when, in seconds from the beginning."""
    acts: list[tuple[float, str]] = []
    kinds = ["kill", "stop", "planned"] if seconds < 300 else ["kill", "stop", "kill", "stop", "planned"]
    at, number = 10.0, 0
    while at < seconds - 5:
        acts.append((at, kinds[number % len(kinds)]))
        number += 1
        at += DISTURB
    at = 25.0
    while at < seconds - 5:
        acts.append((at, "restart"))
        at += RESTART
    return [*sorted(acts), (seconds, "end")]


def _kill(site: Site, findings: Findings) -> None:
    number, there, term = _present(site)
    site.disturbed.add(number)
    began = time.monotonic()
    there.kill()
    findings.hand_overs.append(_wait_for_term(site, term, began))
    site.pass_by(DOWN)
    site.start(there)
    site.disturbed.discard(number)


def _stop(site: Site, findings: Findings) -> None:
    number, there, term = _present(site)
    assert there.process is not None
    site.disturbed.add(number)
    began = time.monotonic()
    there.process.send_signal(signal.SIGSTOP)
    findings.hand_overs.append(_wait_for_term(site, term, began))
    site.pass_by(STOPPED)
    there.process.send_signal(signal.SIGCONT)
    site.disturbed.discard(number)


def _end(site: Site, findings: Findings) -> None:
    number, there, term = _present(site)
    assert there.process is not None
    site.disturbed.add(number)
    began = time.monotonic()
    there.process.terminate()
    findings.planned.append(_wait_for_term(site, term, began))
    if there.process.wait(30) != 0:
        findings.wrong.append(f"a daemon that was asked to end ended with {there.process.returncode}")
    site.start(there)
    site.disturbed.discard(number)


def _restart(site: Site, findings: Findings) -> None:
    site.server.crash()
    wait_until(site.refuses, timeout=30, pause=0.05, what="the replicas to notice that the database is gone")
    site.server.restart()
    findings.restarts += 1


def _nothing(site: Site, findings: Findings) -> None:
    """The disturbances are over."""


_ACTS: dict[str, Callable[[Site, Findings], None]] = {
    "kill": _kill,
    "stop": _stop,
    "planned": _end,
    "restart": _restart,
    "end": _nothing,
}


def _present(site: Site) -> tuple[int, Installation, int]:
    """Return who leads, and its term; waits until somebody does."""
    wait_until(lambda: site.leader() is not None, timeout=60, pause=0.1, what="somebody to lead")
    number = site.leader()
    assert number is not None, "the leader went without being disturbed"
    return number, site.replicas[number], site.lease()[0]


def _wait_for_term(site: Site, term: int, began: float) -> float:
    """Return how many seconds it took until another term began."""

    def has_begun() -> bool:
        now, owner = site.lease()
        return now > term and owner is not None

    wait_until(has_begun, timeout=60, pause=0.05, what=f"somebody to take over from term {term}")
    return time.monotonic() - began


def _check_alive(site: Site, findings: Findings) -> None:
    """A daemon that ends by itself is a finding; its supervisor starts it again."""
    for number, there in enumerate(site.replicas):
        if number not in site.disturbed and there.process is not None and there.process.poll() is not None:
            findings.wrong.append(f"replica {number + 1} ended by itself with {there.process.returncode}")
            site.start(there)


def _settle(site: Site, operator: Operator, findings: Findings) -> None:
    """Wait until nothing is left to do."""
    open_ones = (
        "SELECT (SELECT count(*) FROM event WHERE state = 'PENDING'), (SELECT count(*) FROM run WHERE finished_at IS NULL), "
        "(SELECT count(*) FROM notification WHERE state = 'PENDING')"
    )

    def is_quiet() -> bool:
        operator.look()
        _check_alive(site, findings)
        return not any(site.rows(open_ones)[0])

    try:
        wait_until(is_quiet, timeout=QUIET, pause=0.5)
    except AssertionError:
        findings.wrong.append(f"not quiet after {QUIET:g} s: (events, runs, messages) {site.rows(open_ones)[0]}")


def _compare(site: Site, findings: Findings, producers: Sequence[Producer]) -> None:
    """Compare what was acknowledged, what was started, and what our rows say."""
    acknowledged = {event_id for producer in producers for event_id in producer.acknowledged}
    stored = Counter(row[0] for row in site.rows("SELECT source_id FROM event WHERE source = '/producer'"))
    findings.acknowledged = len(acknowledged)
    findings.missing = len(acknowledged - stored.keys())
    record = site.farside.record()
    findings.lost_answers = sum(count for fate, count in record["fates"].items() if fate != "ok")
    starts = site.farside.starts()
    findings.launches = len(starts)
    twice = [name for name, count in Counter(line["name"] for line in starts).items() if count > 1]
    overlapping = list(_overlaps(record["jobs"]))
    findings.twice = len(twice) + len(overlapping)
    states = Counter(dict(site.rows("SELECT state, count(*) FROM run GROUP BY state")))
    findings.runs = sum(states.values())
    findings.not_ended = site.rows("SELECT count(*) FROM run WHERE finished_at IS NULL")[0][0]
    attempts = {row[0] for row in site.rows("SELECT id FROM attempt")}
    champions = dict(site.rows("SELECT name, champion_id FROM model WHERE champion_id IS NOT NULL"))
    wrong = findings.wrong
    wrong += [producer.failure for producer in producers if producer.failure]
    if findings.missing:
        wrong.append(f"missing: {sorted(acknowledged - stored.keys())[:5]}")
    wrong += [f"event {event_id} is stored {count} times" for event_id, count in stored.items() if count > 1][:5]
    wrong += [f"started twice: {name}" for name in twice[:5]] + overlapping[:5]
    if strangers := {line["name"] for line in starts} - attempts:
        wrong.append(f"started without a row: {sorted(strangers)[:5]}")
    if findings.not_ended:
        wrong.append(f"{findings.not_ended} runs did not end")
    wrong += [
        f"{model}: {record['serves'].get(model)} serves, {champion} is champion"
        for model, champion in champions.items()
        if record["serves"].get(model) != champion
    ]
    wrong += [f"a hand-over took {taken:.1f} s" for taken in findings.hand_overs if taken > HAND_OVER]
    wrong += [f"a planned hand-over took {taken:.1f} s" for taken in findings.planned if taken > PLANNED]


def _overlaps(jobs: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the jobs of our rows of which two were alive at once at the far side."""
    by_job: dict[str, list[dict[str, Any]]] = {}
    for job in jobs:
        by_job.setdefault(job["job_id"], []).append(job)
    for job_id, found in by_job.items():
        found.sort(key=lambda job: job["started"])
        for one, other in pairwise(found):
            if other["started"] < one["ends"]:
                yield f"two alive at once for {job_id}: {one['name']} and {other['name']}"


def main() -> int:
    """Run it; return 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="of the far side's dice; by default another each time")
    parser.add_argument("--log", type=Path, help="append a line about this run")
    parser.add_argument("--keep", action="store_true", help="keep the folder of the installation")
    options = parser.parse_args()
    seed = int(time.time()) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="retrain-replicas-"))
    findings = campaign(folder, minutes=options.minutes, seed=seed)
    line = f"{datetime.now(UTC):%Y-%m-%d %H:%M} seed {seed}: {findings}"
    print(line)
    if options.log is not None:
        options.log.parent.mkdir(parents=True, exist_ok=True)
        with options.log.open("a") as log:
            log.write(f"{line}\n")
    if options.keep or findings.wrong:
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
