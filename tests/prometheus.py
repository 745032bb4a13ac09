"""Throw-away servers of Prometheus and Alertmanager for the tests, and something for Prometheus to scrape.

Problem: what these two really send, and when, is only known to themselves.
Idea: start the system's programs, each on a free port with a folder of its own and settings that make everything happen within a second or
two; a tiny endpoint serves one gauge that the test sets.
Called by `tests/conftest.py`.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from controller.testing import wait_until

START_SECONDS = 30.0
STOP_SECONDS = 10.0
#: Debian's packages name them so; upstream's archives call the second one `alertmanager`.
PROMETHEUS = ("prometheus",)
ALERTMANAGER = ("prometheus-alertmanager", "alertmanager")


class ServerDidNotStart(Exception):
    """The program exists, but did not become ready; the message ends with its log."""


class Server:
    """One running program that answers HTTP; it ends with `stop()`."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self._process = process

    def get(self, path: str, **query: str) -> Any:
        """Return the JSON at a path."""
        with _opener().open(f"{self.url}{path}?{urllib.parse.urlencode(query)}", timeout=5) as answer:
            return json.load(answer)

    def text(self, path: str) -> str:
        """Return the text at a path."""
        with _opener().open(f"{self.url}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def stop(self) -> None:
        """End the program and remove its folder; safe to repeat."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)


class Gauges:
    """An endpoint for Prometheus to scrape; `values` is what it serves, by series."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        gauges = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = "".join(f"{series} {value}\n" for series, value in gauges.values.items()).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the endpoint."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def find(names: Sequence[str]) -> str | None:
    """Return the path of a program, the first of its names that there is."""
    return next((path for path in map(shutil.which, names) if path is not None), None)


def start_prometheus(
    program: str, *, targets: Sequence[str], rules: Sequence[Mapping[str, Any]] = (), alertmanager: str | None = None
) -> Server:
    """Start Prometheus: it scrapes the targets and evaluates the rules every second."""
    folder = Path(tempfile.mkdtemp(prefix="retrain-prometheus-"))
    config: dict[str, Any] = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "scrape_configs": [{"job_name": "models", "static_configs": [{"targets": list(targets)}]}],
        "rule_files": ["rules.yml"],
    }
    if alertmanager is not None:
        host = alertmanager.removeprefix("http://")
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [host]}]}]}
    groups = {"groups": [{"name": "models", "rules": [dict(rule) for rule in rules]}]}
    _write(folder / "rules.yml", groups)
    _write(folder / "config.yml", config)
    # An alert is sent again after at least this long, and counts as resolved when it is not: the defaults are minutes.
    resend = ["--rules.alert.resend-delay=1s"]
    return _start(
        folder,
        lambda port: [
            program,
            f"--config.file={folder / 'config.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            *resend,
        ],
    )


def start_alertmanager(program: str, *, receiver: Mapping[str, Any]) -> Server:
    """Start Alertmanager: it tells a webhook of every alert at once, and repeats itself every two seconds."""
    folder = Path(tempfile.mkdtemp(prefix="retrain-alertmanager-"))
    route = {
        "receiver": "controller",
        "group_by": ["alertname", "model"],
        "group_wait": "100ms",
        "group_interval": "1s",
        "repeat_interval": "2s",
    }
    receivers = [{"name": "controller", "webhook_configs": [dict(receiver)]}]
    _write(folder / "config.yml", {"route": route, "receivers": receivers})
    return _start(
        folder,
        lambda port: [
            program,
            f"--config.file={folder / 'config.yml'}",
            f"--storage.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ],
    )


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def _start(folder: Path, command: Callable[[int], list[str]]) -> Server:
    for _ in range(3):  # another program may take the free port first
        port = _free_port()
        arguments = command(port)
        setpriv = shutil.which("setpriv")
        if setpriv:  # a test run that is killed takes its server along
            arguments = [setpriv, "--pdeathsig", "KILL", "--", *arguments]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                arguments, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        server = Server(folder, process, port)
        if _wait_until_ready(server, process):
            return server
        process.kill()
        process.wait()
    said = (folder / "log").read_text(errors="replace")[-4000:]
    shutil.rmtree(folder, ignore_errors=True)
    raise ServerDidNotStart(said)


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> bool:
    """Say whether it answers; False when it ended, or the time is over."""

    def answers() -> bool:
        with contextlib.suppress(urllib.error.URLError, OSError), _opener().open(f"{server.url}/-/ready", timeout=2):
            return True
        return False

    with contextlib.suppress(AssertionError):
        wait_until(lambda: process.poll() is not None or answers(), timeout=START_SECONDS, pause=0.05)
    return process.poll() is None and answers()


def _opener() -> urllib.request.OpenerDirector:
    """Return what opens URLs without the proxy of the environment."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
