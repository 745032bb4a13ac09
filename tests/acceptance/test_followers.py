"""Two daemons on one PostgreSQL: whichever is asked, one decides; and another takes over when that one goes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from controller.store import schema
from tests.acceptance.harness import ROOT, DaemonGone, Installation
from tests.postgres import PostgresServer

pytestmark = [pytest.mark.postgresql, pytest.mark.timeout(150)]

#: The job waits while the file `wait` is there, and reports.
_JOB = r"""
echo working
while [ -e "$HERE/wait" ]; do sleep 0.02; done
echo model >"$RETRAIN_ARTIFACT_DIR/model"
echo '{"metrics": {"auc": 0.7}, "artifact": "model"}' >"$RETRAIN_RESULT.partial"
mv "$RETRAIN_RESULT.partial" "$RETRAIN_RESULT"
"""
_HOOK = {"specversion": "1.0", "id": "h-1", "source": "/hook", "type": "drift"}


class Pair:
    """Two installations on one database, with one configuration; which of them leads is found out by asking."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder
        (folder / "job.sh").write_text(_JOB)
        self.both = [Installation(folder / name, database) for name in ("one", "two")]
        for there in self.both:
            there.configure(self.config())
        for there in self.both:
            there.start()
        for there in self.both:
            there.wait_ready()
        self.wait(lambda: self.leading() is not None, what="a leader")

    def config(self, **policy: Any) -> dict[str, Any]:
        return {
            "sources": {
                "alerts": {"type": "webhook", "format": "cloudevents", "insecure": True},
                "odd": {"type": "webhook", "format": "generic", "insecure": True, "mapping": {"type": "body.kind"}},
                "nightly": {"type": "cron", "schedule": "0 3 * * *"},
            },
            "models": {
                "churn": {
                    "policies": {"drift": {"on": {"type": "drift"}, **policy}},
                    "train": {"command": ["/bin/sh", str(self.folder / "job.sh")], "env": {"HERE": str(self.folder)}},
                    "gate": {"require": ["candidate.metrics.auc > 0.6"]},
                    "approve": {"required": True},
                    "promote": [{"type": "alias", "path": str(self.folder / "serving")}],
                }
            },
        }

    @property
    def leader(self) -> Installation:
        found = self.leading()
        assert found is not None
        return found

    @property
    def follower(self) -> Installation:
        leader = self.leader
        return next(there for there in self.both if there is not leader)

    def leading(self) -> Installation | None:
        return next((there for there in self.both if says(there).get("leads")), None)

    def wait(self, condition: Callable[[], Any], *, what: str, seconds: float = 60.0) -> Any:
        try:
            return self.both[0].wait(condition, what=what, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n--- the other:\n{self.both[1].log()[-4000:]}") from error

    def run(self, number: int, state: str) -> Any:
        return self.both[0].wait_run(number, state)

    def hold_jobs(self) -> None:
        (self.folder / "wait").touch()

    def let_jobs_end(self) -> None:
        (self.folder / "wait").unlink()

    def close(self) -> None:
        for there in self.both:
            there.close()


def says(there: Installation) -> Mapping[str, Any]:
    """What `/readyz` says; nothing when nobody answers."""
    with contextlib.suppress(DaemonGone):
        return there.ready()
    return {}


def ask(there: Installation, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """Return what is answered to a request that must work."""
    answer = there.ask(method, path, body, **headers)
    assert answer.status < 300, answer
    return answer.body


def cli(there: Installation, *arguments: str) -> str:
    """Return what `retrainctl` prints for an installation."""
    command = [sys.executable, "-m", "controller.cli.main", "--config", str(there.folder / "retrain.yaml"), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def pair(postgres_server: PostgresServer) -> Iterator[Pair]:
    database = postgres_server.create_database()
    folder = Path(tempfile.mkdtemp(prefix="retrain-pair-"))
    found = Pair(folder, database)
    yield found
    found.close()
    postgres_server.drop(database)
    shutil.rmtree(folder, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------- acts


def test_people_act_on_a_follower(pair: Pair) -> None:
    """A press there starts a run on the leader; approve, cancel, pause, resume, replay and tokens work there too."""
    leader, follower = pair.leader, pair.follower
    began = time.monotonic()
    ask(follower, "POST", "/v1/models/churn/retrain", {"reason": "a test"})
    first = pair.run(1, "AWAITING_APPROVAL")
    pressed = time.monotonic() - began
    ask(follower, "POST", f"/v1/runs/{first.id}/approve", {"reason": "a test"})
    pair.run(1, "PROMOTED")
    pair.hold_jobs()
    ask(follower, "POST", "/v1/models/churn/retrain", {"reason": "a test"})
    second = pair.run(2, "TRAINING")
    pair.wait(lambda: leader.job_pids(), what="a job that runs below the leader's directory")
    ask(follower, "POST", f"/v1/runs/{second.id}/cancel", {"reason": "a test"})
    pair.run(2, "CANCELLED")
    pair.let_jobs_end()
    ask(follower, "POST", "/v1/pause", {"target": "all", "reason": "a test"})
    paused = ask(leader, "GET", "/v1/status")["pauses"]
    ask(follower, "POST", "/v1/resume", {"target": "all", "reason": "a test"})
    token = ask(follower, "POST", "/v1/tokens", {"name": "robot"})

    assert pressed < 10  # it was woken: the sweep alone would take as long for each step
    assert [pause["scope"] for pause in paused] == ["all"]
    assert token["token"].startswith("rt_")
    assert [each["name"] for each in ask(leader, "GET", "/v1/tokens")] == ["robot"]


def test_what_comes_to_a_follower_is_decided_by_the_leader(pair: Pair) -> None:
    """A hook and an event by HTTP are stored where they come, decided by the leader, and counted together."""
    leader, follower = pair.leader, pair.follower
    events = {"Content_Type": "application/cloudevents+json"}
    ask(follower, "POST", "/hooks/alerts", _HOOK, **events)
    pair.run(1, "AWAITING_APPROVAL")
    ask(leader, "POST", "/hooks/alerts", {**_HOOK, "id": "h-2", "type": "other"}, **events)
    stored = ask(follower, "POST", "/v1/events", {**_HOOK, "source": "/other", "type": "other"}, **events)
    decided = ask(follower, "GET", f"/v1/events/{stored['event_id']}?wait=20")
    both = [pair.wait(lambda there=there: heard(there) == 2, what="both hooks counted") for there in pair.both]

    assert decided["state"] == "PROCESSED"
    assert both == [True, True]


def heard(there: Installation) -> int:
    return int(ask(there, "GET", "/v1/sources/alerts")["stored"])


def test_dead_letters_are_replayed_on_a_follower(pair: Pair) -> None:
    """What every replica can read is read again there."""
    leader, follower = pair.leader, pair.follower
    refused = leader.ask("POST", "/hooks/odd", {"no": "kind"})
    (letter,) = pair.wait(lambda: ask(follower, "GET", "/v1/dead")["items"], what="a dead letter")
    replayed = ask(follower, "POST", f"/v1/dead/{letter['id']}/replay", {"reason": "a test"})
    dropped = ask(follower, "POST", f"/v1/dead/{letter['id']}/drop", {"reason": "a test"})

    assert refused.status < 500
    assert (replayed["state"], dropped["state"]) == ("DEAD", "DROPPED")


def test_what_only_the_leader_has_is_asked_of_it(pair: Pair) -> None:
    """A follower says which replica to ask: for a source that only the leader runs, and for the log of a job on its host."""
    leader, follower = pair.leader, pair.follower
    ask(leader, "POST", "/v1/models/churn/retrain", {"reason": "a test"})
    run = pair.run(1, "AWAITING_APPROVAL")
    place = f"pid {leader.process.pid} on {os.uname().nodename}, {leader.socket}"  # type: ignore[union-attr]
    listed = {each["name"]: each for each in ask(follower, "GET", "/v1/sources")}
    where = {"where": {"to": "end"}, "reason": "a test"}
    answers = [
        follower.ask("POST", "/v1/sources/nightly/test"),
        follower.ask("POST", "/v1/sources/nightly/seek", where),
        follower.ask("GET", f"/v1/runs/{run.id}/log"),
    ]

    assert [answer.status for answer in answers] == [409, 409, 409]
    assert all(place in answer.body["hint"] for answer in answers), answers
    assert listed["nightly"]["state"] == "elsewhere"
    assert place in listed["nightly"]["reason"]
    assert (listed["alerts"]["state"], listed["nightly"]["shape"]) == ("ok", "timed")
    assert ask(follower, "GET", "/v1/sources/nightly")["healthy"]
    assert ask(follower, "POST", "/v1/sources/alerts/test")["ok"]
    assert leader.ask("GET", f"/v1/runs/{run.id}/log").status == 200


# ------------------------------------------------------------------------------------------------------------ status


def test_status_is_the_same_whoever_is_asked(pair: Pair) -> None:
    """Replicas, leader, term and lag stand in the database; a killed replica shows as gone."""
    leader, follower = pair.leader, pair.follower
    pids = {there: there.process.pid for there in pair.both if there.process is not None}
    first, second = (ask(there, "GET", "/v1/status") for there in (leader, follower))
    shown = cli(follower, "status")
    follower.kill()
    gone = pair.wait(lambda: [each for each in replicas(leader) if each["is_gone"]], what="a replica that is gone")

    for name in ("term", "replica", "pid", "since"):
        assert first["leader"][name] == second["leader"][name]
    assert 0 < first["leader"]["ends_in_seconds"] <= 15
    assert [each["id"] for each in first["replicas"]] == [each["id"] for each in second["replicas"]]
    assert {each["pid"]: each["leads"] for each in second["replicas"]} == {pids[leader]: True, pids[follower]: False}
    assert all(each["is_in_force"] and each["ready"] for each in second["replicas"])
    assert first["lag"] == {"events_seconds": 0.0, "timers": 0, "timers_seconds": 0.0}
    assert f"pid {pids[leader]}, term 1" in shown
    assert "REPLICAS" in shown
    assert "follows" in shown
    assert [each["pid"] for each in gone] == [pids[follower]]


def replicas(there: Installation) -> list[Any]:
    return list(ask(there, "GET", "/v1/status")["replicas"])


# --------------------------------------------------------------------------------------------------------- hand-over


def test_a_new_configuration_takes_the_lead_with_it(pair: Pair) -> None:
    """A reload on the follower makes it lead within seconds; the older replica decides nothing and says why."""
    leader, follower = pair.leader, pair.follower
    follower.configure(pair.config(mode="observe"))
    began = time.monotonic()
    said = cli(follower, "reload")
    pair.wait(lambda: says(follower).get("leads") and not says(leader).get("leads"), what="the newer one to lead")
    seconds = time.monotonic() - began
    reasons = pair.wait(lambda: says(leader).get("reasons"), what="a complaint of the older one")
    ask(leader, "POST", "/hooks/alerts", _HOOK, Content_Type="application/cloudevents+json")
    pair.wait(lambda: all(event.state == "PROCESSED" for event in events(follower)), what="the event to be decided")
    shown = {each["pid"]: each["is_in_force"] for each in replicas(leader)}

    assert "is in use on this replica, which follows" in said
    assert seconds < 10
    assert "has a newer configuration" in reasons[0]
    assert follower.runs() == []  # the policy only observes now
    assert follower.process is not None
    assert leader.process is not None
    assert shown == {follower.process.pid: True, leader.process.pid: False}


def events(there: Installation) -> list[Any]:
    found = there.rows(sa.select(schema.event))
    assert found
    return found


def test_G03_a_leader_that_ends_hands_over_at_once(pair: Pair) -> None:
    """SIGTERM: the other leads within two seconds, and what came meanwhile is decided."""
    leader, follower = pair.leader, pair.follower
    assert leader.process is not None
    began = time.monotonic()
    leader.process.send_signal(signal.SIGTERM)
    follower.wait(lambda: says(follower).get("leads"), what="the other to lead")
    seconds = time.monotonic() - began
    code = leader.process.wait(20)
    ask(follower, "POST", "/v1/models/churn/retrain", {"reason": "a test"})
    follower.wait_run(1, "AWAITING_APPROVAL")

    assert seconds <= 2.0, seconds
    assert code == 0
    assert len(replicas(follower)) == 1


def test_G03_a_leader_that_is_killed_is_replaced(pair: Pair) -> None:
    """`kill -9`: the other leads within twenty seconds; the leader that comes back follows."""
    leader, follower = pair.leader, pair.follower
    began = time.monotonic()
    leader.kill()
    pair.wait(lambda: says(follower).get("leads"), what="the other to lead")
    seconds = time.monotonic() - began
    leader.start()
    leader.wait_ready()
    ask(leader, "POST", "/v1/models/churn/retrain", {"reason": "a test"})
    pair.run(1, "AWAITING_APPROVAL")

    assert seconds <= 20.0, seconds
    assert not says(leader).get("leads")
    assert ask(leader, "GET", "/v1/status")["leader"]["term"] == 2
