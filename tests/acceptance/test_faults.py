"""What bad luck and bad input come to, seen from outside of the daemon."""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.harness import ROOT, DaemonGone, Installation

#: The job begins, waits until the file `go` is there, and reports.
_JOB = r"""
echo $$ >"$HERE/pid"
echo "$RETRAIN_JOB_ID $RETRAIN_ATTEMPT" >>"$HERE/starts"
until [ -e "$HERE/go" ]; do sleep 0.02; done
echo '{"metrics": {"auc": 0.7}}' >"$RETRAIN_RESULT.partial"
mv "$RETRAIN_RESULT.partial" "$RETRAIN_RESULT"
"""


def config(there: Installation, **more: Any) -> dict[str, Any]:
    return {
        "sources": {"landing": {"type": "files", "path": "landing", "settle": "0s", "scan_every": "1s"}},
        "models": {
            "churn": {
                "policies": {"data": {"on": {"source": "landing"}}},
                "train": {
                    "command": ["/bin/sh", str(there.folder / "job.sh")],
                    "env": {"HERE": str(there.folder)},
                },
                "gate": {"require": ["candidate.metrics.auc > 0.6"]},
            }
        },
        **more,
    }


@pytest.fixture
def there() -> Iterator[Installation]:
    """An installation that is configured, with nothing running."""
    folder = Path(tempfile.mkdtemp(prefix="retrain-fault-"))
    installation = Installation(folder)
    (folder / "landing").mkdir()
    (folder / "job.sh").write_text(_JOB)
    installation.configure(config(installation))
    yield installation
    installation.close()
    shutil.rmtree(folder, ignore_errors=True)


def begin_training(there: Installation) -> None:
    """Start the daemon and a run, and wait until its job works."""
    there.start()
    there.wait_ready()
    there.drop_file("one.csv")
    there.wait_run(1, "TRAINING")
    there.wait(lambda: [job.state for job in there.jobs()] == ["RUNNING"] and starts(there), what="the job")


def starts(there: Installation) -> list[str]:
    path = there.folder / "starts"
    return path.read_text().splitlines() if path.exists() else []


def job_pid(there: Installation) -> int:
    """The pid of the only job, as it wrote it down."""
    return int((there.folder / "pid").read_text())


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def reasons(there: Installation) -> str:
    with contextlib.suppress(DaemonGone):
        return " | ".join(there.ready()["reasons"])
    return ""


# ----------------------------------------------------------------------------------------------------- jobs


@pytest.mark.crash
def test_G06_a_job_survives_kill_9_and_is_adopted(there: Installation) -> None:
    """The daemon dies, the job goes on; the next daemon finds it and does not start it again."""
    begin_training(there)
    job = job_pid(there)
    there.kill()
    assert is_alive(job)

    there.start()
    there.wait_ready()
    assert [job.state for job in there.jobs()] == ["RUNNING"]
    (there.folder / "go").touch()
    there.wait_run(1, "SUCCEEDED")

    assert len(starts(there)) == 1
    assert there.jobs()[0].attempt == 1


@pytest.mark.crash
def test_G06_a_job_that_ends_while_the_daemon_is_down(there: Installation) -> None:
    """Its result is taken by the next daemon, within ten seconds of its start."""
    begin_training(there)
    there.kill()
    (there.folder / "go").touch()
    there.wait(lambda: not there.job_pids(), what="the end of the job")

    there.start()
    there.wait_ready()
    began = time.monotonic()
    there.wait_run(1, "SUCCEEDED")

    assert time.monotonic() - began < 10
    assert len(starts(there)) == 1


def test_G06_sigterm_ends_the_daemon_and_leaves_the_job(there: Installation) -> None:
    """Exit 0 within seconds; the job goes on, and is there for the next daemon."""
    begin_training(there)
    job = job_pid(there)
    began = time.monotonic()

    code = there.terminate()

    assert code == 0
    assert time.monotonic() - began < 5
    assert is_alive(job)
    (there.folder / "go").touch()
    there.start()
    there.wait_run(1, "SUCCEEDED")
    assert len(starts(there)) == 1


# -------------------------------------------------------------------------------------------- installation


def test_sigterm_while_the_store_does_not_answer(there: Installation) -> None:
    """A daemon that waits for its database can be told to end, too."""
    there.database = "postgresql://retrain@127.0.0.1:1/nobody-listens"
    there.configure(config(there))
    there.start()
    there.wait(lambda: "store.waiting" in there.log(), what="the wait for the store")
    began = time.monotonic()

    code = there.terminate()

    assert code == 0
    assert time.monotonic() - began < 5


def test_a_second_daemon_is_refused(there: Installation) -> None:
    """It says which process holds the installation, and the first one does not notice."""
    there.start()
    there.wait_ready()
    assert there.process is not None

    second = run_daemon(there)

    assert second.returncode == 69
    assert f"pid {there.process.pid}" in second.stderr
    assert there.ready()["ready"]


def test_a_broken_configuration_at_the_start(there: Installation) -> None:
    """Exit 78, and every mistake with its place."""
    (there.folder / "retrain.yaml").write_text("version: 1\nmodels:\n  churn:\n    polices: {}\n")

    refused = run_daemon(there)

    assert refused.returncode == 78
    assert "retrain.yaml:4:5" in refused.stderr
    assert "polices" in refused.stderr
    assert "Traceback" not in refused.stderr


def run_daemon(there: Installation) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "controller.daemon", "--config", str(there.folder / "retrain.yaml")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_G11_a_broken_configuration_on_sighup(there: Installation) -> None:
    """The old one stays in force and works; readiness names the mistake, until it is mended."""
    there.start()
    there.wait_ready()
    assert there.process is not None
    (there.folder / "retrain.yaml").write_text("version: 1\nmodels:\n  churn:\n    polices: {}\n")
    there.process.send_signal(signal.SIGHUP)
    there.wait(lambda: "retrain.yaml:4:5" in reasons(there), what="the complaint")

    there.drop_file("one.csv")
    (there.folder / "go").touch()
    there.wait_run(1, "SUCCEEDED")
    assert not there.ready()["ready"]
    there.configure(config(there))
    there.process.send_signal(signal.SIGHUP)
    there.wait(lambda: there.ready()["ready"], what="readiness")


# ---------------------------------------------------------------------------------------------------- world


def post(there: Installation, number: int) -> int:
    event = {
        "specversion": "1.0",
        "id": f"e-{number}",
        "source": "/test",
        "type": "noise",
        "data": {"text": "x" * 20_000},
    }
    return there.ask("POST", "/v1/events", event, Content_Type="application/cloudevents+json").status


def test_G15_a_full_disk_stops_intake_not_the_daemon(there: Installation) -> None:
    """Producers are told to come back, readiness says why; when there is room again, nothing acknowledged is missing."""
    there.start()
    there.wait_ready()
    assert there.process is not None
    pid = there.process.pid
    room = max(path.stat().st_size for path in there.folder.glob("retrain.db*")) + 100_000
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, hard))
    answers: list[int] = []
    for number in range(100):
        answers.append(post(there, number))
        if answers[-1] == 503:
            break
    assert answers[-1] == 503, answers
    assert "store" in reasons(there)
    assert there.process.poll() is None
    assert post(there, 1000) == 503

    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    there.wait(lambda: there.ready()["ready"], what="readiness, without a producer that comes back")

    assert post(there, 1000) == 202
    assert there.count_events() == answers.count(202) + 1
    assert there.process.poll() is None


def test_an_unreadable_directory_is_a_readiness_reason(there: Installation) -> None:
    """Readiness names the source; when the directory can be read, what lies there becomes events."""
    landing = there.folder / "landing"
    landing.rmdir()
    landing.symlink_to("landing")  # a loop, which not even root can read
    there.start()
    there.wait(lambda: "landing" in reasons(there), what="the complaint")

    landing.unlink()
    there.drop_file("one.csv")

    there.wait(lambda: there.count_events() == 1, what="the event")
    there.wait(lambda: there.ready()["ready"], what="readiness")


@pytest.mark.timeout(180)
def test_G01_twenty_thousand_files_while_the_daemon_is_stopped(there: Installation) -> None:
    """20,000 files are 20,000 events within 60 seconds of the start, and no more after another one."""
    there.configure(config(there, models={"idle": {"policies": {"no": {"on": {"type": "other"}}}, **_IDLE}}))
    for number in range(20_000):
        (there.folder / "landing" / f"{number}.csv").write_text(f"{number}\n")

    began = time.monotonic()
    there.start()
    there.wait(lambda: there.count_events() == 20_000, what="20,000 events", seconds=100)
    seconds = time.monotonic() - began

    assert seconds < 60
    assert there.terminate() == 0
    there.start()
    there.wait_ready()
    there.drop_file("last.csv")
    there.wait(lambda: there.count_events() > 20_000, what="one more")
    assert there.count_events() == 20_001


_IDLE = {"train": {"command": ["true"]}, "gate": {"require": ["true"]}}


def test_a_reload_brings_a_source_and_its_policy_together(there: Installation) -> None:
    """What a new source finds is decided by the policy that came with it, not passed over by the old ones."""
    whole = config(there)
    there.configure({"models": {"churn": {**whole["models"]["churn"], "policies": {"no": {"on": {"type": "other"}}}}}})
    there.drop_file("one.csv")
    (there.folder / "go").touch()
    there.start()
    there.wait_ready()
    assert there.process is not None

    there.configure(whole)
    there.process.send_signal(signal.SIGHUP)

    there.wait_run(1, "SUCCEEDED")
