"""Questions to the API: status, models, runs, events, episodes, accounts and logs, and waiting for a run."""

from __future__ import annotations

import threading
from typing import Any

import httpx

from controller.testing.fakes import wait_until
from tests.factories import NOON, make_episode
from tests.integration.api_house import House
from tests.story import MODEL


def test_questions(api: House, unix: httpx.Client) -> None:
    """Status, models, runs, events and accounts are answered; names may be the ends of ids."""
    story = api.story

    assert unix.get("/v1/status").json()["leader"]["host"] == "tower"
    assert [m["name"] for m in unix.get("/v1/models").json()] == [MODEL]
    assert unix.get(f"/v1/models/{MODEL}").json()["champion"]["number"] == 2
    assert unix.get("/v1/runs", params={"state": "REJECTED"}).json()["items"][0]["id"] == story.rejected
    assert unix.get(f"/v1/runs/{story.promoted[-7:]}").json()["id"] == story.promoted
    assert unix.get("/v1/events", params={"state": "DEAD"}).json()["items"][0]["id"] == story.dead
    assert unix.get("/v1/events/2013-02.csv.gz@1").json()["id"] == story.arrived
    assert unix.get(f"/v1/why/{story.missed}").json()["policies"][0]["policy"] == "drift"
    assert unix.get(f"/v1/why/{MODEL}/drift").json()["kind"] == "policy"
    assert b"python_info" in unix.get("/metrics").content


def test_episodes(api: House, unix: httpx.Client) -> None:
    """The alerts that fire are listed, of all sources or of one; what is over is not."""
    over = make_episode(2, key="over", state="RESOLVED", cause="resolved", finished_at=NOON)
    with api.story.store.transaction("test", fenced=False) as tx:
        tx.episodes.begin([make_episode(1, subject="churn"), over])

    (shown,) = unix.get("/v1/episodes").json()
    assert (shown["id"], shown["subject"], shown["state"]) == ("epi-1", "churn", "OPEN")
    assert unix.get("/v1/episodes", params={"origin": "api"}).json() == [shown]
    assert unix.get("/v1/episodes", params={"origin": "bus"}).json() == []
    assert unix.get("/v1/episodes", params={"limit": 0}).status_code == 422


def test_log(api: House, unix: httpx.Client) -> None:
    """A log comes as bytes, with where it goes on."""
    response = unix.get(f"/v1/runs/{api.story.training}/log", params={"offset": 4})

    assert response.content == b"two\n\xff\x00"
    assert (response.headers["x-next-offset"], response.headers["x-skipped"]) == ("10", "3")
    assert unix.get(f"/v1/runs/{api.story.training}/log?candidate=none").status_code == 404


def test_waiting_for_a_run(api: House, unix: httpx.Client) -> None:
    """A long poll answers soon after the run has ended."""
    answers: list[Any] = []
    run_id = api.story.training
    thread = threading.Thread(
        target=lambda: answers.append(unix.get(f"/v1/runs/{run_id}", params={"wait": 30}, timeout=40).json())
    )
    thread.start()
    with api.store.transaction("end") as tx:
        run = tx.runs.get(run_id)
        assert run is not None
        tx.runs.move(run, "FAILED", cause="training_failed", reason="exit code 1")
    # The stand-in clock stands still, so that only the run's end ends the wait.
    thread.join(10)

    assert [run["state"] for run in answers] == ["FAILED"]


def test_stopping_ends_long_polls(api: House, unix: httpx.Client) -> None:
    """A server that stops answers those who wait."""
    answers: list[int] = []
    url = f"/v1/runs/{api.story.training}"
    thread = threading.Thread(target=lambda: answers.append(unix.get(url, params={"wait": 30}, timeout=40).status_code))
    thread.start()
    tasks = api.server._loop.server_state.tasks  # type: ignore[union-attr]
    wait_until(lambda: len(tasks) > 0)
    api.server.stop()
    thread.join(10)

    assert answers == [200]
