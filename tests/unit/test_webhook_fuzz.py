"""Whatever is sent to a hook, by whom it may be: never a 500, never an accident, and nothing that was answered well is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.api.hooks import Hooks
from controller.testing import ManualClock, MemoryInbox, RecordingLog
from tests.factories import NOON
from tests.webhooks import DATA, TOKEN, Intake, call, make_source

CASES: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "alertmanager": ({}, []),
    "alertmanager mapped": ({"mapping": {"type": "'a.' + body.status", "subject": "body.labels.model"}}, []),
    "grafana": ({}, []),
    "cloudevents": ({}, [("content-type", "application/cloudevents+json")]),
    "cloudevents batch": ({}, [("content-type", "application/cloudevents-batch+json")]),
    "cloudevents binary": (
        {},
        [("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t"), ("ce-specversion", "1.0")],
    ),
    "evidently": ({}, [("x-retrain-model", "churn")]),
    "github": ({"branches": ["ma*"], "events": ["push", "release"]}, [("x-github-event", "push")]),
    "github other": ({"events": ["release"]}, [("x-github-event", "release"), ("x-github-delivery", "d")]),
    "s3": ({}, []),
    "s3 sns": ({}, [("content-type", "text/plain"), ("x-amz-sns-message-type", "Notification")]),
    "standard-webhooks": ({}, [("webhook-id", "msg_1")]),
    "generic": ({"mapping": {"type": "body.entity", "subject": "body.data.name", "time": "body.timestamp"}}, []),
    "generic list": ({"mapping": {"items": "body.alerts", "type": "item.kind", "id": "item.name"}}, []),
}


def documents(name: str) -> list[Any]:
    """Return the payloads of a format as JSON: of CloudEvents only those that fit the mode."""
    format_, _, form = name.partition(" ")
    found = [json.loads(path.read_bytes()) for path in sorted((DATA / format_).glob("*.json"))]
    if format_ == "cloudevents":
        return [document for document in found if isinstance(document, list) == (form == "batch")]
    return found


words = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "",
            "\x00",
            "\u2028",
            "\ufffe",
            "a" * 3000,
            "-",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59-14:00",
            "%00",
            "%FF+",
        ]
    ),
)
numbers = st.one_of(st.integers(), st.floats(allow_nan=True), st.sampled_from([10**63, -(10**63), 1e308, 1 << 40]))
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, words),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=4)),
    max_leaves=12,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything in a document."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def put_in(value: Any, path: Sequence[Any], new: Any) -> Any:
    """Return a copy of a document with something else at a path."""
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = put_in(value[path[0]], path[1:], new)
    return copied


@st.composite
def bodies(draw: st.DrawFn, known: Sequence[Any]) -> bytes:
    """Draw a payload, one with something else in it, broken bytes of one, any JSON, or any bytes."""
    kind = draw(st.sampled_from(["as it is", "changed", "changed", "changed", "broken", "json", "bytes"]))
    if kind == "bytes":
        return draw(st.binary(max_size=200))
    document = draw(json_values) if kind == "json" else draw(st.sampled_from(known))
    if kind == "changed":
        for _ in range(draw(st.integers(1, 3))):
            document = put_in(document, draw(st.sampled_from(list(places(document)))), draw(json_values))
    raw = json.dumps(document, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if kind == "broken":
        start = draw(st.integers(0, len(raw)))
        raw = raw[:start] + draw(st.binary(max_size=8)) + raw[start + draw(st.integers(0, 8)) :]
    return raw


odd_headers = st.lists(
    st.tuples(
        st.sampled_from(
            (
                "content-type",
                "x-github-event",
                "x-github-delivery",
                "webhook-id",
                "ce-id",
                "ce-time",
                "x-retrain-time",
                "x-retrain-model",
                "x-amz-sns-message-type",
                "authorization",
            )
        ),
        st.one_of(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\x00"), max_size=30)),
    ),
    max_size=2,
)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.run_until_complete(made.shutdown_default_executor())
    made.close()


@pytest.mark.parametrize("name", CASES)
def test_a_hook_never_stumbles(loop: asyncio.AbstractEventLoop, tmp_path: Path, name: str) -> None:
    """Payloads with anything in them, broken ones, any JSON and any bytes, with and without odd headers."""
    said, headers = CASES[name]
    inbox = MemoryInbox(name="hook", clock=ManualClock(NOON))
    source = make_source(inbox, tmp_path, format=name.split(" ")[0], **said)
    log = RecordingLog()
    outcomes: set[str] = set()
    hooks = Hooks(
        lambda _: source,
        Intake(inbox),
        clock=inbox.clock,
        log=log,
        refused=lambda source, reason: None,
    )
    given_names = {key for key, _ in headers}
    usual = [("authorization", f"Bearer {TOKEN}"), ("content-type", "application/json")]

    @settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        body=bodies(documents(name)),
        more=st.one_of(st.just([]), odd_headers),
        query=st.one_of(
            st.just(""), st.sampled_from(["model=%00", "model=%FF", "time=1", "&" * 60 + "a=b", "model=a&model=b"])
        ),
    )
    def check(body: bytes, more: list[tuple[str, str]], query: str) -> None:
        before = len(inbox.events), len(inbox.dead)
        sent = [*(pair for pair in usual if pair[0] not in given_names), *headers, *more]
        answered = loop.run_until_complete(call(hooks, "POST", f"/hooks/hook?{query}", body, sent))

        assert answered.status in (200, 202, 400, 401, 415)
        assert not [line for line in log.lines if line[0] == "error"]
        if answered.status in (200, 202):
            listed = answered.json.get("events", [])
            assert {each["event_id"] for each in listed} <= {f"evt-{n + 1}" for n in range(len(inbox.events))}
            if "kept" in answered.json:
                assert body in [letter.body for letter in inbox.dead.values()]
            outcomes.add("events" if listed else "kept" if "kept" in answered.json else "nothing")
        else:
            outcomes.add("refused")
            assert before == (len(inbox.events), len(inbox.dead))
            assert set(answered.json) == {"type", "title", "status", "detail", "hint"}
        for event in inbox.events[before[0] :]:
            written = json.dumps(
                [event.source, event.source_id, event.type, event.subject, event.data, event.extensions]
            )
            assert "\\u0000" not in written
            assert len(event.type) <= 2100

    check()
    assert {"events", "refused"} <= outcomes
