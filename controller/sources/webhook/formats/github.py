"""GitHub's webhooks: a push is new code, which retrains.

Shapes from GitHub's documentation, "Webhook events and payloads" (push: `ref`, `before`, `after`, at most 2,048 `commits`, each with the
files it `added`, `modified` and `removed`), its OpenAPI description (`WebhookPush`), and the examples of octokit/webhooks,
`payload-examples/api.github.com/push/`. Headers: `X-GitHub-Event`, `X-GitHub-Delivery`, `X-Hub-Signature-256`.

The identity of a push is its ref, its new head and the second in which it was pushed, all of them in the signed body: a redelivery is the
same event, and so is a captured request that is sent again under another delivery id; going back to an earlier head is a new event.
GitHub repeats nothing by itself, so what is not understood is kept. A `ping` is answered; that a branch is gone is no event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from controller.core.conditions import Pattern
from controller.core.model import Json, NewEvent
from controller.errors import InvalidInput
from controller.ports import Reply
from controller.sources.webhook.formats.delivery import (
    Delivery,
    Foreign,
    Format,
    Read,
    attribute,
    ignored,
    listed,
    shown,
    table,
)

CODE_PUSHED, CODE_TAGGED = "code.pushed", "code.tagged"
#: GitHub lists at most so many commits of a push.
MAX_COMMITS = 2_048
#: More files of a kind than this are not listed.
MAX_FILES = 500
_MAX_MESSAGE = 2_000
_BRANCH, _TAG = "refs/heads/", "refs/tags/"


def read(delivery: Delivery) -> Read:
    """Return the event of a delivery; none for a ping, and for what the options leave out."""
    kind = delivery.request.header("x-github-event")
    if kind is None:
        raise Foreign("the header X-GitHub-Event is missing", hint="another sender needs another format")
    body = delivery.body()
    if not isinstance(body, dict):
        raise Foreign(f"it is {shown(body)}, not an event of GitHub")
    if kind == "ping":
        return Read(reply=Reply(status=200, body={"answer": "pong"}), remark="a ping")
    if kind not in delivery.options.events:
        return ignored(f"events of GitHub named {kind[:80]!r} are not asked for")
    return _push(delivery, body) if kind == "push" else _other(delivery, attribute("X-GitHub-Event", kind), body)


def _push(delivery: Delivery, body: Mapping[str, Json]) -> Read:
    ref, after = attribute("ref", body.get("ref")), attribute("after", body.get("after"))
    repository = table(body.get("repository"))
    name = attribute("repository.full_name", repository.get("full_name"))
    if body.get("deleted") is True or not after.strip("0"):
        return ignored(f"{ref} of {name} was deleted")
    branch = ref.removeprefix(_BRANCH) if ref.startswith(_BRANCH) else None
    if branch is not None and not any(Pattern(glob).matches(branch) for glob in delivery.options.branches):
        return ignored(f"branch {branch!r} is not asked for")
    pushed_at = _pushed_at(repository)
    moment = f"{body.get('before')}" if pushed_at is None else f"{int(pushed_at.timestamp())}"
    event = NewEvent(
        source=_source(repository, name),
        source_id=attribute("the identity of the push", f"{ref}@{after}/{moment}"),
        type=CODE_TAGGED if ref.startswith(_TAG) else CODE_PUSHED,
        subject=name,
        time=pushed_at,
        data=_data(body, ref=ref, branch=branch),
    )
    return Read(events=[event])


def _data(body: Mapping[str, Json], *, ref: str, branch: str | None) -> dict[str, Json]:
    commits = [
        each
        for each in listed("commits", [] if body.get("commits") is None else body["commits"])
        if isinstance(each, dict)
    ]
    files = {kind: _files(commits, kind) for kind in ("added", "modified", "removed")}
    head = table(body.get("head_commit"))
    message = head.get("message")
    return {
        "ref": ref,
        "branch": branch,
        "tag": ref.removeprefix(_TAG) if ref.startswith(_TAG) else None,
        "before": body.get("before"),
        "after": body.get("after"),
        "created": body.get("created"),
        "forced": body.get("forced"),
        "commit_count": len(commits),
        **{kind: names[:MAX_FILES] for kind, names in files.items()},
        "truncated": len(commits) >= MAX_COMMITS or any(len(names) > MAX_FILES for names in files.values()),
        "message": message[:_MAX_MESSAGE] if isinstance(message, str) else None,
        "author": table(head.get("author")).get("username") or table(head.get("author")).get("name"),
        "pusher": table(body.get("pusher")).get("name"),
        "compare": body.get("compare"),
    }


def _files(commits: Iterable[Mapping[str, Json]], kind: str) -> Sequence[str]:
    """Return the files that any of the commits names, each once, in order."""
    found: dict[str, None] = {}
    for commit in commits:
        names = commit.get(kind)
        if isinstance(names, list):
            found.update((name, None) for name in names if isinstance(name, str))
    return list(found)


def _pushed_at(repository: Mapping[str, Json]) -> datetime | None:
    seconds = repository.get("pushed_at")
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not 0 < seconds < 1 << 36:
        return None
    return datetime.fromtimestamp(seconds, UTC)


def _source(repository: Mapping[str, Json], name: str) -> str:
    address = repository.get("html_url")
    return attribute("repository.html_url", address) if isinstance(address, str) and address else f"/github/{name}"


def _other(delivery: Delivery, kind: str, body: Mapping[str, Json]) -> Read:
    """Return an event that the options ask for by name, as GitHub tells it; its identity is the delivery's."""
    identity = delivery.request.header("x-github-delivery")
    if identity is None:
        raise InvalidInput("the header X-GitHub-Delivery is missing")
    repository, action = table(body.get("repository")), body.get("action")
    name = repository.get("full_name")
    subject = attribute("repository.full_name", name) if name is not None else None
    event = NewEvent(
        source=_source(repository, subject or delivery.name),
        source_id=attribute("X-GitHub-Delivery", identity),
        type=f"github.{kind}" if action is None else f"github.{kind}.{attribute('action', action)}",
        subject=subject,
        data=body,
    )
    return Read(events=[event])


FORMAT = Format(read=read, keeps=True, dialect="github", options=frozenset({"branches", "events"}))
