"""Runs get their slot and jobs are launched once, whatever the launcher answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from controller.crash import arm, disarm
from controller.errors import GiveUp, RetryLater
from tests.engine.house import House

MakeHouse = Callable[..., House]


class Killed(BaseException):
    """What a crash point raises here instead of ending the process."""


def die(name: str) -> None:
    raise Killed(name)


def crash_at(house: House, point: str) -> None:
    """Let the dispatcher die at a crash point, and a new process take over."""
    arm(point, die)
    try:
        with pytest.raises(Killed):
            house.dispatcher.tick(house.now)
    finally:
        disarm()
    house.restart()


def test_a_job_gets_the_contract(make_house: MakeHouse) -> None:
    """The environment of design 7, the causes as a file, and a folder of its own."""
    house = make_house(model={"train": {"candidates": {"a": {"params": {"depth": 3}}}}})
    run = house.train(share=0.4)

    order = house.world.job("a").order
    environment = order.environment
    assert environment["RETRAIN_RUN_ID"] == run.id
    assert (environment["RETRAIN_JOB_ID"], environment["RETRAIN_ATTEMPT"]) == (house.job().id, "1")
    assert (environment["RETRAIN_MODEL"], environment["RETRAIN_CANDIDATE"]) == ("churn", "a")
    assert json.loads(environment["RETRAIN_PARAMS"]) == {"depth": 3}
    assert environment["RETRAIN_CHAMPION"] == ""
    (event,) = json.loads((order.folder / "events.json").read_text())
    assert (event["type"], event["data"], event["specversion"]) == ("drift", {"share": 0.4}, "1.0")
    assert environment["RETRAIN_EVENTS"] == str(order.folder / "events.json")


def test_the_champion_is_pinned_at_dispatch(house: House) -> None:
    """The job is told the champion of the moment of dispatch."""
    champion = house.champion(auc=0.7)
    run = house.train()

    told = json.loads(house.world.job("a").order.environment["RETRAIN_CHAMPION"])
    assert (told["version"], told["metrics"]) == (1, {"auc": 0.7})
    assert (run.champion_id, run.epoch) == (champion.id, 1)


def test_one_run_per_model(house: House) -> None:
    """A model's slot is held until the run ends; another model's run does not wait for it."""
    house.write(models={"other": {**house._plan["models"]["churn"], "policies": {"p": {"on": {"type": "o"}}}}})
    house.desk.reload(who="ann")
    house.train()
    house.send()
    house.send("o")
    house.settle()

    assert [(run.model, run.state) for run in house.runs()] == [
        ("churn", "TRAINING"),
        ("churn", "QUEUED"),
        ("other", "TRAINING"),
    ]


def test_the_launchers_slots_are_a_limit(make_house: MakeHouse) -> None:
    """Jobs beyond it stay PENDING, and go when one ends, in their order."""
    house = make_house(
        model={"train": {"candidates": {"a": {}, "b": {}, "c": {}}}},
        launchers={"scripted": {"slots": 2}},
    )
    house.train()
    assert [job.state for job in house.jobs()] == ["RUNNING", "RUNNING", "PENDING"]

    house.world.succeed("a", auc=0.7)
    house.settle()

    assert [job.state for job in house.jobs()] == ["SUCCEEDED", "RUNNING", "RUNNING"]


def test_a_changed_number_of_slots_counts_after_the_reload(make_house: MakeHouse) -> None:
    """A launcher's settings are those of the configuration in force."""
    house = make_house(
        model={"train": {"candidates": {"a": {}, "b": {}}}},
        launchers={"scripted": {"slots": 1}},
    )
    house.train()
    assert [job.state for job in house.jobs()] == ["RUNNING", "PENDING"]

    house.write(launchers={"scripted": {"slots": 2}})
    house.desk.reload(who="ann")
    house.settle()

    assert [job.state for job in house.jobs()] == ["RUNNING", "RUNNING"]


def model(launcher: str) -> dict[str, Any]:
    return {"train": {"launcher": launcher}, "policies": {"drift": {"on": {"type": "drift"}}}}


def two_launchers(make_house: MakeHouse) -> House:
    """Return an installation whose second model is trained by another launcher."""
    models = {"churn": model("scripted"), "other": model("nameless")}
    return make_house(models=models)


def test_a_launcher_is_asked_for_room_outside_of_transactions(make_house: MakeHouse) -> None:
    """Its answer may take long, and nobody could write meanwhile; also when it is met for the first time, after a reload."""
    house = make_house()
    writing = house.store._writing
    assert writing is not None
    asked: list[bool] = []
    house.world.room_asked = lambda: asked.append(writing.locked())
    house.train()
    house.write(models={"other": model("nameless")})
    house.desk.reload(who="ann")
    house.send()
    house.settle()

    assert [job.state for job in house.jobs()] == ["RUNNING", "RUNNING"]
    assert len(asked) >= 2
    assert not any(asked)


def test_a_launcher_that_cannot_say_how_many_jobs_it_takes_waits_alone(make_house: MakeHouse) -> None:
    """Jobs of others are launched; its own wait until it can say."""
    house = two_launchers(make_house)

    def fail() -> None:
        raise ValueError("no such cluster")

    house.world.room_asked = fail
    house.send()
    house.settle()
    waiting = [job.state for job in house.jobs()]
    complaints = house.runtime.complaints.all()
    house.world.room_asked = lambda: None
    house.advance(timedelta(seconds=10))

    assert waiting == ["PENDING", "PENDING"]
    assert (
        len(
            [
                each
                for each in complaints
                if "does not say how many jobs it takes: ValueError('no such cluster')" in each
            ]
        )
        == 2
    )
    assert [job.state for job in house.jobs()] == ["RUNNING", "RUNNING"]
    assert house.runtime.complaints.all() == []


def test_templates_are_filled(make_house: MakeHouse) -> None:
    """A whole value in braces becomes what the event says, byte for byte, as one argument."""
    house = make_house(
        model={
            "train": {
                "command": ["train", "{{ event.data.path }}"],
                "candidates": {"a": {"params": {"share": "{{ event.data.share }}"}}},
            }
        }
    )
    house.train(path="--flag $(rm) ü\n", share=0.25)

    order = house.world.job("a").order
    assert order.options.command == ("train", "--flag $(rm) ü\n")
    assert json.loads(order.environment["RETRAIN_PARAMS"]) == {"share": 0.25}


def test_a_press_does_not_hide_the_data_it_joins(make_house: MakeHouse) -> None:
    """A template's `event` is the newest that brought data, so a person who presses meanwhile does not spoil the run."""
    house = make_house(model={"train": {"command": ["train", "{{ event.data.path }}"]}})
    house.train(path="first")
    house.send(data={"path": "second"})
    house.settle()
    house.retrain()
    house.settle()
    house.world.fail("a")
    house.settle()
    house.advance(30)
    house.world.fail("a")
    house.settle()

    assert house.world.job("a").order.options.command == ("train", "second")
    assert house.causes(house.runs()[-1]) == ["drift", "retrain.requested"]


def test_a_missing_name_fails_the_run(make_house: MakeHouse) -> None:
    """Nothing is launched, the run says which name is missing, and people are told."""
    house = make_house(model={"train": {"command": ["train", "{{ event.data.path }}"]}})
    run = house.train(share=0.4)

    assert (run.state, run.cause) == ("FAILED", "invalid_parameters")
    assert "path" in run.reason
    assert house.jobs() == []
    assert house.mail() == ["failed"]
    assert house.train(path="x").state == "TRAINING", "the slot is free"


def test_a_launch_to_be_retried(house: House) -> None:
    """RETRYABLE with the backoff, then launched as a new attempt; the first was never started."""
    house.world.before_start = [RetryLater("quota exceeded")]
    house.train()
    job = house.job()
    assert (job.state, job.cause) == ("RETRYABLE", "launch_failed")
    assert "quota exceeded" in job.reason
    assert job.due_at == house.now + timedelta(seconds=30)

    house.advance(29.9)
    assert house.world.starts == []
    house.advance(0.1)

    assert (house.job().state, house.job().attempt) == ("RUNNING", 2)
    assert len(house.world.starts) == 1


def test_launches_that_always_fail_end(make_house: MakeHouse) -> None:
    """Each wait doubles, and after the last attempt the run has FAILED with the reason."""
    house = make_house(model={"train": {"retries": {"attempts": 3, "backoff": "30s"}}})
    house.world.before_start = [RetryLater("no room")] * 3
    house.train()
    waits = []
    while house.job().due_at is not None:
        wait = house.job().due_at - house.now
        waits.append(wait.total_seconds())
        house.advance(wait)

    assert waits == [30, 60]
    assert house.job().state == "FAILED"
    assert (house.run().state, house.run().cause) == ("FAILED", "training_failed")
    assert "no room" in house.run().reason


def test_a_launcher_that_gives_up(house: House) -> None:
    """Final at once: another attempt cannot help."""
    house.world.before_start = [GiveUp("command not found: 'train'")]
    house.train()

    assert (house.job().state, house.job().attempt) == ("FAILED", 1)
    assert "command not found" in house.run().reason


def test_one_broken_candidate_does_not_stop_the_other(make_house: MakeHouse) -> None:
    """A plugin's bug says nothing of the job: the same attempt is looked up and launched again; the other jobs are launched."""
    house = make_house(model={"train": {"candidates": {"a": {}, "b": {}}}})
    house.world.before_start = [KeyError("a bug in the launcher")]
    house.train()

    assert [job.state for job in house.jobs()] == ["LAUNCHING", "RUNNING"]
    assert any(event == "job.launch_failed" for _, event, _ in house.log.lines)
    house.advance(4)
    assert [(job.state, job.attempt) for job in house.jobs()] == [("RUNNING", 1), ("RUNNING", 1)]
    assert len(house.world.starts) == 2


def test_a_launcher_that_always_breaks(make_house: MakeHouse) -> None:
    """It is asked again and again, and when patience is over and the job is surely not there, it has failed with the reason."""
    house = make_house()
    house.world.before_start = [KeyError("a bug in the launcher")] * 1000
    house.train()
    for _ in range(60):
        house.advance(30)

    assert (house.job().state, house.job().attempt) == ("FAILED", 1)
    assert "a bug in the launcher" in house.run().reason
    assert house.world.starts == []


@pytest.mark.parametrize("error", [OSError("no more files"), KeyError("a bug")], ids=["OSError", "bug"])
def test_an_unclear_launch_is_found_not_repeated(house: House, error: Exception) -> None:
    """It broke after the start: the job is looked up, adopted, and started once."""
    house.world.after_start = [error]
    house.train()
    house.advance(10)

    assert (house.job().state, house.job().cause) == ("RUNNING", "adopted")
    assert len(house.world.starts) == 1
    assert house.path(house.job().id) == ["PENDING", "LAUNCHING", "RUNNING"]


def test_a_crash_before_the_call(house: House) -> None:
    """The intent is there, the launcher knows nothing of it: it is launched."""
    house.send()
    house.evaluator.tick(house.now)
    crash_at(house, "plugin.launcher.scripted.launch.before")
    assert house.job().state == "LAUNCHING"

    house.settle()

    assert (house.job().state, house.job().cause) == ("RUNNING", "launched")
    assert len(house.world.starts) == 1


@pytest.mark.parametrize("point", ["plugin.launcher.scripted.launch.after", "transaction.launched.before_commit"])
def test_a_crash_after_the_call(house: House, point: str) -> None:
    """The job runs and nobody wrote it down: it is found and adopted, not launched twice."""
    house.send()
    house.evaluator.tick(house.now)
    crash_at(house, point)
    assert house.job().state == "LAUNCHING"

    house.settle()

    assert (house.job().state, house.job().cause) == ("RUNNING", "adopted")
    assert len(house.world.starts) == 1


def test_a_search_that_fails_is_repeated(house: House) -> None:
    """While nobody can say, nothing is launched."""
    house.send()
    house.evaluator.tick(house.now)
    crash_at(house, "plugin.launcher.scripted.launch.after")
    house.world.finds = [RetryLater("timeout"), RetryLater("timeout")]
    house.settle()
    assert house.job().state == "LAUNCHING"

    for _ in range(3):
        house.advance(2)

    assert house.job().cause == "adopted"
    assert len(house.world.starts) == 1


def test_what_cannot_be_searched_is_unknown(make_house: MakeHouse) -> None:
    """Never launched again by itself; people are told, and a person says what became of it."""
    house = make_house(model={"train": {"launcher": "blind"}})
    house.send()
    house.evaluator.tick(house.now)
    crash_at(house, "plugin.launcher.blind.launch.after")
    house.settle()
    house.advance(timedelta(days=1))

    assert (house.job().state, house.job().cause) == ("UNKNOWN", "launch_unknown")
    assert house.run().state == "TRAINING"
    assert house.mail() == ["unknown"]
    assert len(house.world.starts) == 1
    house.desk.resolve(house.run().id, None, "failed", who="ann", reason="I looked")
    house.settle()
    assert (house.job().state, house.run().state) == ("FAILED", "FAILED")


def test_an_answer_lost_by_a_launcher_that_cannot_be_searched(make_house: MakeHouse) -> None:
    """The call broke after it may have started the job: UNKNOWN, at once."""
    house = make_house(model={"train": {"launcher": "blind"}})
    house.world.after_start = [ConnectionResetError("cut off")]
    house.train()

    assert house.job().state == "UNKNOWN"
    assert "cut off" in house.job().reason


def test_a_refusal_by_a_launcher_that_cannot_be_searched(make_house: MakeHouse) -> None:
    """`RetryLater` means that it certainly was not started, so it is tried again."""
    house = make_house(model={"train": {"launcher": "blind"}})
    house.world.before_start = [RetryLater("429")]
    house.train()

    assert house.job().state == "RETRYABLE"


def test_an_unclear_launch_from_another_host_is_unknown(make_house: MakeHouse) -> None:
    """A local job of another state directory cannot be searched from here, so it is not launched again."""
    house = make_house(model={"train": {"launcher": "local"}})
    house.send()
    house.evaluator.tick(house.now)
    arm("plugin.launcher.local.launch.after", die)
    try:
        with pytest.raises(Killed):
            house.dispatcher.tick(house.now)
    finally:
        disarm()
    house.restart(owner="owner-2")

    house.settle()
    assert house.job().state == "LAUNCHING", "its host may come back"
    for _ in range(15):
        house.advance(2)

    assert (house.job().state, house.job().cause) == ("UNKNOWN", "host_gone")
    assert house.mail() == ["unknown"]
    assert len(house.world.starts) == 1


def test_a_run_cancelled_before_its_unclear_launch_is_cleared_up(house: House) -> None:
    """Not there, for as long as a call could still be on its way: it is not launched only to be stopped."""
    house.send()
    house.evaluator.tick(house.now)
    crash_at(house, "plugin.launcher.scripted.launch.before")
    house.desk.cancel(house.run().id, who="ann", reason="never mind")
    house.settle()
    assert house.job().state == "LAUNCHING"

    for _ in range(16):
        house.advance(2)

    assert house.world.starts == []
    assert (house.job().state, house.run().state) == ("CANCELLED", "CANCELLED")


def test_a_launcher_that_is_no_longer_installed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run of a plugin that is gone fails with that reason, and holds nobody else up."""
    from controller.engine import runtime as runtime_module
    from controller.errors import PluginError

    house.send()
    house.evaluator.tick(house.now)
    house.restart()

    def gone(kind: str, name: str) -> None:
        raise PluginError(f"unknown launcher {name!r}")

    with monkeypatch.context() as patch:
        patch.setattr(runtime_module, "load", gone)
        for _ in range(3):
            house.dispatcher.tick(house.now)

    assert house.job().state == "FAILED"
    assert "unknown launcher" in house.run().reason


def test_a_folder_that_a_crash_left_half_made(house: House) -> None:
    """The job has its artifact folder, also when an earlier process died while making one ahead of time."""
    spare = house.folder / "state" / "spare"
    spare.mkdir(exist_ok=True)
    for number in range(1, 9):
        (spare / str(number)).mkdir(exist_ok=True)
    house.restart()
    house.train()

    assert (house.world.job("a").order.folder / "artifact").is_dir()


def test_an_attempts_folder_that_a_crash_left_half_made(house: House) -> None:
    """The same for the attempt's own folder."""
    house.send()
    house.evaluator.tick(house.now)
    crash_at(house, "plugin.launcher.scripted.launch.before")
    (artifact,) = (house.folder / "state" / "runs").glob("**/artifact")
    artifact.rmdir()
    house.settle()

    assert (house.world.job("a").order.folder / "artifact").is_dir()
