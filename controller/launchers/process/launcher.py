"""Jobs as processes on this machine, which outlive the daemon.

The daemon may die or be upgraded while a training runs for hours. So it never is the job's parent: it starts a *shim*, a few lines
of POSIX sh (`shim.sh`), with a session of its own; the shim starts the job in another session and waits for it. What happened is
told by records in the attempt's folder (the shim's header lists them), never by what a daemon remembers. A later daemon reads them.

- **Ahead.** A few shims are started before there is anything to do (`standby.py`), because that is most of what a start costs.
- **Once.** The shim claims the folder with an exclusive create before it starts anything. A second shim for the same attempt finds
  the claim and leaves, so that `launch` may be repeated by anybody, also after a crash between starting and storing the handle.
- **Identity.** A pid alone means nothing: the job is (pid, start time, boot id), the shim is a pid whose command line names the folder.
  Signals go through a pidfd that was opened before the identity was checked, so a reused pid is never hit.
- **Stopping** reaches the job's session and group, its descendants, and every process that carries its `RETRAIN_ATTEMPT_ID`,
  which finds daemons that left all of these. The shim and its log are spared: they write the end.

What it does not do: limit memory or disk, isolate jobs from each other, or run anywhere but on Linux (it needs /proc, pidfd and
`setsid` of util-linux). Under systemd the daemon's unit needs `KillMode=process`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from controller.errors import RetryLater
from controller.launchers.process.attempt import (
    SHELL,
    SHIM,
    find_members,
    find_shim,
    folder_of,
    is_shim,
    make_handle,
    search_shim,
    was_handed,
)
from controller.launchers.process.options import ProcessOptions, ProcessSettings
from controller.launchers.process.output import Segments
from controller.launchers.process.processes import group_alive
from controller.launchers.process.records import read_claim, read_exit, read_started, written_at
from controller.launchers.process.standby import StandBys
from controller.launchers.process.starting import Machine, find_program, job_environment, lower_priority, spawn_shim
from controller.launchers.process.watcher import Watcher
from controller.ports import Handle, LauncherContext, LogChunk, Observation, Order

#: How long `stop` waits for a shim that has only just begun, and then for killed processes to be gone.
_START_SECONDS, _KILL_SECONDS = 2.0, 2.0
#: How long `log` waits for the last output of a job that has ended, and how long after the end that makes sense.
_DRAIN_SECONDS, _DRAIN_WINDOW_SECONDS = 1.0, 2.0
_POLL_SECONDS = 0.005


class ProcessLauncher:
    """Starts, finds, observes and stops jobs on this machine; see the module."""

    Settings: ClassVar[type[ProcessSettings]] = ProcessSettings
    Options: ClassVar[type[ProcessOptions]] = ProcessOptions
    searchable: ClassVar[bool] = True
    local: ClassVar[bool] = True

    def __init__(self, settings: ProcessSettings, context: LauncherContext) -> None:
        self._settings = settings
        self._context = context
        self._watcher = Watcher(context.log)
        self._machine = Machine()
        self._stand_bys = StandBys(self._machine, self._watcher, segment=settings.log_cap // 3)
        self._pause = threading.Event()

    def slots(self) -> int:
        return self._settings.slots

    # ------------------------------------------------------------------------------------------- start and find

    def launch(self, order: Order) -> Handle:
        """Let a shim start the job, and return at once; the job begins a millisecond later, or three when no shim stood by.

        The handle names the folder, where everything else is recorded.
        """
        folder = order.folder.absolute()
        with _looking(folder):
            if (folder / "claim").exists():
                return make_handle(order)
        options: ProcessOptions = order.options
        workdir = self._context.base.absolute() / options.workdir
        environment = job_environment(options, order)
        program = find_program(options.command[0], workdir, environment.get("PATH", os.defpath))
        added = self._settings.nice if options.nice is None else options.nice
        niceness = min(19, os.getpriority(os.PRIO_PROCESS, 0) + added)
        command = [program, *options.command[1:]]
        with _looking(folder):
            if self._stand_bys.hand_over(folder, command, workdir, environment, niceness=niceness):
                return make_handle(order)
        segment = str(self._settings.log_cap // 3)
        tools = self._machine.tools()
        records = [str(folder), self._machine.boot_id(), segment]
        argv = [SHELL, str(SHIM), *records, tools.path, tools.setsid, str(workdir), *command]
        pid = spawn_shim(argv, environment, self._machine.given_descriptors())
        lower_priority(pid, folder, niceness)
        self._watcher.follow(str(folder), pid)
        return make_handle(order)

    def find(self, order: Order) -> Handle | None:
        """Return the handle of a claimed attempt, or of a shim on its way to the claim.

        Without a claim it reads the command lines of all processes (milliseconds): ask after a crash, not before each launch.
        """
        folder = order.folder.absolute()
        claim = folder / "claim"
        with _looking(folder):
            # One that was started ahead lives on for a moment, whether it got its order or not: then it claims the folder, or it ends.
            self._wait(lambda: claim.exists() or not was_handed(folder), _START_SECONDS)
            # Twice, because a short job may claim and end while we search.
            launched = claim.exists() or search_shim(folder) is not None or claim.exists()
        return make_handle(order) if launched else None

    # -------------------------------------------------------------------------------------------------- observe

    def observe(self, handle: Handle) -> Observation:
        folder = folder_of(handle)
        with _looking(folder):
            if (end := self._end(handle)) is not None:
                return end
            claim = read_claim(folder)
            if claim is not None and claim.boot_id != self._machine.boot_id():
                return Observation(
                    state="lost",
                    reason="host was rebooted",
                    started_at=written_at(folder / "started"),
                )
            job = read_started(folder)
            if self._shim_alive(folder) or (job is not None and job.alive()):
                facts = {} if job is None else {"pid": job.pid}
                return Observation(state="running", started_at=written_at(folder / "started"), facts=facts)
            # The end may have been recorded between the first look and the last.
            if (end := self._end(handle)) is not None:
                return end
            reason = (
                "the process is gone and left no exit code"
                if job
                else "the job was never started: its shim ended before"
            )
            return Observation(state="lost", reason=reason, started_at=written_at(folder / "started"))

    def _end(self, handle: Handle) -> Observation | None:
        folder = folder_of(handle)
        code = read_exit(folder)
        if code is None:
            return None
        job = read_started(folder)
        return Observation(
            state="succeeded" if code == 0 else "failed",
            reason=self._reason(handle, code, started=job is not None),
            exit_code=code,
            started_at=written_at(folder / "started"),
            finished_at=written_at(folder / "exit"),
            facts={} if job is None else {"pid": job.pid},
        )

    def _reason(self, handle: Handle, code: int, *, started: bool) -> str:
        if not started:
            return f"the job was not started: its working directory or record cannot be used (exit code {code})"
        if code in (126, 127):
            first_line = self.log(handle, 0, 300).data.partition(b"\n")[0]
            program, _, complaint = first_line.partition(b": ")
            # Whoever was to become the job says so when the kernel does not let it: `setsid`, or the shell of a shim that stood by.
            if program in (b"setsid", os.fsencode(SHIM)):
                return f"the command could not be run: {complaint.rpartition(b'exec: ')[2].decode(errors='replace')}"
        if code > 128:
            try:
                return f"killed by signal {code - 128} ({signal.Signals(code - 128).name})"
            except ValueError:
                return f"exit code {code}"
        return f"exit code {code}"

    def _shim(self, folder: Path) -> int:
        return find_shim(folder, self._watcher.pid(str(folder)))

    def _shim_alive(self, folder: Path) -> bool:
        return is_shim(self._shim(folder), folder)

    # ----------------------------------------------------------------------------------------------------- stop

    def stop(self, handle: Handle, *, force: bool) -> None:
        """Signal every process of the attempt that can be found; with `force` until none is left, for at most two seconds.

        After the job's own end it reaches what the job left behind.
        """
        folder = folder_of(handle)
        with _looking(folder):
            claim = read_claim(folder)
            if claim is not None and claim.boot_id != self._machine.boot_id():
                return
            self._wait(
                lambda: read_started(folder) is not None or not self._shim_alive(folder),
                _START_SECONDS,
            )
            if not force:
                self._signal_all(folder, handle, signal.SIGTERM)
                # What is stopped does not see TERM before it goes on.
                self._signal_all(folder, handle, signal.SIGCONT)
                return
            self._wait(lambda: not self._signal_all(folder, handle, signal.SIGKILL), _KILL_SECONDS)

    def _signal_all(self, folder: Path, handle: Handle, number: signal.Signals) -> int:
        """Signal each process of the attempt once; return how many there were."""
        members = find_members(folder, self._shim(folder), handle["attempt"])
        for member in members:
            try:
                member.signal(number)
            except PermissionError:
                self._context.log.warning("job.signal_refused", folder=str(folder), pid=member.pid, signal=number.name)
        return len(members)

    def _wait(self, done: Callable[[], bool], seconds: float) -> None:
        # Counted, not timed: under a clock that a test moves by hand, this must end too.
        for _ in range(int(seconds / _POLL_SECONDS)):
            if done():
                return
            self._pause.wait(_POLL_SECONDS)

    # ------------------------------------------------------------------------------------------ watch, log, forget

    def watch(self, handle: Handle, changed: Callable[[], None]) -> None:
        """Call `changed()` when the shim has ended, and should it die before its job, when the job has."""
        folder = folder_of(handle)

        def follow(shim: int) -> None:
            self._watcher.follow(str(folder), shim, lambda: ended(shim), still=lambda: is_shim(shim, folder))

        def ended(shim: int) -> None:
            if read_exit(folder) is not None:
                changed()
                return
            other, job = self._shim(folder), read_started(folder)
            if other != shim and is_shim(
                other, folder
            ):  # two were started around a crash, and this one came late to the claim
                follow(other)
            elif job is not None and job.alive():  # somebody killed the shim
                self._watcher.follow(str(folder), job.pid, changed, still=job.alive)
            else:
                changed()

        with _looking(folder):
            follow(self._shim(folder))
        # Now, because the job that was launched last has its start behind it.
        self._stand_bys.fill()

    def log(self, handle: Handle, offset: int, limit: int) -> LogChunk:
        """Read the output; offsets count what the job wrote, also what was cut. An empty answer means: nothing more yet.

        Just after the end it waits up to a second for the last bytes on their way through the pipe.
        """
        folder = folder_of(handle)
        with _looking(folder):
            chunk = Segments(folder).read(offset, limit)
            if not chunk.data and limit > 0 and self._draining(folder):
                shim = self._shim(folder)
                self._wait(
                    lambda: bool(Segments(folder).read(offset, 1).data) or not group_alive(shim),
                    _DRAIN_SECONDS,
                )
                chunk = Segments(folder).read(offset, limit)
            return chunk

    def _draining(self, folder: Path) -> bool:
        ended_at = written_at(folder / "exit")
        return (
            ended_at is not None and abs((self._context.clock.now() - ended_at).total_seconds()) < _DRAIN_WINDOW_SECONDS
        )

    def forget(self, handle: Handle) -> None:
        self._watcher.forget(str(folder_of(handle)))


@contextmanager
def _looking(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into a failed look."""
    try:
        yield
    except OSError as error:
        raise RetryLater(f"cannot read the records in {str(folder)!r}: {error}") from error
