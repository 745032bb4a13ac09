"""Our webhook keeps the promises of `PushSource`, in every format."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest

from controller.ports import Request
from controller.sources.webhook import WebhookSource
from controller.testing import ManualClock, MemoryInbox, PushSourceContract
from tests.factories import NOON
from tests.webhooks import content, mac, make_request, make_source, standard_headers


class Webhook(PushSourceContract):
    """What all formats share; a number makes a body another one."""

    said: ClassVar[dict[str, Any]]
    headers: tuple[tuple[str, str], ...] = ()

    @pytest.fixture
    def inbox(self) -> MemoryInbox:
        return MemoryInbox(clock=ManualClock(NOON))

    @pytest.fixture
    def make_source(self, inbox: MemoryInbox, tmp_path: Path) -> Callable[[], WebhookSource]:
        return lambda: make_source(inbox, tmp_path, **self.said)

    @pytest.fixture
    def body(self) -> Callable[[], bytes]:
        numbers = count(1)
        return lambda: json.dumps(self.document(next(numbers))).encode()

    @pytest.fixture
    def prove(self) -> Callable[[bytes], Request]:
        return lambda body: make_request(body, *self.headers)

    def document(self, number: int) -> Any:
        raise NotImplementedError


class TestAlertmanager(Webhook):
    said: ClassVar[dict[str, Any]] = {"format": "alertmanager"}

    def document(self, number: int) -> Any:
        body = content("alertmanager/firing")
        body["alerts"][0]["fingerprint"] = f"{number:016x}"
        return body


class TestGrafana(Webhook):
    said: ClassVar[dict[str, Any]] = {"format": "grafana"}

    def document(self, number: int) -> Any:
        body = content("grafana/firing")
        body["alerts"][0]["fingerprint"] = f"{number:016x}"
        return body

    @pytest.fixture
    def make_source(self, inbox: MemoryInbox, tmp_path: Path) -> Callable[[], WebhookSource]:
        (tmp_path / "secret").write_text("the secret of Grafana")
        verify = {"hmac": {"secret": "file:secret", "timestamp_header": "X-Time"}}
        return lambda: make_source(inbox, tmp_path, verify=verify, **self.said)

    @pytest.fixture
    def prove(self) -> Callable[[bytes], Request]:
        seconds = str(int(NOON.timestamp()))

        def sign(body: bytes) -> Request:
            signature = mac("the secret of Grafana", f"{seconds}:".encode(), body).hex()
            headers = [("x-grafana-alerting-signature", signature), ("x-time", seconds)]
            return make_request(body, *headers, token=None)

        return sign


class TestCloudEvents(Webhook):
    said: ClassVar[dict[str, Any]] = {"format": "cloudevents"}
    headers = (("content-type", "application/cloudevents+json"),)

    def document(self, number: int) -> Any:
        return {**content("cloudevents/structured"), "id": f"e-{number}"}


class TestCloudEventsBatch(Webhook):
    said: ClassVar[dict[str, Any]] = {"format": "cloudevents"}
    headers = (("content-type", "application/cloudevents-batch+json"),)

    def document(self, number: int) -> Any:
        return [{**event, "source": f"/{number}"} for event in content("cloudevents/batch")]


class TestEvidently(Webhook):
    said: ClassVar[dict[str, Any]] = {"format": "evidently", "model": "churn"}

    def document(self, number: int) -> Any:
        body = content("evidently/report")
        body["metrics"][1]["value"] = number / 100
        return body


class TestGithub(Webhook):
    said: ClassVar[dict[str, Any]] = {"format": "github"}
    headers = (("x-github-event", "push"), ("x-github-delivery", "72d3162e"))

    def document(self, number: int) -> Any:
        return {**content("github/push"), "after": f"{number:040x}"}


class TestS3(Webhook):
    said: ClassVar[dict[str, Any]] = {"format": "s3"}

    def document(self, number: int) -> Any:
        body = content("s3/created")
        body["Records"][0]["s3"]["object"]["sequencer"] = f"{number:08X}"
        return body


class TestStandardWebhooks(Webhook):
    said: ClassVar[dict[str, Any]] = {"format": "standard-webhooks"}

    def document(self, number: int) -> Any:
        return {**content("standard-webhooks/event"), "data": number}

    @pytest.fixture
    def make_source(self, inbox: MemoryInbox, tmp_path: Path) -> Callable[[], WebhookSource]:
        (tmp_path / "secret").write_text("the secret")
        verify = {"hmac": {"secret": "file:secret"}}
        return lambda: make_source(inbox, tmp_path, verify=verify, **self.said)

    @pytest.fixture
    def prove(self) -> Callable[[bytes], Request]:
        def sign(body: bytes) -> Request:
            headers = standard_headers(b"the secret", body, identity=f"msg_{hash(body):x}")
            return make_request(body, *headers, token=None)

        return sign


class TestGeneric(Webhook):
    said: ClassVar[dict[str, Any]] = {"format": "generic", "mapping": {"type": "body.type", "subject": "body.model"}}

    def document(self, number: int) -> Any:
        return {"type": "data.arrived", "model": "churn", "rows": number}


class TestInsecure(Webhook):
    """Who is asked for no proof has none to be without."""

    said: ClassVar[dict[str, Any]] = {"format": "alertmanager", "insecure": True}

    @pytest.fixture
    def strip(self) -> Callable[[Request], Request] | None:
        return None

    def document(self, number: int) -> Any:
        body = content("alertmanager/firing")
        body["alerts"][0]["fingerprint"] = f"{number:016x}"
        return body
