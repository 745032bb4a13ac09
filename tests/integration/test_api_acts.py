"""Acts by the API: they reach the desk with who asked, and what is refused says why."""

from __future__ import annotations

import getpass
from datetime import timedelta
from typing import Any

import httpx
import pytest

from controller.errors import ConfigError, Conflict, NotFound, Problem, StoreBusy
from tests.integration.api_house import House

ACTS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("/v1/models/m/rollback", {"reason": "bad", "to": "v1"}, "rollback", {"model": "m", "reason": "bad", "to": "v1"}),
    (
        "/v1/models/m/adopt", {"artifact": "/a", "metrics": {"auc": 1}, "reason": "r"},
        "adopt", {"model": "m", "artifact": "/a", "metrics": {"auc": 1.0}, "reason": "r"},
    ),
    ("/v1/pause", {"target": "all"}, "pause", {"scope": "all", "target": "", "reason": ""}),
    ("/v1/pause", {"target": "m/p", "reason": "r"}, "pause", {"scope": "policy", "target": "m/p", "reason": "r"}),
    ("/v1/resume", {"target": "m"}, "resume", {"scope": "model", "target": "m", "reason": ""}),
    ("/v1/reload", {}, "reload", {}),
    ("/v1/tokens", {"name": "ci2", "expires_in": "90d"}, "create_token", {"name": "ci2", "expires_in": timedelta(days=90)}),
]  # fmt: skip


@pytest.mark.parametrize("path, body, verb, given", ACTS, ids=[f"{act[2]}-{n}" for n, act in enumerate(ACTS)])
def test_acts(
    api: House, unix: httpx.Client, path: str, body: dict[str, Any], verb: str, given: dict[str, Any]
) -> None:
    """Each act reaches the desk with what was given and who asked."""
    response = unix.post(path, json=body)

    assert response.is_success
    assert api.desk.asked == [(verb, {**given, "who": getpass.getuser()})]


@pytest.mark.parametrize("verb", ["cancel", "retry", "approve", "reject"])
def test_acts_on_runs(api: House, unix: httpx.Client, verb: str) -> None:
    """An act on a run takes the end of its id, and needs no body."""
    assert unix.post(f"/v1/runs/{api.story.training[-7:]}/{verb}").is_success
    asked = api.desk.asked[0]
    assert (asked[0], asked[1]["run_id"], asked[1]["reason"]) == (verb, api.story.training, "")


def test_override_needs_a_reason(api: House, unix: httpx.Client) -> None:
    """Promoting over the gate's head without a reason is refused."""
    refused = unix.post("/v1/promote", json={"target": api.story.rejected, "reason": " "})
    done = unix.post("/v1/promote", json={"target": api.story.rejected, "reason": "the gate is too strict"})

    assert (refused.status_code, done.status_code) == (400, 202)
    assert api.desk.asked[0][1]["target"] == api.story.rejected


def test_resolve(api: House, unix: httpx.Client) -> None:
    """An UNKNOWN job is said to be running or failed, nothing else."""
    path = f"/v1/runs/{api.story.training}/resolve"

    assert unix.post(path, json={"as": "gone"}).status_code == 400
    assert unix.post(path, json={"as": "failed", "candidate": "boosting", "reason": "seen dead"}).status_code == 200
    assert api.desk.asked[0][1]["as_"] == "failed"


@pytest.mark.parametrize(
    "failure, status",
    [
        (NotFound("no such model", hint="see models"), 404),
        (Conflict("it has ended"), 409),
        (StoreBusy("disk full", after_seconds=7), 503),
        (RuntimeError("secret path"), 500),
    ],
    ids=["not-found", "conflict", "busy", "bug"],
)
def test_errors_are_problem_documents(api: House, unix: httpx.Client, failure: Exception, status: int) -> None:
    """An error is a problem document with its hint, and never a traceback."""
    api.desk.failure = failure
    response = unix.post("/v1/pause", json={"target": "all"})
    problem = response.json()

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert set(problem) == {"type", "title", "status", "detail", "hint"}
    assert ("secret path" in response.text) is False
    assert status != 503 or response.headers["retry-after"] == "7"


def test_a_refused_configuration_lists_its_problems(api: House, unix: httpx.Client) -> None:
    """A reload of a broken configuration is 422, with every place."""
    api.desk.failure = ConfigError(
        [Problem(file="retrain.yaml", line=3, column=5, path="models.m", message="unknown key")]
    )
    response = unix.post("/v1/reload")

    assert response.status_code == 422
    assert response.json()["problems"][0]["line"] == 3


@pytest.mark.parametrize(
    "method, path, content, kind, status",
    [
        ("POST", "/v1/pause", b'{"target": "all", "target": "m"}', "application/json", 400),
        ("POST", "/v1/pause", b'{"target": NaN}', "application/json", 400),
        ("POST", "/v1/pause", b"target=all", "application/x-www-form-urlencoded", 415),
        ("POST", "/v1/pause", b'{"target": "all"}', "text/plain", 415),
        ("POST", "/v1/pause", b'{"targets": "all"}', "application/json", 422),
        ("POST", "/v1/pause", b"", "application/json", 422),
        ("POST", "/v1/nothing", b"{}", "application/json", 404),
        ("PUT", "/v1/status", b"{}", "application/json", 405),
        ("TRACE", "/v1/status", b"", "", 405),
        ("POST", "/healthz", b"", "", 405),
        ("GET", "/v1/runs?state=WRONG", b"", "", 400),
        ("GET", "/v1/runs?limit=0", b"", "", 422),
        ("GET", "/v1/runs/..%2f..%2fetc", b"", "", 404),
        ("GET", "/v1/runs/%00", b"", "", 404),
        ("GET", "/v1/runs/%ff", b"", "", 404),
    ],
)  # fmt: skip
def test_bad_requests(unix: httpx.Client, method: str, path: str, content: bytes, kind: str, status: int) -> None:
    """What is wrong gets a 4xx that says what, as a problem document."""
    response = unix.request(method, path, content=content, headers={"content-type": kind} if kind else {})

    assert response.status_code == status
    assert response.json()["status"] == status
