"""Whom the API answers: tokens on TCP, the user on the Unix socket, anybody who asks how it is."""

from __future__ import annotations

import getpass
import re

import httpx

from tests.integration.api_house import EXPIRED, GOOD, REVOKED, House
from tests.story import MODEL

ROUTES = [
    ("GET", "/v1/status"), ("GET", "/v1/models"), ("GET", "/v1/models/x"), ("POST", "/v1/models/x/retrain"),
    ("POST", "/v1/models/x/rollback"), ("POST", "/v1/models/x/adopt"), ("POST", "/v1/pause"), ("POST", "/v1/resume"),
    ("GET", "/v1/runs"), ("GET", "/v1/runs/x"), ("GET", "/v1/runs/x/log"), ("POST", "/v1/runs/x/cancel"),
    ("POST", "/v1/runs/x/retry"), ("POST", "/v1/runs/x/approve"), ("POST", "/v1/runs/x/reject"),
    ("POST", "/v1/runs/x/resolve"), ("POST", "/v1/promote"), ("GET", "/v1/events"), ("GET", "/v1/events/x"), ("GET", "/v1/episodes"),
    ("POST", "/v1/events"), ("OPTIONS", "/v1/events"), ("GET", "/v1/why/x"), ("POST", "/v1/reload"), ("GET", "/v1/tokens"),
    ("POST", "/v1/tokens"), ("DELETE", "/v1/tokens/x"), ("GET", "/metrics"), ("GET", "/v1/openapi.json"), ("GET", "/"),
    ("GET", "/hooks/x"), ("GET", "/v1/policies"),
    ("GET", "/v1/audit"), ("GET", "/v1/audit/export"), ("GET", "/v1/audit/head"),
]  # fmt: skip


def test_every_route_is_in_the_matrix(unix: httpx.Client) -> None:
    """No route was added without a word about who may use it."""
    paths = unix.get("/v1/openapi.json").json()["paths"]
    documented = {
        (method.upper(), re.sub(r"\{[^}]+\}", "x", path)) for path, methods in paths.items() for method in methods
    }

    assert documented <= set(ROUTES)
    assert len(documented) >= 25


def test_without_a_good_token_nothing_is_answered_on_tcp(api: House) -> None:
    """Every route refuses no token, an unknown, an expired, a revoked one, and one in the query string."""
    headers: list[dict[str, str]] = [
        {},
        {"authorization": "Bearer rt_unknown"},
        {"authorization": f"Bearer {EXPIRED}"},
        {"authorization": f"Bearer {REVOKED}"},
        {"authorization": f"Basic {GOOD}"},
        {"authorization": "Bearer"},
    ]
    answers = []
    for index, header in enumerate(headers):
        with api.tcp() as client:
            for method, path in ROUTES:
                response = client.request(method, f"{path}?access_token={GOOD}&token={GOOD}", headers=header)
                answers.append((index, method, path, response.status_code))

    # Wrong tokens are throttled after a while; either way nothing is told.
    assert {status for *_, status in answers} <= {401, 429}
    assert api.desk.asked == []


def test_a_good_token_is_answered_and_names_the_actor(api: House) -> None:
    """The actor of a request with a token is the token's name."""
    with api.tcp(GOOD) as client:
        status = client.get("/v1/status")
        client.post(f"/v1/runs/{api.story.training}/cancel", json={"reason": "enough"})

    assert status.status_code == 200
    assert api.desk.asked == [("cancel", {"run_id": api.story.training, "who": "token:ci", "reason": "enough"})]


def test_many_wrong_tokens_are_throttled(api: House) -> None:
    """After twenty wrong tokens an address is told to wait; a good one that is in use still counts."""
    with api.tcp() as client:
        wrong = [client.get("/v1/status", headers={"authorization": f"Bearer rt_{n}"}).status_code for n in range(25)]

    assert wrong[:20] == [401] * 20
    assert set(wrong[20:]) == {429}


def test_a_revoked_token_is_refused_at_once(api: House) -> None:
    """Revoking by the API forgets what was trusted."""
    with api.tcp(GOOD) as client:
        assert client.get("/v1/models").status_code == 200
        with api.store.transaction("revoke", fenced=False) as tx:
            tx.people.revoke_token("ci", actor="ada")
        assert client.delete("/v1/tokens/ci").status_code == 200
        assert client.get("/v1/models").status_code == 401


def test_health_needs_no_token(api: House) -> None:
    """/healthz and /readyz answer anybody; reasons say why it is not ready."""
    with api.tcp() as client:
        assert (client.get("/healthz").status_code, client.get("/readyz").status_code) == (200, 200)
        api.health.live, api.health.reasons = False, ("landing: cannot be read",)
        live, ready = client.get("/healthz"), client.get("/readyz")

    assert live.status_code == 503
    assert live.json() == {"live": False, "loops": {"evaluator": 0.1}}
    assert (ready.status_code, ready.json()["reasons"]) == (503, ["landing: cannot be read"])


def test_the_socket_knows_the_user(api: House, unix: httpx.Client) -> None:
    """On the Unix socket the kernel says who asks; the file is for its owner alone."""
    unix.post(
        f"/v1/models/{MODEL}/retrain",
        json={"reason": "new fares", "params": {"a": 1}},
        headers={"idempotency-key": "k"},
    )

    given = {
        "model": MODEL,
        "who": getpass.getuser(),
        "reason": "new fares",
        "params": {"a": 1},
        "key": "k",
    }
    assert api.desk.asked == [("retrain", given)]
    assert api.socket_path.stat().st_mode & 0o777 == 0o600
