"""Calls to a launcher, a registry and a receiver whose request or answer is lost or late: a real daemon, a real far side (JO-14, PR-02)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from controller.clock import SystemClock
from controller.ports import Launcher, LauncherContext, Order
from controller.testing import LauncherContract, RecordingLog
from controller.testing.launchers import Behaviour
from tests.acceptance.harness import ROOT, Installation
from tests.farside.house import Farside, install
from tests.farside.plugins import FarsideLauncher

#: Options of jobs that behave so.
OPTIONS: dict[Behaviour, dict[str, Any]] = {
    "succeeds": {"seconds": 0.0},
    "fails": {"seconds": 0.0, "auc": None},
    "runs": {"seconds": 60.0},
    "prints": {"seconds": 0.0},
}


@pytest.fixture(scope="module")
def farside() -> Iterator[Farside]:
    folder = Path(tempfile.mkdtemp(prefix="retrain-farside-"))
    found = Farside(folder)
    yield found
    found.stop()
    shutil.rmtree(folder, ignore_errors=True)


class TestFarsideLauncher(LauncherContract):
    @pytest.fixture
    def make_launcher(self, farside: Farside, tmp_path: Path) -> Callable[[], Launcher]:
        farside.fates()
        context = LauncherContext(base=tmp_path, state=tmp_path, clock=SystemClock(), log=RecordingLog())
        return lambda: FarsideLauncher(FarsideLauncher.Settings(url=farside.url), context)

    @pytest.fixture
    def make_order(self, tmp_path: Path) -> Callable[[Behaviour], Order]:
        numbers = count(1)

        def make(behaviour: Behaviour) -> Order:
            number = next(numbers)
            folder = tmp_path / f"attempt-{number}"
            folder.mkdir()
            return Order(
                run_id="run-1",
                job_id="job-1",
                attempt_id=f"{tmp_path.name}-{number}",
                attempt=number,
                model="churn",
                candidate="a",
                folder=folder,
                environment={},
                options=FarsideLauncher.Options(**OPTIONS[behaviour]),
            )

        return make


class Site:
    """An installation whose jobs, champion and messages are at the far side."""

    def __init__(self, farside: Farside, folder: Path, launcher: str) -> None:
        self.farside = farside
        self.there = Installation(folder / "here")
        self.there.configure(self._config(launcher))
        self._environment = install(folder / "plugins")
        self.there.start(**self._environment)
        self.there.wait_ready()
        self._before = len(farside.starts())
        self._messages = len(farside.record()["messages"])

    def starts(self) -> list[str]:
        """The names of what was started for this installation."""
        return [line["name"] for line in self.farside.starts()[self._before :]]

    def messages(self) -> list[str]:
        """The ids of what was sent."""
        return list(self.farside.record()["messages"][self._messages :])

    def send(self) -> None:
        event = {"specversion": "1.0", "id": "e-1", "source": "/test", "type": "drift"}
        self.there.insist("POST", "/v1/events", event, Content_Type="application/cloudevents+json")

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "controller.cli.main",
            "--config",
            str(self.there.folder / "retrain.yaml"),
            *arguments,
        ]
        found = {**os.environ, **self._environment}
        return subprocess.run(command, cwd=ROOT, env=found, capture_output=True, text=True, timeout=60, check=False)

    def _config(self, launcher: str) -> dict[str, Any]:
        url = self.farside.url
        return {
            "launchers": {launcher: {"url": url}},
            "notifiers": {"people": {"type": "farside", "url": url}},
            "models": {
                "churn": {
                    "policies": {"drift": {"on": {"type": "drift"}}},
                    "train": {"launcher": launcher, "seconds": 0.3, "retries": {"attempts": 2, "backoff": "1s"}},
                    "gate": {"require": ["candidate.metrics.auc > 0.6"]},
                    "promote": [{"type": "farside", "url": url}],
                    "notify": ["people"],
                }
            },
        }


@pytest.fixture
def make_site(farside: Farside) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []
    folder = Path(tempfile.mkdtemp(prefix="retrain-lost-"))

    def make(launcher: str = "farside") -> Site:
        farside.fates()
        made.append(Site(farside, folder, launcher))
        return made[-1]

    yield make
    for site in made:
        site.there.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(("before",), id="launch, request lost"),
        pytest.param(("after",), id="launch, answer lost"),
        pytest.param(("late",), id="launch, done late"),
        pytest.param(("late", "before", "after"), id="launch, late and lost again and again"),
        pytest.param(("ok", "before"), id="promotion, request lost"),
        pytest.param(("ok", "after"), id="promotion, answer lost"),
        pytest.param(("ok", "late"), id="promotion, done late"),
        pytest.param(("ok", "ok", "before"), id="message, request lost"),
        pytest.param(("ok", "ok", "after"), id="message, answer lost"),
    ],
)
@pytest.mark.timeout(120)
def test_G03_calls_that_are_lost_or_late(make_site: Callable[..., Site], script: tuple[str, ...]) -> None:
    """One start, one champion, and the message at least once, always under one id."""
    site = make_site()
    site.farside.fates(*script)
    site.send()
    run = site.there.wait_run(1, "PROMOTED")
    site.there.wait(lambda: site.messages(), what="the message")

    assert list(Counter(site.starts()).values()) == [1]
    (job,) = site.there.jobs()
    assert (job.state, job.attempt) == ("SUCCEEDED", 1)
    assert run.cause == "promoted"
    assert len(set(site.messages())) == 1
    assert site.farside.record()["serves"]["churn"] is not None


@pytest.mark.timeout(120)
def test_looks_that_are_lost_say_nothing(make_site: Callable[..., Site]) -> None:
    """Half of all answers are lost, also those to look-ups: it takes longer, and nothing else is different."""
    site = make_site()
    site.farside.fates(all=True, before=0.25, after=0.25)
    site.send()
    site.there.wait_run(1, "PROMOTED")
    site.farside.fates()

    assert len(site.starts()) == 1


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fate", ["after", "before"])
def test_a_launcher_that_cannot_be_searched_asks_a_person(make_site: Callable[..., Site], fate: str) -> None:
    """UNKNOWN at once; `runs resolve` settles it as what the far side knows, and says what is wrong with a wrong word."""
    site = make_site("farside-blind")
    site.farside.fates(fate)
    site.send()
    site.there.wait(lambda: [job for job in site.there.jobs() if job.state == "UNKNOWN"], what="a job in UNKNOWN")
    run = site.there.runs()[0].id
    resolve = ("runs", "resolve", run, "--reason", "I looked at the far side")
    wrong = site.cli(*resolve, "--as", "running")
    assert (wrong.returncode, "never gave a handle" in wrong.stderr) == (5, True), wrong.stderr
    assert "--handle" in wrong.stderr
    nobody = site.cli(*resolve, "--as", "running", "--handle", '{"key": "#9999", "seconds": 1}')
    assert (nobody.returncode, "knows no job of this handle" in nobody.stderr) == (5, True), nobody.stderr
    bad = site.cli(*resolve, "--as", "running", "--handle", "[1]")
    assert (bad.returncode, "is not a handle" in bad.stderr) == (2, True), bad.stderr
    jobs = [job for job in site.farside.record()["jobs"] if job["name"] in site.starts()]

    if fate == "after":
        handle = {"key": f"#{jobs[0]['number']}", "seconds": 0.3}
        done = site.cli(*resolve, "--as", "running", "--handle", json.dumps(handle))
        assert done.returncode == 0, done.stderr
        site.there.wait_run(1, "PROMOTED")
        assert len(site.starts()) == 1
    else:
        assert jobs == []
        done = site.cli(*resolve, "--as", "failed", "-o", "json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["state"] == "FAILED"
        site.there.wait_run(1, "FAILED")
        assert site.starts() == []
    assert site.there.acts("resolve") == 1


@pytest.mark.timeout(120)
def test_a_stop_whose_request_is_lost(make_site: Callable[..., Site]) -> None:
    """It is asked for again, and the run is cancelled."""
    site = make_site()
    config = site._config("farside")
    config["models"]["churn"]["train"]["seconds"] = 600
    site.there.configure(config)
    site.there.insist("POST", "/v1/reload")
    site.send()
    site.there.wait(lambda: [job for job in site.there.jobs() if job.state == "RUNNING"], what="a running job")
    site.farside.fates("before")
    run = site.there.runs()[0].id
    site.there.insist("POST", f"/v1/runs/{run}/cancel", {"reason": "a test"}, Idempotency_Key="c-1")
    site.there.wait_run(1, "CANCELLED")

    assert len(site.starts()) == 1
