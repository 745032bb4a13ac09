"""Acts whose answer is lost on the way back to a person: they are asked for again under the same key, and are done once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controller.cli.main import app
from tests.integration.api_house import GOOD, House
from tests.proxy import Loss, Proxy
from tests.story import MODEL

RUNNER = CliRunner()


@pytest.fixture
def house(start_api: Callable[..., House], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    for name in ("RETRAIN_CONFIG", "RETRAIN_URL", "RETRAIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return start_api()


@pytest.fixture
def proxy(house: House) -> Iterator[Proxy]:
    made = Proxy("127.0.0.1", house.port)
    yield made
    made.close()


ACTS = {
    "retrain": ("retrain", MODEL, "--reason", "why"),
    "rollback": ("rollback", MODEL, "--reason", "why"),
    "pause": ("pause", MODEL, "--reason", "why"),
    "resume": ("resume", MODEL),
}


@pytest.mark.parametrize("loss, times", [("request", 1), ("answer", 2)])
@pytest.mark.parametrize("verb", ACTS)
def test_an_act_is_asked_for_again_under_its_key(house: House, proxy: Proxy, verb: str, loss: Loss, times: int) -> None:
    """The command succeeds, and the desk sees one key however often it was asked."""
    proxy.lose_next(b"POST /v1/", loss)
    url = f"http://127.0.0.1:{proxy.port}"
    result = RUNNER.invoke(app, ["--url", url, "--token", GOOD, *ACTS[verb], "-o", "json"])

    assert result.exit_code == 0, result.stderr
    assert proxy.losses == [loss]
    asked = [given for name, given in house.desk.asked if name == verb]
    assert len(asked) == times
    assert len({given["key"] for given in asked}) == 1
    assert json.loads(result.stdout)


def test_a_daemon_that_is_not_there_is_not_waited_for(house: House) -> None:
    """Nothing was asked, so there is nothing to ask for again."""
    result = RUNNER.invoke(app, ["--url", "http://127.0.0.1:1", "--token", GOOD, "pause", MODEL, "--reason", "why"])

    assert result.exit_code == 3
    assert house.desk.asked == []


@pytest.mark.parametrize("verb", ["cancel", "approve", "reject"])
def test_the_key_of_a_request_reaches_the_desk(house: House, verb: str) -> None:
    """Any client may send one."""
    with house.tcp(GOOD) as client:
        answer = client.post(
            f"/v1/runs/{house.story.training}/{verb}", json={"reason": "why"}, headers={"Idempotency-Key": "k-1"}
        )

    assert answer.status_code == 200
    assert [given["key"] for name, given in house.desk.asked if name == verb] == ["k-1"]


def test_what_became_of_a_job_reaches_the_desk(house: House) -> None:
    """With the handle that a person gives."""
    body = {"as": "running", "candidate": "a", "reason": "why", "handle": {"job": 1}}
    with house.tcp(GOOD) as client:
        answer = client.post(f"/v1/runs/{house.story.training}/resolve", json=body, headers={"Idempotency-Key": "k-1"})

    assert answer.status_code == 200
    ((_, given),) = [each for each in house.desk.asked if each[0] == "resolve"]
    assert (given["as_"], given["candidate"], given["handle"], given["key"]) == ("running", "a", {"job": 1}, "k-1")
