"""Probes that emit changes keep the promises of `ports.py`, as every source does."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from controller.sources.probe.command import CommandOptions, CommandProbe
from controller.sources.probe.http import HttpOptions, HttpProbe
from controller.sources.probe.prometheus import PrometheusOptions, PrometheusProbe
from controller.sources.probe.sql import SqlOptions, SqlProbe
from controller.testing import ManualClock, MemoryInbox, SourceContract


class ProbeContract(SourceContract):
    """What the suites of all kinds share."""

    @pytest.fixture
    def inbox(self) -> MemoryInbox:
        return MemoryInbox(clock=ManualClock(datetime(2026, 3, 1, 12, 30, tzinfo=UTC)))


@pytest.fixture
def served() -> Iterator[dict[str, Any]]:
    """What a server answers under `body`; its address is under `url`."""
    state: dict[str, Any] = {"body": {}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(state["body"]).encode()
            etag = f'"{hash(body)}"'
            is_known = self.headers.get("If-None-Match") == etag
            self.send_response(304 if is_known else 200)
            self.send_header("ETag", etag)
            self.send_header("Content-Length", "0" if is_known else str(len(body)))
            self.end_headers()
            if not is_known:
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    state["url"] = f"http://127.0.0.1:{server.server_port}/"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


class TestHttpProbe(ProbeContract):
    @pytest.fixture
    def make_source(self, inbox: MemoryInbox, tmp_path: Path, served: dict[str, Any]) -> Callable[[], HttpProbe]:
        served["body"] = {"rows": 0}
        told = {"every": "1m", "url": served["url"], "path": "body.rows", "emit": "change"}
        return lambda: HttpProbe(HttpOptions.model_validate(told), inbox.context(tmp_path))

    @pytest.fixture
    def occur(self, served: dict[str, Any]) -> Callable[[], None]:
        return lambda: served["body"].update(rows=served["body"]["rows"] + 1)


class TestPrometheusProbe(ProbeContract):
    @pytest.fixture
    def make_source(self, inbox: MemoryInbox, tmp_path: Path, served: dict[str, Any]) -> Callable[[], PrometheusProbe]:
        result = [{"metric": {"model": "churn"}, "value": [1700000000, "0"]}]
        served["body"] = {"status": "success", "data": {"resultType": "vector", "result": result}}
        told = {"every": "1m", "url": served["url"], "query": "drift", "emit": "change", "step": 0.5}
        return lambda: PrometheusProbe(PrometheusOptions.model_validate(told), inbox.context(tmp_path))

    @pytest.fixture
    def occur(self, served: dict[str, Any]) -> Callable[[], None]:
        numbers = count(1)

        def rise() -> None:
            served["body"]["data"]["result"][0]["value"][1] = str(next(numbers))

        return rise


class TestCommandProbe(ProbeContract):
    @pytest.fixture
    def make_source(self, inbox: MemoryInbox, tmp_path: Path) -> Callable[[], CommandProbe]:
        (tmp_path / "value").write_text("0")
        told = {"every": "1m", "command": ["cat", "value"], "emit": "change"}
        return lambda: CommandProbe(CommandOptions.model_validate(told), inbox.context(tmp_path))

    @pytest.fixture
    def occur(self, tmp_path: Path) -> Callable[[], None]:
        numbers = count(1)
        return lambda: (tmp_path / "value").write_text(str(next(numbers))) and None


@pytest.fixture
def table(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A table that somebody writes to."""
    connection = sqlite3.connect(tmp_path / "uploads.db", isolation_level=None)
    connection.execute("CREATE TABLE upload (id INTEGER PRIMARY KEY, model TEXT)")
    yield connection
    connection.close()


class TestSqlProbeOfCounts(ProbeContract):
    @pytest.fixture
    def make_source(self, inbox: MemoryInbox, tmp_path: Path, table: sqlite3.Connection) -> Callable[[], SqlProbe]:
        told = {"every": "1m", "url": "sqlite:///uploads.db", "query": "SELECT * FROM upload", "emit": "change"}
        return lambda: SqlProbe(SqlOptions.model_validate({**told, "take": "count"}), inbox.context(tmp_path))

    @pytest.fixture
    def occur(self, table: sqlite3.Connection) -> Callable[[], None]:
        return lambda: table.execute("INSERT INTO upload (model) VALUES ('churn')") and None


class TestSqlProbeOfRows(ProbeContract):
    @pytest.fixture
    def make_source(self, inbox: MemoryInbox, tmp_path: Path, table: sqlite3.Connection) -> Callable[[], SqlProbe]:
        told = {
            "every": "1m",
            "url": "sqlite:///uploads.db",
            "query": "SELECT * FROM upload WHERE id > :cursor ORDER BY id",
            "emit": "rows",
            "cursor_column": "id",
            "cursor_start": 0,
        }
        return lambda: SqlProbe(SqlOptions.model_validate(told), inbox.context(tmp_path))

    @pytest.fixture
    def occur(self, table: sqlite3.Connection) -> Callable[[], None]:
        return lambda: table.execute("INSERT INTO upload (model) VALUES ('churn')") and None
