"""GitHub's deliveries: a push is new code, known by what was pushed when; the rest is answered.

The payloads are in tests/data, with where their shape was read.
"""

from __future__ import annotations

from typing import Any

import pytest

from controller.errors import NotUnderstood
from controller.testing import MemoryInbox
from tests.unit.webhook_formats.hook import utc
from tests.webhooks import content

PUSH, DELIVERY = ("x-github-event", "push"), ("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")


def test_a_push_is_new_code(hook: Any) -> None:
    """Branch, head, files of all commits, each once."""
    event = hook(format="github").event("github/push", PUSH, DELIVERY)

    assert (event.type, event.subject, event.source) == ("code.pushed", "acme/models", "https://github.com/acme/models")
    assert event.time == utc(2026, 3, 5, 11)
    assert {
        "branch": "main",
        "commit_count": 2,
        "added": ["train/new.py"],
        "modified": ["README.md", "train/fit.py"],
        "removed": ["old.py"],
        "truncated": False,
        "message": "Commit 2",
        "author": "ada",
        "pusher": "ada",
        "before": "6113728f27ae82c7b1a177c8d03f9e96e0adf246",
    }.items() <= event.data.items()


def test_a_push_is_known_by_what_was_pushed_when(hook: Any, inbox: MemoryInbox) -> None:
    """A redelivery, and a captured request under another delivery id, are duplicates; going back to an earlier head is news."""
    code = hook(format="github")
    code.send("github/push", PUSH, DELIVERY)
    code.send("github/push", PUSH, DELIVERY)
    code.send("github/push", PUSH, ("x-github-delivery", "another"))
    later = content("github/push")
    later["repository"]["pushed_at"] += 60
    code.post(later, PUSH, DELIVERY)

    assert (len(inbox.events), len(inbox.duplicates)) == (2, 2)


def test_branches_are_chosen_by_globs(hook: Any) -> None:
    """The others are answered well, and are no events; tags are events of their own."""
    code = hook(format="github", branches=["main", "release/*"])
    main = code.send("github/push", PUSH)
    feature = code.send("github/push-new-branch", PUSH)
    tag = code.send("github/push-tag", PUSH)
    everywhere = hook(format="github").send("github/push-new-branch", PUSH)

    assert [event.data["branch"] for event in main.batch.events] == ["main"]
    assert not feature.batch.events
    assert feature.reply is not None
    assert (feature.reply.status, "feature/x" in feature.reply.body["ignored"]) == (200, True)
    assert [(event.type, event.data["tag"]) for event in tag.batch.events] == [("code.tagged", "v1.2")]
    assert [event.data["branch"] for event in everywhere.batch.events] == ["feature/x"]


@pytest.mark.parametrize("name, event", [("ping", "ping"), ("push-deleted", "push"), ("release", "release")])
def test_what_is_no_push_is_answered_and_not_stored(hook: Any, inbox: MemoryInbox, name: str, event: str) -> None:
    """A ping, a branch that is gone, an event that nobody asked for."""
    taken = hook(format="github").send(f"github/{name}", ("x-github-event", event), DELIVERY)

    assert taken.reply is not None
    assert taken.reply.status == 200
    assert not inbox.events
    assert not inbox.dead


def test_other_events_can_be_asked_for(hook: Any, inbox: MemoryInbox) -> None:
    """They are told as GitHub tells them, and known by their delivery."""
    code = hook(format="github", events=["push", "release"])
    for _ in range(2):
        event = code.event("github/release", ("x-github-event", "release"), DELIVERY)

    assert (event.type, event.subject, event.source_id) == ("github.release.published", "acme/models", DELIVERY[1])
    assert event.data["release"]["tag_name"] == "v1.2"
    assert len(inbox.events) == 1


def test_many_files_are_capped(hook: Any) -> None:
    """And it is said."""
    body = content("github/push")
    body["commits"][0]["added"] = [f"f{number}" for number in range(600)]
    (event,) = hook(format="github").post(body, PUSH).batch.events

    assert (len(event.data["added"]), event.data["truncated"]) == (500, True)


@pytest.mark.parametrize("spoil", [{"ref": 5}, {"after": None}, {"repository": None}, {"commits": {}}])
def test_a_spoilt_push_is_kept(hook: Any, inbox: MemoryInbox, spoil: dict[str, Any]) -> None:
    """GitHub would not send it again."""
    hook(format="github").post({**content("github/push"), **spoil}, PUSH)

    assert not inbox.events
    assert len(inbox.dead) == 1


def test_a_form_is_answered_with_what_to_change(hook: Any) -> None:
    """GitHub's own default for the content type is a form."""
    with pytest.raises(NotUnderstood) as caught:
        hook(format="github").post(b"payload=%7B%7D", ("content-type", "application/x-www-form-urlencoded"))

    assert "application/json" in caught.value.hint
