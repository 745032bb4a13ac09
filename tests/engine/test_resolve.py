"""A person says what became of a job of which nobody knows: `retrainctl runs resolve`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from controller.errors import Conflict, ControllerError, InvalidInput, NotFound, RetryLater
from tests.engine.house import House

MakeHouse = Callable[..., House]


@pytest.fixture
def house(make_house: MakeHouse) -> House:
    """Its only job may have been started, at a launcher that cannot be searched."""
    house = make_house(model={"train": {"launcher": "blind"}})
    house.world.after_start = [ConnectionResetError("cut off")]
    house.train()
    assert house.job().state == "UNKNOWN"
    return house


def resolve(
    house: House, as_: str, *, candidate: str | None = None, run: str | None = None, **more: Any
) -> dict[str, Any]:
    return house.desk.resolve(run or house.run().id, candidate, as_, who="ann", reason="I looked", **more)


def handle_of(house: House) -> dict[str, str]:
    """What the launcher knows the job by."""
    return {"attempt": house.world.starts[0]}


def resolutions(house: House) -> int:
    return sum(act.verb == "resolve" for act in house.acts())


def test_it_has_failed(house: House) -> None:
    """The run ends with the reason and the name of who said so, and the act is kept."""
    answer = resolve(house, "failed")
    house.settle()

    assert answer == {"run": house.run().id, "candidate": "a", "state": "FAILED"}
    assert (house.job().state, house.job().cause, house.run().state) == ("FAILED", "resolved", "FAILED")
    assert "ann: I looked" in house.run().reason
    assert resolutions(house) == 1


def test_it_runs_under_a_handle_that_a_person_gives(house: House) -> None:
    """From then on it is watched like any other."""
    resolve(house, "running", handle=handle_of(house))
    house.settle()
    assert (house.job().state, house.job().cause) == ("RUNNING", "resolved")
    house.world.succeed("a", auc=0.7)
    house.settle()

    assert house.run().state == "PROMOTED"
    assert len(house.world.starts) == 1


@pytest.mark.parametrize("as_", ["running", "failed"])
def test_saying_the_same_again_is_one_act(house: House, as_: str) -> None:
    """The first answer, marked as a repetition."""
    more = {"handle": handle_of(house)} if as_ == "running" else {}
    first = resolve(house, as_, **more)

    assert resolve(house, as_, **more) == {**first, "duplicate": True}
    assert resolutions(house) == 1


def test_the_same_key_gets_the_first_answer_whatever_came_after(house: House) -> None:
    """As when the first answer was lost on its way, and the job has ended meanwhile."""
    more = {"handle": handle_of(house), "key": "k-1"}
    first = resolve(house, "running", **more)
    house.settle()
    house.world.succeed("a", auc=0.7)
    house.settle()

    assert resolve(house, "running", **more) == {**first, "duplicate": True}
    assert resolutions(house) == 1
    with pytest.raises(Conflict, match="k-1"):
        resolve(house, "failed", key="k-1")


def break_launcher(house: House, state: str) -> None:
    job = house.world.job("a")
    if state == "busy":
        job.broken = RetryLater("503")
    else:
        job.state = state  # type: ignore[assignment]


@pytest.mark.parametrize(
    "given, error, said",
    [
        ({"as_": "gone"}, InvalidInput, "'gone'"),
        ({"as_": "running"}, Conflict, "never gave a handle for a"),
        ({"as_": "failed", "handle": {"attempt": "x"}}, InvalidInput, "a handle is for a job that runs"),
        ({"as_": "running", "handle": {"name": "x"}}, InvalidInput, "is no handle that launcher 'blind' takes"),
        ({"as_": "running", "handle": {"attempt": "att-nobody"}}, InvalidInput, "is no handle"),
        ({"as_": "failed", "candidate": "b"}, NotFound, "no candidate 'b'"),
        ({"as_": "failed", "run": "run-nobody"}, NotFound, "run-nobody"),
    ],
)
def test_what_cannot_be_said(house: House, given: dict[str, Any], error: type[ControllerError], said: str) -> None:
    """It is refused with the value and what to do, and nothing changes."""
    as_ = given.pop("as_")
    with pytest.raises(error, match=said) as caught:
        resolve(house, as_, **given)

    assert caught.value.hint or error is InvalidInput or given.get("run")
    assert house.job().state == "UNKNOWN"
    assert resolutions(house) == 0


@pytest.mark.parametrize(
    "state, said",
    [("lost", "knows no job of this handle"), ("unreachable", "knows no job"), ("busy", "cannot be asked now: 503")],
)
def test_a_handle_that_its_launcher_does_not_confirm(house: House, state: str, said: str) -> None:
    """A person may be mistaken, and a job that is not there would be watched in vain."""
    break_launcher(house, state)
    with pytest.raises(Conflict, match=said):
        resolve(house, "running", handle=handle_of(house))

    assert house.job().state == "UNKNOWN"


def test_one_of_several(make_house: MakeHouse) -> None:
    """Which one has to be named, and the other stays as it is."""
    house = make_house(model={"train": {"launcher": "blind", "candidates": {"a": {}, "b": {}}}})
    house.world.after_start = [ConnectionResetError("cut off")] * 2
    house.train()
    with pytest.raises(Conflict, match="UNKNOWN: a, b"):
        resolve(house, "failed")

    resolve(house, "failed", candidate="b")

    assert [job.state for job in house.jobs()] == ["UNKNOWN", "FAILED"]
    assert house.run().state == "TRAINING"


def test_a_job_that_is_not_unknown(make_house: MakeHouse) -> None:
    """Nobody needs to say what everybody sees."""
    house = make_house()
    house.train()

    with pytest.raises(Conflict, match="is UNKNOWN: a is RUNNING"):
        resolve(house, "failed")


def test_a_handle_beside_the_one_that_is_known(make_house: MakeHouse) -> None:
    """What the launcher itself said counts."""
    house = make_house()
    house.train()
    house.world.lose("a")
    house.settle()
    house.world.job("a").broken = RetryLater("no route")
    house.advance(20)
    assert house.job().state == "UNKNOWN"
    with pytest.raises(Conflict, match="gave another handle"):
        resolve(house, "running", handle={"attempt": "att-other"})

    assert resolve(house, "running")["state"] == "RUNNING"


def test_it_was_resolved_otherwise(house: House) -> None:
    """The second word does not undo the first."""
    resolve(house, "running", handle=handle_of(house))

    with pytest.raises(Conflict, match="resolved as running already"):
        resolve(house, "failed")


@pytest.mark.parametrize(
    "verb, arguments",
    [
        ("pause", ("model", "churn")),
        ("resume", ("model", "churn")),
        ("cancel", ("RUN",)),
    ],
)
def test_an_act_that_is_asked_for_again_is_one_act(house: House, verb: str, arguments: tuple[str, ...]) -> None:
    """A client whose answer was lost asks again with its key, and gets the first answer."""
    given = [house.run().id if each == "RUN" else each for each in arguments]
    first = getattr(house.desk, verb)(*given, who="ann", reason="why", key="k-2")

    assert getattr(house.desk, verb)(*given, who="ann", reason="why", key="k-2") == {**first, "duplicate": True}
    assert sum(act.verb == verb for act in house.acts()) == 1
