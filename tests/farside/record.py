"""What the far side knows: jobs, champions and messages, and a list of starts that is only ever added to.

Nothing here knows of the controller: it is the independent record that a test compares with.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from controller.clock import SystemClock


@dataclass(slots=True)
class Job:
    """One job, as it was started."""

    number: int
    #: What its starter calls it: the id of an attempt.
    name: str
    job_id: str
    attempt: int
    #: Monotonic seconds of its start, and of its end.
    started: float
    ends: float
    #: What it writes when it ends well, and where.
    result: dict[str, Any] | None
    folder: str
    #: When it ended by the clock on the wall, or will.
    ends_at: str
    #: running, succeeded, failed.
    state: str = "running"
    exit_code: int | None = None


class Record:
    """Everything that happened at the far side."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clock = SystemClock()
        self._lock = threading.RLock()
        self._jobs: list[Job] = []
        self._by_name: dict[str, Job] = {}
        self.serves: dict[str, str | None] = {}
        #: (model, version), in the order of the changes.
        self.promotions: list[tuple[str, str | None]] = []
        #: Message ids in the order in which they came, once for each time.
        self.messages: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._starts = os.open(folder / "starts.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def start(self, order: dict[str, Any], *, once: bool) -> tuple[Job, bool]:
        """Start a job; with `once` a name is started once, and the answer says whether this was it."""
        with self._lock:
            known = self._by_name.get(order["name"]) if once else None
            if known is not None:
                return known, False
            now = self._clock.monotonic()
            job = Job(
                number=len(self._jobs) + 1,
                name=order["name"],
                job_id=order["job_id"],
                attempt=order["attempt"],
                started=now,
                ends=now + order["seconds"],
                result=order["result"],
                folder=order["folder"],
                ends_at=(self._clock.now() + timedelta(seconds=order["seconds"])).isoformat(),
            )
            self._jobs.append(job)
            self._by_name[job.name] = job
            line = {"at": self._clock.now().isoformat(), "name": job.name, "job_id": job.job_id, "attempt": job.attempt}
            os.write(self._starts, f"{json.dumps(line)}\n".encode())
            return job, True

    def job(self, key: str) -> Job | None:
        """Return a job by name, or by number (`#7`), as it is now."""
        with self._lock:
            if key.startswith("#"):
                number = int(key[1:])
                job = self._jobs[number - 1] if 0 < number <= len(self._jobs) else None
            else:
                job = self._by_name.get(key)
            if job is not None and job.state == "running" and self._clock.monotonic() >= job.ends:
                self._end(job)
            return job

    def stop(self, key: str) -> bool:
        """End a job; return whether it is known."""
        with self._lock:
            job = self.job(key)
            if job is not None and job.state == "running":
                job.state, job.exit_code, job.ends = "failed", 143, self._clock.monotonic()
                job.ends_at = self._clock.now().isoformat()
            return job is not None

    def promote(self, model: str, version: str | None) -> None:
        """Let a version serve."""
        with self._lock:
            self.serves[model] = version
            self.promotions.append((model, version))

    def take(self, message: str) -> None:
        """Note a message."""
        with self._lock:
            self.messages.append(message)

    def everything(self) -> dict[str, Any]:
        """Return all of it, for whoever checks."""
        with self._lock:
            for job in self._jobs:
                self.job(f"#{job.number}")
            return {
                "jobs": [asdict(job) for job in self._jobs],
                "serves": dict(self.serves),
                "promotions": list(self.promotions),
                "messages": list(self.messages),
            }

    @staticmethod
    def _end(job: Job) -> None:
        job.exit_code = 3 if job.result is None else 0
        job.state = "failed" if job.result is None else "succeeded"
        if job.result is not None:
            folder = Path(job.folder)
            (folder / "artifact").mkdir(parents=True, exist_ok=True)
            (folder / "artifact" / "model").write_text(job.name)
            partial = folder / "result.json.partial"
            partial.write_text(json.dumps(job.result))
            partial.replace(folder / "result.json")
