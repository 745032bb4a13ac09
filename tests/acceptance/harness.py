"""An installation whose daemon is a process: started, killed, restarted, and asked through its socket.

It is driven only from outside: files, signals, HTTP; what became of it is read from its database.
Everything it starts, it ends, by pid. A daemon that a crash point killed is started again without it, as a supervisor would.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml

from controller.api.socketpath import reachable
from controller.clock import Ids, SystemClock, system_random
from controller.store import Store, schema
from controller.testing import wait_until

ROOT = Path(__file__).resolve().parents[2]
#: A shared machine stalls now and then.
PATIENCE = 60.0
_PAUSE = 0.02
#: The daemon's exit code when another one still holds the installation: a server needs a moment to notice a killed client.
_HELD = 69


class DaemonGone(Exception):
    """The daemon does not answer: it was killed, or it is being started."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API said."""

    status: int
    body: Any


class Installation:
    """A folder with a configuration, a database, and at most one daemon."""

    #: The module that is the daemon.
    program = "controller.daemon"

    def __init__(self, folder: Path, database: str | None = None) -> None:
        self.folder = folder
        self.database = database or f"sqlite:///{folder / 'retrain.db'}"
        self.socket = folder / "state" / "retrain.sock"
        #: The daemon that runs, or the last one that did.
        self.process: subprocess.Popen[bytes] | None = None
        #: The crash points that daemons of this installation died by, in order.
        self.deaths: list[str] = []
        #: More environment for the daemons to come, such as another RETRAIN_CRASH: one for each that follows such a death.
        self.successors: list[Mapping[str, str]] = []
        #: Where all daemons write the crash points they reach, `begin` what the driver does (`# step`), and deaths (`! point`) are marked.
        self.trace: Path | None = None
        #: Seconds that any wait may take.
        self.patience = PATIENCE
        #: Seconds that a story leaves the daemon in peace before it ends it, so that clocks come round; None: not at all.
        self.lingers: float | None = None
        self._environment: dict[str, str] = {}
        self._refusals = 0
        self._reader: Store | None = None
        folder.mkdir(parents=True, exist_ok=True)

    # ----------------------------------------------------------------------------------------------- process

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the configuration, by rename."""
        whole = {"version": 1, "store": self.database, "state_dir": "state", **config}
        partial = self.folder / "retrain.yaml.partial"
        partial.write_text(yaml.safe_dump(whole, sort_keys=False))
        partial.replace(self.folder / "retrain.yaml")

    def start(self, *, preexec: Callable[[], None] | None = None, **environment: str) -> None:
        """Start the daemon, with more environment such as RETRAIN_CRASH; it may not be ready yet."""
        self._environment = environment
        if self.trace is not None:
            environment = {**environment, "RETRAIN_CRASH_TRACE": str(self.trace)}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RETRAIN_")}
        with (self.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.program, "--config", str(self.folder / "retrain.yaml")],
                cwd=ROOT,
                env={**kept, "RETRAIN_LOG": "json", "PYTHONFAULTHANDLER": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=preexec,
                start_new_session=True,
            )

    def keep_running(self) -> None:
        """Start the daemon again if its crash point killed it, unarmed unless `successors` says otherwise.

        Fails if it ended in another way.
        """
        process = self.process
        if process is None or process.poll() is None:
            return
        successor: Mapping[str, str] = {}
        if process.returncode == -signal.SIGKILL and "RETRAIN_CRASH" in self._environment:
            self.deaths.append(self._environment["RETRAIN_CRASH"])
            self._mark(f"! {self.deaths[-1]}")
            successor = self.successors.pop(0) if self.successors else {}
        elif process.returncode == _HELD and self._refusals < 50:
            self._refusals += 1
            successor = self._environment
        else:
            raise AssertionError(f"the daemon ended with {process.returncode}:\n{self.log()[-3000:]}")
        self.start(**successor)

    @property
    def crashed(self) -> bool:
        """Whether a daemon of this installation died by a crash point."""
        return bool(self.deaths)

    @property
    def is_armed(self) -> bool:
        """Whether a daemon of this installation is still to die by a crash point."""
        return bool(self.successors) or "RETRAIN_CRASH" in self._environment

    def begin(self, step: str) -> None:
        """Say in the trace what the driver does next."""
        self._mark(f"# {step}")

    def _mark(self, line: str) -> None:
        if self.trace is not None:
            with self.trace.open("a") as trace:
                trace.write(f"{line}\n")

    def kill(self) -> None:
        """End the daemon as `kill -9` does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self, *, within: float = 20.0) -> int:
        """Ask the daemon to end (SIGTERM), and return its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(within)

    def close(self) -> None:
        """End whatever this installation started: the daemon, and the jobs and shims that work in its folder."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for pid in self.job_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._reader is not None:
            self._reader.close()

    def job_pids(self) -> list[int]:
        """Processes whose environment or command line names this installation's runs."""
        mark = os.fsencode(self.folder / "state" / "runs")
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if mark in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes():
                        found.append(int(entry.name))
        return found

    def log(self) -> str:
        """What the daemons wrote."""
        path = self.folder / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # -------------------------------------------------------------------------------------------------- HTTP

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Make one request over the socket; raises `DaemonGone` when there is no answer."""
        connection = http.client.HTTPConnection("localhost", timeout=20)
        try:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(20)
            with reachable(self.socket) as name:
                connection.sock.connect(name)
            content = None if body is None else json.dumps(body)
            more = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, content, {"Content-Type": "application/json", **more})
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise DaemonGone(str(error)) from error
        finally:
            connection.close()
        kind = (response.getheader("Content-Type") or "").partition(";")[0]
        return Answer(response.status, json.loads(text) if text and kind.endswith("json") else text or None)

    def insist(
        self, method: str, path: str, body: Any = None, *, unless: Callable[[], Any] = bool, **headers: str
    ) -> Answer:
        """Ask until there is an answer, across deaths of the daemon; look first (`unless`) whether it was done before."""

        def attempt() -> Answer | None:
            self.keep_running()
            if unless():
                return Answer(200, None)
            try:
                answer = self.ask(method, path, body, **headers)
            except DaemonGone:
                return None
            assert answer.status < 500 or answer.status == 503, answer
            return None if answer.status == 503 else answer

        answer: Answer = self.wait(attempt, what=f"an answer to {method} {path}")
        assert answer.status < 300, answer
        return answer

    def ready(self) -> dict[str, Any]:
        """What /readyz says; raises `DaemonGone`."""
        return dict(self.ask("GET", "/readyz").body)

    def wait_ready(self) -> None:
        """Wait until the daemon answers that it is ready."""

        def is_ready() -> bool:
            self.keep_running()
            with contextlib.suppress(DaemonGone):
                return bool(self.ready()["ready"])
            return False

        self.wait(is_ready, what="readiness")

    def wait(self, condition: Callable[[], Any], *, what: str, seconds: float | None = None) -> Any:
        """Return the first true answer of `condition`; fail with the daemon's log after a while."""
        try:
            return wait_until(condition, timeout=seconds or self.patience, pause=_PAUSE, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()[-4000:]}") from error

    # ---------------------------------------------------------------------------------------------- database

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[..., list[Any]]]:
        """Give a function that returns the rows of a statement, without a right to write."""
        if self._reader is None:
            clock = SystemClock()
            self._reader = Store.open(
                self.database, base=self.folder, clock=clock, ids=Ids(clock, system_random()), readonly=True
            )
        with self._reader.reading() as tx:
            yield lambda statement: list(tx.execute(statement).all())

    def rows(self, statement: Any) -> list[Any]:
        """The rows of a statement; none while there is no database yet."""
        if self.database.startswith("sqlite") and not Path(self.database.removeprefix("sqlite:///")).exists():
            return []
        try:
            with self.reading() as select:
                return select(statement)
        except Exception:  # noqa: BLE001 - the schema may not be there yet; who waits, asks again
            return []

    def runs(self) -> list[Any]:
        """Every run, oldest first."""
        return self.rows(sa.select(schema.run).order_by(schema.run.c.id))

    def jobs(self) -> list[Any]:
        """Every job, oldest first."""
        return self.rows(sa.select(schema.job).order_by(schema.job.c.id))

    def count_events(self) -> int:
        """How many events are stored."""
        rows = self.rows(sa.select(sa.func.count()).select_from(schema.event))
        return int(rows[0][0]) if rows else 0

    def acts(self, verb: str) -> int:
        """How often persons did this."""
        rows = self.rows(sa.select(sa.func.count()).select_from(schema.act).where(schema.act.c.verb == verb))
        return int(rows[0][0]) if rows else 0

    def wait_run(self, number: int, *states: str) -> Any:
        """Wait until the run of this number (from 1) is in one of the states, across deaths of the daemon."""

        def there() -> Any:
            self.keep_running()
            runs = self.runs()
            return runs[number - 1] if len(runs) >= number and runs[number - 1].state in states else None

        return self.wait(there, what=f"run {number} in {' or '.join(states)}; runs: {[r.state for r in self.runs()]}")

    def drop_file(self, name: str, text: str = "x\n") -> None:
        """Put a file into the landing folder, by rename."""
        landing = self.folder / "landing"
        landing.mkdir(exist_ok=True)
        partial = landing / f".{name}"
        partial.write_text(text)
        partial.replace(landing / name)
