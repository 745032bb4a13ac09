"""Kills the daemon and the broker at random while producers send by every way in, and compares what was acknowledged with what is stored.

    python tests/campaign/ingest_kills.py [--kills 50] [--restarts 5] [--database sqlite|postgresql] [--seed N] [--log FILE]

Each producer has a way in of its own: single CloudEvents, batches of them, an Alertmanager's webhook, Kafka, files in a folder. It sends an
event until it is acknowledged (2xx; the broker's own acknowledgement; the rename into the folder), logs that, and sends some again, as
producers do that did not hear the answer. In the end the stored events must be the acknowledged ones, each once, and all of them decided.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from controller.api.socketpath import reachable
from controller.store import schema
from tests import kafka
from tests.acceptance.harness import Installation

BEARER = "a-token-of-the-campaign"
TOPIC = "ml.events"
#: How often an acknowledged event is sent again.
AGAIN = 0.3
#: How long everything that was acknowledged may take to be stored and decided once nobody disturbs.
SETTLE = 120.0
#: At most so many acknowledgements lie between two disturbances, and come in while the broker is gone.
MOST_BETWEEN, MOST_WITHOUT_BROKER = 1_500, 500

#: What an event is recognised by, all the way: (origin, source, id).
Identity = tuple[str, str, str]


@dataclass
class Tally:
    """What producers know."""

    acknowledged: list[Identity] = field(default_factory=list)
    #: Events sent, also those sent again.
    sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, identities: list[Identity]) -> None:
        """Log an acknowledgement."""
        with self.lock:
            self.acknowledged += identities


class Producer(ABC):
    """A thread that sends events by one way in until it is told to stop; what it began it brings to its end."""

    name = ""
    #: Seconds between two events, at most.
    pause = 0.02

    def __init__(self, installation: Installation, tally: Tally, seed: int) -> None:
        self._installation = installation
        self._tally = tally
        self._choose = random.Random(f"{seed}-{self.name}")
        self._stop = threading.Event()
        self._number = 0
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to stop with the event at hand acknowledged, and wait for that."""
        self._stop.set()
        self._thread.join(SETTLE)
        if self._thread.is_alive():
            raise AssertionError(f"producer {self.name} still waits for an acknowledgement")
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._number += 1
                self._send_until_acknowledged(self._number)
                self._stop.wait(self._choose.uniform(0, self.pause))
        except BaseException as error:  # noqa: BLE001 - raised again by whoever stops it
            self.failure = error

    def _send_until_acknowledged(self, number: int) -> None:
        times = 2 if self._choose.random() < AGAIN else 1

        def acknowledged() -> bool:
            nonlocal times
            while times:
                self._tally.sent += 1
                identities = self._send(number)
                if not identities:
                    return False
                self._tally.note(identities)
                times -= 1
            return True

        self._installation.wait(
            acknowledged, what=f"an acknowledgement of event {number} to {self.name}", seconds=SETTLE
        )

    @abstractmethod
    def _send(self, number: int) -> list[Identity]:
        """Send once and return what was acknowledged; nothing when there was no acknowledgement."""

    def _post(self, path: str, body: Any, **headers: str) -> bool:
        """Post to the daemon's socket and return whether it took it; anything but an answer or a 503 is an error."""
        connection = http.client.HTTPConnection("localhost", timeout=10)
        try:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(10)
            with reachable(self._installation.socket) as name:
                connection.sock.connect(name)
            connection.request("POST", path, json.dumps(body), {k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        if answer.status == 503:
            return False
        assert answer.status in (200, 202), (answer.status, text)
        return True


class Single(Producer):
    """One CloudEvent a request."""

    name = "single"

    def _send(self, number: int) -> list[Identity]:
        event = make_event(f"/{self.name}", f"{number}")
        taken = self._post("/v1/events", event, content_type="application/cloudevents+json")
        return [("api", event["source"], event["id"])] if taken else []


class Batches(Producer):
    """Batches of CloudEvents, overlapping with the batch before."""

    name = "batches"

    def _send(self, number: int) -> list[Identity]:
        events = [make_event(f"/{self.name}", f"{number * 15 + each}") for each in range(20)]
        taken = self._post("/v1/events", events, content_type="application/cloudevents-batch+json")
        return [("api", event["source"], event["id"]) for event in events] if taken else []


class Alerts(Producer):
    """Notifications as Alertmanager sends them, of two alerts each, one of which was in the notification before."""

    name = "alerts"

    def _send(self, number: int) -> list[Identity]:
        alerts = [make_alert(number), make_alert(number - 1)]
        message = {
            "version": "4",
            "groupKey": '{}:{alertname="Drift"}',
            "truncatedAlerts": 0,
            "status": "firing",
            "receiver": "retrain",
            "groupLabels": {"alertname": "Drift"},
            "commonLabels": {},
            "commonAnnotations": {},
            "externalURL": "http://alertmanager",
            "alerts": alerts,
        }
        taken = self._post("/hooks/alerts", message, content_type="application/json", authorization=f"Bearer {BEARER}")
        return [("alerts", "", alert["fingerprint"]) for alert in alerts] if taken else []


class Stream(Producer):
    """CloudEvents on Kafka; acknowledged when the broker says so."""

    name = "stream"

    def __init__(self, installation: Installation, tally: Tally, seed: int, *, bootstrap: str) -> None:
        super().__init__(installation, tally, seed)
        self._bootstrap = bootstrap

    def _run(self) -> None:
        from confluent_kafka import Producer as Client

        self._client = Client(
            {
                "bootstrap.servers": self._bootstrap,
                "acks": "all",
                "linger.ms": 5,
                "message.timeout.ms": int(SETTLE * 1000),
                "reconnect.backoff.max.ms": 500,
                "log_level": 2,  # a broker that is killed is what this is about
            }
        )
        super()._run()

    def _send(self, number: int) -> list[Identity]:
        event = make_event(f"/{self.name}", f"{number}")
        identity = ("bus", event["source"], event["id"])
        done: list[object] = []
        self._client.produce(
            TOPIC,
            json.dumps(event).encode(),
            key=f"{number % 7}".encode(),
            headers={"content-type": b"application/cloudevents+json"},
            callback=lambda error, _: done.append(error),
        )
        while not done:
            self._client.poll(0.05)
        return [identity] if done[0] is None else []


class Files(Producer):
    """Files that are renamed into a folder."""

    name = "files"

    def _send(self, number: int) -> list[Identity]:
        landing = self._installation.folder / "landing"
        partial, path = landing / f".{number}.csv", landing / f"{number}.csv"
        partial.write_text(f"row\n{number}\n")
        partial.replace(path)
        return [("landing", "", f"{number}.csv")]


def make_event(source: str, id_: str) -> dict[str, Any]:
    """Return a CloudEvent; some of them fire."""
    return {
        "specversion": "1.0",
        "id": id_,
        "source": source,
        "type": "drift.found",
        "subject": "churn",
        "data": {"share": 0.9 if id_.endswith("00") else 0.1},
    }


def make_alert(number: int) -> dict[str, Any]:
    """Return an alert that fires."""
    return {
        "status": "firing",
        "labels": {"alertname": "Drift", "model": "churn", "number": str(number)},
        "annotations": {},
        "startsAt": "2026-01-01T00:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "",
        "fingerprint": f"{number:016x}",
    }


@dataclass(frozen=True)
class Outcome:
    """What a campaign came to."""

    kills: int
    restarts: int
    sent: int
    acknowledged: int
    stored: int
    problems: list[str]


def play(
    folder: Path,
    *,
    kills: int,
    restarts: int,
    seed: int,
    database: str | None = None,
    client: str = "kafka-python",
) -> Outcome:
    """Let producers send while the daemon is killed `kills` times and the broker `restarts` times, at random."""
    choose = random.Random(seed)
    installation = Installation(folder / "installation", database)
    (installation.folder / "landing").mkdir()
    broker = kafka.start()
    try:
        broker.create_topic(TOPIC, partitions=3)
        installation.configure(configuration(broker.address(), client))
        (installation.folder / "bearer").write_text(BEARER)
        (installation.folder / "bearer").chmod(0o600)
        installation.start()
        installation.wait_ready()
        tally = Tally()
        producers = [kind(installation, tally, seed) for kind in (Single, Batches, Alerts, Files)]
        producers.append(Stream(installation, tally, seed, bootstrap=broker.address()))
        for producer in producers:
            producer.start()
        disturb(installation, broker, tally, choose, kills=kills, restarts=restarts)
        for producer in producers:
            producer.stop()
        outcome = settle(installation, tally, kills=kills, restarts=restarts)
        if outcome.problems and (kept := os.environ.get("RETRAIN_KEEP")):
            keep_evidence(installation, Path(kept) / f"ingest-{seed}")
        return outcome
    finally:
        installation.close()
        broker.stop()


def keep_evidence(installation: Installation, folder: Path) -> None:
    """Copy what a campaign that went wrong left behind, with what the daemon says of its sources and where its threads are."""
    said = [installation.ask("GET", f"/v1/sources/{name}").body for name in ("bus", "alerts", "landing")]
    if installation.process is not None:
        installation.process.send_signal(signal.SIGUSR1)
        # The daemon's threads, as `faulthandler` writes them.
        installation.wait(lambda: "(most recent call first)" in installation.log(), what="the daemon's threads")
    shutil.copytree(installation.folder, folder, ignore=shutil.ignore_patterns("landing", "*.sock"))
    (folder / "sources.json").write_text(json.dumps(said, indent=1))


def disturb(
    installation: Installation, broker: Any, tally: Tally, choose: random.Random, *, kills: int, restarts: int
) -> None:
    """Kill the daemon and the broker at random moments, in random order, and start them again.

    A moment is so many acknowledgements later: none (the daemon is only starting), the first one, or somewhere under load.
    """

    def pass_by(count: int) -> None:
        wanted = len(tally.acknowledged) + count

        def have_passed() -> bool:
            installation.keep_running()
            return len(tally.acknowledged) >= wanted

        installation.wait(have_passed, what=f"{count} more acknowledgements", seconds=SETTLE)

    acts = ["daemon"] * kills + ["broker"] * restarts
    choose.shuffle(acts)
    for act in acts:
        pass_by(choose.choice((0, 1, choose.randrange(MOST_BETWEEN))))
        if act == "daemon":
            installation.kill()
            installation.start()
        else:
            broker.kill()
            pass_by(choose.randrange(MOST_WITHOUT_BROKER))
            broker.restart()
    installation.wait_ready()


def settle(installation: Installation, tally: Tally, *, kills: int, restarts: int) -> Outcome:
    """Wait until all that was acknowledged is stored and decided, and compare."""
    wanted = set(tally.acknowledged)

    def is_settled() -> bool:
        installation.keep_running()
        event = schema.event
        undecided = installation.rows(sa.select(event.c.id).where(event.c.state != "PROCESSED").limit(1))
        (stored,) = installation.rows(sa.select(sa.func.count().label("events")).select_from(event))
        return not undecided and stored.events >= len(wanted) and wanted <= set(identities(installation))

    with contextlib.suppress(AssertionError):  # what is wrong in the end is said below, event by event
        installation.wait(is_settled, what="every event to be stored and decided", seconds=SETTLE)
    stored = identities(installation)
    counted = Counter(stored)
    problems = []
    if missing := wanted - set(counted):
        problems.append(f"{len(missing)} acknowledged events are not stored, such as {min(missing)}")
    if more := set(counted) - wanted:
        problems.append(f"{len(more)} stored events were never acknowledged, such as {min(more)}")
    if twice := [identity for identity, times in counted.items() if times > 1]:
        problems.append(f"{len(twice)} events are stored more than once, such as {min(twice)}")
    if undecided := installation.rows(sa.select(schema.event.c.id).where(schema.event.c.state != "PROCESSED").limit(9)):
        problems.append(f"undecided: {[row.id for row in undecided]}")
    if dead := installation.rows(sa.select(schema.dead_letter.c.id, schema.dead_letter.c.reason).limit(9)):
        problems.append(f"dead letters: {[tuple(row) for row in dead]}")
    return Outcome(kills, restarts, tally.sent, len(wanted), len(stored), problems)


def identities(installation: Installation) -> list[Identity]:
    """Return what is stored, as the producers name it."""
    event = schema.event.c
    rows = installation.rows(sa.select(event.origin, event.source, event.source_id, event.subject, event.data))
    return [_as_sent(row) for row in rows]


def _as_sent(row: Any) -> Identity:
    if row.origin == "alerts":
        return ("alerts", "", f"{int(row.data['labels']['number']):016x}")
    if row.origin == "landing":
        return ("landing", "", row.subject)
    return (row.origin, row.source, row.source_id)


def configuration(bootstrap: str, client: str) -> dict[str, Any]:
    """Return an installation with every way in, and policies that are busy with all of them."""
    leaves = {
        "drift": {"type": "drift.*", "when": "event.data.share > 0.3"},
        "alert": {"source": "alerts", "count": 50, "within": "1h"},
        "data": {"source": "landing", "count": 100, "within": "1h"},
    }
    return {
        "sources": {
            "bus": {
                "type": "kafka",
                "bootstrap_servers": [bootstrap],
                "topics": [TOPIC],
                "group_id": "campaign",
                "session_timeout": "6s",
                **({"client": "confluent", "instance_id": "campaign"} if client == "confluent" else {}),
            },
            "alerts": {"type": "webhook", "format": "alertmanager", "verify": {"bearer": "file:bearer"}},
            "landing": {"type": "files", "path": "landing", "include": ["*.csv"], "settle": "0s"},
        },
        "models": {
            "churn": {
                "policies": {name: {"on": leaf} for name, leaf in leaves.items()},
                "train": {"command": ["sleep", "600"]},
            }
        },
    }


def main() -> int:
    """Run the campaign; returns 1 when an event was lost, doubled or invented."""
    options = _parse()
    print(f"seed {options.seed}: {options.kills} kills, {options.restarts} restarts of the broker", flush=True)
    with tempfile.TemporaryDirectory(prefix="retrain-campaign-") as name:
        database = None
        server = None
        if options.database == "postgresql":
            from tests import postgres

            programs = postgres.find_programs()
            if programs is None:
                raise SystemExit("PostgreSQL's programs are not on this machine")
            server = postgres.start(programs)
            database = server.create_database()
        try:
            began = time.monotonic()
            outcome = play(
                Path(name),
                kills=options.kills,
                restarts=options.restarts,
                seed=options.seed,
                database=database,
                client=options.client,
            )
        finally:
            if server is not None:
                server.stop()
    verdict = "stored = acknowledged, each once, all decided" if not outcome.problems else "; ".join(outcome.problems)
    line = (
        f"seed {options.seed}, {options.database}, {options.client}: {outcome.kills} kills of the daemon, "
        f"{outcome.restarts} of the broker, "
        f"{outcome.sent} sendings, {outcome.acknowledged} events acknowledged, {outcome.stored} stored, "
        f"{time.monotonic() - began:.0f} s: {verdict}"
    )
    print(line)
    if options.log:
        with Path(options.log).open("a") as log:
            log.write(line + "\n")
    return int(bool(outcome.problems))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--client", choices=["kafka-python", "confluent"], default="kafka-python")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--log", help="append one line of the outcome to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
