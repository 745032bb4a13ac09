"""`GET /v1/policies`: the policies and what came of them, by the API and by `retrainctl` with a daemon."""

from __future__ import annotations

import httpx

from tests.integration.api_house import House
from tests.story import MODEL


def test_policies(api: House, unix: httpx.Client) -> None:
    """All of them, of one model, and only so far back."""
    found = unix.get("/v1/policies").json()

    assert [row["policy"] for row in found] == ["drift", "manual", "new-month"]
    assert found[2]["promoted"] == found[2]["rejected"] == 1
    assert found[2]["fired"] == 2
    assert unix.get("/v1/policies", params={"model": MODEL}).json() == found
    assert [row["fired"] for row in unix.get("/v1/policies", params={"since": "0s"}).json()] == [0, 0]


def test_refusals(api: House, unix: httpx.Client) -> None:
    """An unknown model is not found, and a length that is none is named."""
    assert unix.get("/v1/policies", params={"model": "nowhere"}).status_code == 404
    refused = unix.get("/v1/policies", params={"since": "a while"})

    assert refused.status_code == 400
    assert "a while" in refused.text


def test_it_is_documented(api: House, unix: httpx.Client) -> None:
    """The API's own description has the route and its shape."""
    document = unix.get("/v1/openapi.json").json()

    assert "/v1/policies" in document["paths"]
    assert "wasted_hours" in document["components"]["schemas"]["PolicyShape"]["properties"]
