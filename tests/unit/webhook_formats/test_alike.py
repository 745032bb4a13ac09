"""What all formats have in common: what is kept, what is too large, and which content types are taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from controller.core.model import MAX_DEAD_BODY
from controller.errors import InvalidInput, NotUnderstood
from controller.ports import Request
from controller.testing import MemoryInbox
from tests.factories import NOON
from tests.webhooks import make_request, make_source, payload


def test_what_is_kept_is_known_again(hook: Any, inbox: MemoryInbox) -> None:
    """The same body that nobody understands is one dead letter, however often it comes."""
    alerts = hook(format="alertmanager")
    for _ in range(3):
        alerts.post(b"nonsense")

    assert [letter.body for letter in inbox.dead.values()] == [b"nonsense"]
    assert str(inbox.notes["mapping"]).startswith("not understood: not JSON")


def test_what_is_too_large_to_be_kept_is_refused(hook: Any, inbox: MemoryInbox) -> None:
    """What is answered well is stored whole, or not answered well."""
    body = json.dumps({"what": "x" * MAX_DEAD_BODY}).encode()

    with pytest.raises(InvalidInput):
        hook(format="alertmanager", max_bytes=4 << 20).post(body)

    assert not inbox.dead


@pytest.mark.parametrize("kinds", [[], ["text/plain"], ["multipart/form-data; boundary=x"], ["application/json"] * 2])
def test_content_types_that_are_none_are_refused(inbox: MemoryInbox, tmp_path: Path, kinds: list[str]) -> None:
    """Missing, twice, or one that a web page can send unasked."""
    source = make_source(inbox, tmp_path, format="alertmanager")
    proof = make_request(b"").headers[-1]
    request = Request(
        method="POST",
        path="",
        query="",
        headers=[proof, *(("content-type", kind) for kind in kinds)],
        body=payload("alertmanager/firing"),
        received_at=NOON,
    )

    with pytest.raises(NotUnderstood):
        source.take(request)


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/problem+json"])
def test_json_under_its_many_names(hook: Any, kind: str) -> None:
    """With a charset, in capitals, as a kind of something."""
    assert hook(format="alertmanager").event("alertmanager/firing", ("content-type", kind))
