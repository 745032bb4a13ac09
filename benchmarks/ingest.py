"""How many events a second become durable and are decided, by HTTP and from Kafka, beside the floor of this machine.

Twenty policies, each event matches one of them by its type and is judged by its `when`; one in a hundred fires (and is merged into a
queued run, as behind a training that takes long). Counted is what was stored *and* decided; the load runs on the same cores.

- HTTP: wrk over 32 connections, one event a request or CloudEvents batches of 100, for some seconds; the clock stops when the last stored
  event is decided. Floor: the same requests to a bare server (same parser, same loop) that inserts the body into SQLite with one commit
  for all that wait, and then answers.
- Acknowledgement: one event every 5 ms (200 a second) from one paced client.
- Kafka: a backlog that was produced before the daemon starts. Floor: the same client library, polling the same backlog and nothing else.

    python benchmarks/ingest.py [--only http,ack,kafka] [--database sqlite|postgresql|both] [--backlog 200000] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from latency import (
    PATIENCE,
    UnixConnection,
    cpu_seconds,
    daemon,
    database_url,
    machine,
    percentile,
)

POLICIES = 20
CONNECTIONS = 32


def main() -> int:
    """Run the parts that were asked for, and print what they found."""
    options = _parse()
    report: dict[str, Any] = {"machine": machine()}
    databases = ["sqlite", "postgresql"] if options.database == "both" else [options.database]
    with tempfile.TemporaryDirectory(prefix="retrain-ingest-") as name:
        folder = Path(name)
        if "http" in options.only:
            for batch in (1, 100):
                floor = http_floor(folder, batch, options.seconds)
                show(f"floor: bare durable endpoint, {batch} events a request", floor)
                report[f"http floor {batch}"] = floor
                for database in databases:
                    found = http(folder, database, batch, options.seconds)
                    show(f"http, {batch} events a request, {database}", found, floor)
                    report[f"http {batch} {database}"] = found
        if "ack" in options.only:
            for database in databases:
                report[f"ack {database}"] = found = acknowledgement(folder, database)
                show(f"acknowledgement at 200/s, {database}", found)
        if "kafka" in options.only:
            report |= kafka(folder, databases, options.backlog, options.clients)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    return 0


# ------------------------------------------------------------------------------------------------------------ http


def http(folder: Path, database: str, batch: int, seconds: int) -> dict[str, float]:
    """Return what the daemon does under wrk."""
    with installation(folder, database) as (control, port, where):
        token = make_token(control)
        began = time.monotonic()
        found = wrk(f"http://127.0.0.1:{port}/v1/events", batch, seconds, token)
        loaded = time.monotonic() - began
        stored = found.pop("requests") * batch
        decided = wait_decided(control, int(stored))
        return {
            **found,
            "events": stored,
            "stored_a_second": stored / loaded,
            "decided_a_second": stored / (loaded + decided),
            "seconds_behind": decided,
            **usage(where),
        }


def http_floor(folder: Path, batch: int, seconds: int) -> dict[str, float]:
    """Return what a bare durable endpoint does under the same load."""
    port = free_port()
    where = folder / f"floor-{batch}"
    where.mkdir()
    process = subprocess.Popen([sys.executable, __file__, "--bare-durable", str(port), str(where)])
    try:
        wait_for_port(port)
        began = time.monotonic()
        found = wrk(f"http://127.0.0.1:{port}/", batch, seconds, "x")
        stored = found.pop("requests") * batch
        return {**found, "events": stored, "stored_a_second": stored / (time.monotonic() - began)}
    finally:
        process.terminate()
        process.wait(10)


def wrk(url: str, batch: int, seconds: int, token: str) -> dict[str, float]:
    """Run wrk and return what it counted."""
    environment = {**os.environ, "BATCH": str(batch), "RUN": f"{time.monotonic_ns():x}"}
    command = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds}s", "--latency", "-s", str(HERE / "post.lua")]
    command += ["-H", f"Authorization: Bearer {token}", url]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("REPORT"))
    requests, _, errors, p50, p99 = map(float, line.split()[1:])
    return {"requests": requests - errors, "errors": errors, "p50_ms": p50 / 1000, "p99_ms": p99 / 1000}


def serve_bare(port: int, folder: Path) -> None:
    """Insert every body into SQLite, one commit for all that wait, and answer 202."""
    import uvicorn

    from controller.store.dialect import sqlite_module

    waiting: list[tuple[bytes, asyncio.Future[None]]] = []
    rang = threading.Event()

    def write() -> None:
        file = sqlite_module().connect(folder / "floor.db", isolation_level=None)
        file.execute("PRAGMA journal_mode=WAL")
        file.execute("PRAGMA synchronous=FULL")
        file.execute("CREATE TABLE floor (id INTEGER PRIMARY KEY, body BLOB)")
        while True:
            rang.wait()
            rang.clear()
            group, waiting[:] = list(waiting), []
            if not group:
                continue
            file.execute("BEGIN IMMEDIATE")
            file.executemany("INSERT INTO floor (body) VALUES (?)", [(body,) for body, _ in group])
            file.execute("COMMIT")
            loop.call_soon_threadsafe(lambda done=group: [each.set_result(None) for _, each in done])

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        future: asyncio.Future[None] = loop.create_future()
        waiting.append((body, future))
        rang.set()
        await future
        await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(
        application, port=port, http="httptools", loop="asyncio", lifespan="off", log_level="error", access_log=False
    )
    loop = asyncio.new_event_loop()
    threading.Thread(target=write, daemon=True).start()
    loop.run_until_complete(uvicorn.Server(config).serve())


def acknowledgement(folder: Path, database: str, *, events: int = 4000, a_second: int = 200) -> dict[str, float]:
    """Return how long an acknowledgement takes for a client that posts at a steady pace."""
    import http.client

    with installation(folder, database) as (control, port, where):
        token = make_token(control)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        headers = {"Content-Type": "application/cloudevents+json", "Authorization": f"Bearer {token}"}
        took = []
        next_at = time.monotonic()
        for number in range(events):
            next_at += 1 / a_second
            time.sleep(max(next_at - time.monotonic(), 0))
            began = time.perf_counter()
            connection.request("POST", "/v1/events", json.dumps(event(number)).encode(), headers)
            answer = connection.getresponse()
            answer.read()
            took.append((time.perf_counter() - began) * 1000)
            if answer.status != 202:
                raise SystemExit(f"the daemon answered {answer.status}")
        return {
            "events": events,
            **{f"p{int(share * 100)}_ms": percentile(took, share) for share in (0.5, 0.95, 0.99)},
            "max_ms": max(took),
            **usage(where),
        }


# ----------------------------------------------------------------------------------------------------------- kafka


def kafka(folder: Path, databases: list[str], backlog: int, clients: list[str]) -> dict[str, Any]:
    """Return how fast a backlog drains, for each client and database."""
    from tests import kafka as real

    report: dict[str, Any] = {}
    with kafka_broker(real) as broker:
        broker.create_topic("bench")
        produce(broker.address(), "bench", backlog)
        for client in clients:
            floor = poll_only(client, broker.address(), backlog)
            show(f"floor: {client} polling alone", floor)
            report[f"kafka floor {client}"] = floor
            for database in databases:
                source = {
                    "type": "kafka",
                    "client": client,
                    "bootstrap_servers": [broker.address()],
                    "topics": ["bench"],
                    "group_id": f"bench-{client}-{database}",
                }
                began = time.monotonic()
                with installation(folder, database, {"bus": source}) as (control, _, where):
                    ready = time.monotonic()
                    peak = memory_peak(where)
                    wait_decided(control, backlog, patience=backlog / 1000 + 60)
                    took = time.monotonic() - ready
                    found = {
                        "events": backlog,
                        "decided_a_second": backlog / took,
                        "seconds": took,
                        "seconds_with_start": time.monotonic() - began,
                        **usage(where),
                        "peak_rss_mb": peak(),
                    }
                show(f"kafka, {client}, {database}", found, floor)
                report[f"kafka {client} {database}"] = found
    return report


@contextmanager
def kafka_broker(real: Any) -> Iterator[Any]:
    """Run a real broker."""
    broker = real.start()
    try:
        yield broker
    finally:
        broker.stop()


def produce(bootstrap: str, topic: str, count: int) -> None:
    """Write a backlog into a topic."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, "queue.buffering.max.messages": 200_000})
    for number in range(count):
        value = json.dumps(event(number)).encode()
        while True:
            try:
                producer.produce(topic, value)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush(120)


def poll_only(client: str, bootstrap: str, count: int) -> dict[str, float]:
    """Poll the backlog and do nothing with it."""
    began = time.monotonic()
    seen = 0
    if client == "confluent":
        from confluent_kafka import Consumer

        consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "floor", "auto.offset.reset": "earliest"})
        consumer.subscribe(["bench"])
        while seen < count:
            seen += len(consumer.consume(2000, 1))
        consumer.close()
    else:
        from kafka import KafkaConsumer

        options = {"group_id": "floor-python", "auto_offset_reset": "earliest", "max_poll_records": 2000}
        consumer = KafkaConsumer("bench", bootstrap_servers=bootstrap, **options)
        while seen < count:
            seen += sum(map(len, consumer.poll(1000).values()))
        consumer.close()
    return {"events": count, "stored_a_second": count / (time.monotonic() - began)}


# ------------------------------------------------------------------------------------------------- what is measured


@contextmanager
def installation(
    folder: Path, database: str, sources: dict[str, Any] | None = None
) -> Iterator[tuple[Path, int, Path]]:
    """Run a daemon with twenty policies on an empty database; give its socket, its port and its folder."""
    where = Path(tempfile.mkdtemp(prefix=f"{database}-", dir=folder))
    port = free_port()
    with database_url(database, where) as url:
        config = where / "retrain.yaml"
        config.write_text(json.dumps(configuration(url, port, sources or {})))
        with daemon(config, where) as control:
            yield control, port, where


def configuration(url: str, port: int, sources: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of twenty models, whose trainings go on for as long as this takes."""
    return {
        "version": 1,
        "store": url,
        "http": {"listen": f"127.0.0.1:{port}"},
        "sources": sources,
        "models": {
            f"model-{number}": {
                "policies": {"drift": {"on": {"type": f"drift.k{number}", "when": "event.data.share > 0.3"}}},
                "train": {"command": ["sleep", "600"]},
            }
            for number in range(POLICIES)
        },
    }


def event(number: int) -> dict[str, Any]:
    """Return a CloudEvent that one policy hears; one in a hundred is over its threshold."""
    return {
        "specversion": "1.0",
        "id": f"{number * 2654435761 % 2**32:08x}-{number}",
        "source": "/stream/drift",
        "type": f"drift.k{number % POLICIES}",
        "subject": "flight-delay",
        "time": "2026-11-21T12:00:00.5Z",
        "data": {"share": 0.9 if number % 100 == 7 else 0.1, "column": "age", "method": "ks", "value": 0.25},
    }


def wait_decided(control: Path, count: int, *, patience: float = 120) -> float:
    """Wait until so many events are decided, by the daemon's own count, and return the seconds it took."""
    began = time.monotonic()
    while time.monotonic() < began + patience:
        if decided(control) >= count:
            return time.monotonic() - began
        time.sleep(0.25)  # asking costs the daemon time, too
    raise SystemExit(f"{decided(control)} of {count} events were decided within {patience} s")


def decided(control: Path) -> int:
    """Return how many events were decided, as /metrics counts them."""
    connection = UnixConnection(control)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    lines = (
        line for line in text.splitlines() if line.startswith("retrain_events_total") and 'outcome="decided"' in line
    )
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


def make_token(control: Path) -> str:
    """Return a bearer token for the TCP port."""
    connection = UnixConnection(control)
    connection.request("POST", "/v1/tokens", json.dumps({"name": "bench"}), {"Content-Type": "application/json"})
    made = json.loads(connection.getresponse().read())
    connection.close()
    return str(made["token"])


def usage(where: Path) -> dict[str, float]:
    """Return what the daemon has used so far."""
    pid = int((where / "daemon.pid").read_text())
    return {"cpu_seconds": cpu_seconds(pid), "rss_mb": rss(pid)}


def rss(pid: int) -> float:
    """Return a process's resident memory."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024


def memory_peak(where: Path) -> Callable[[], float]:
    """Watch the daemon's memory; the function ends that and returns the peak, in MB."""
    pid = int((where / "daemon.pid").read_text())
    seen = [rss(pid)]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            try:
                seen.append(rss(pid))
            except (OSError, StopIteration):
                return

    threading.Thread(target=watch, daemon=True).start()

    def end() -> float:
        ended.set()
        return max(seen)

    return end


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit(f"nobody listens on port {port}")


def show(title: str, found: dict[str, float], floor: dict[str, float] | None = None) -> None:
    """Print what was found, and how it stands to the floor."""
    print(f"\n{title}")
    for name, value in found.items():
        print(f"  {name:22}{value:12,.1f}")
    if floor is not None and "decided_a_second" in found:
        share = found["decided_a_second"] / floor["stored_a_second"]
        print(f"  {'of the floor':22}{share:12.0%}")
    sys.stdout.flush()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=["http", "ack", "kafka"])
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--clients", type=lambda text: text.split(","), default=["kafka-python", "confluent"])
    parser.add_argument("--seconds", type=int, default=10, help="how long wrk posts")
    parser.add_argument("--backlog", type=int, default=200_000, help="records in the topic")
    parser.add_argument("--json", help="write every figure to this file")
    parser.add_argument("--bare-durable", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare_durable:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        serve_bare(int(options.bare_durable[0]), Path(options.bare_durable[1]))
        raise SystemExit(0)
    return options


if __name__ == "__main__":
    sys.exit(main())
