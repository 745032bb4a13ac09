"""What a webhook notes of its callers can be read where people are shown it, with what looks secret masked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controller.core.redact import redact
from controller.errors import Unauthorized
from controller.testing import ManualClock, MemoryInbox
from tests.factories import NOON
from tests.webhooks import make_request, make_source


@pytest.mark.parametrize(
    "verify, headers, reason",
    [
        ({"bearer": ["env:KEY"]}, {}, "there is no token"),
        ({"bearer": ["env:KEY"]}, {"authorization": "Bearer guess"}, "the token is wrong"),
        ({"basic": {"username": "ann", "password": ["env:KEY"]}}, {}, "there is no password"),
        ({"basic": {"username": "ann", "password": ["env:KEY"]}}, {"authorization": "Basic eDp5"}, "password is wrong"),
        ({"hmac": {"secret": ["env:KEY"], "dialect": "github"}}, {}, "x-hub-signature-256 is missing or there twice"),
        (
            {"hmac": {"secret": ["env:KEY"], "dialect": "github"}},
            {"x-hub-signature-256": "x"},
            "no well-formed signature",
        ),
        (
            {"hmac": {"secret": ["env:KEY"], "dialect": "github"}},
            {"x-hub-signature-256": "sha256=" + "0" * 64},
            "not match",
        ),
        (
            [{"bearer": "env:KEY"}, {"hmac": {"secret": "env:KEY", "dialect": "github"}}],
            {},
            "there is no token; hmac: ",
        ),
    ],
    ids=["no token", "token", "no password", "password", "no signature", "malformed", "signature", "several"],
)
def test_why_a_caller_was_refused(
    verify: Any, headers: dict[str, str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is in our own words, and masking secrets takes none of them."""
    monkeypatch.setenv("KEY", "opensesame")
    inbox = MemoryInbox(clock=ManualClock(NOON))
    source = make_source(inbox, tmp_path, format="generic", mapping={"type": "'t'"}, verify=verify)

    with pytest.raises(Unauthorized):
        source.take(make_request(b"{}", *headers.items(), token=None))

    noted = str(inbox.notes["signature"])
    assert reason in noted
    assert redact(noted) == noted
