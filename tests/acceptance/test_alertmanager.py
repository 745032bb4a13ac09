"""From a drift metric to a training: the real Prometheus fires, the real Alertmanager tells us, and tells us again and again."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from controller.store import schema
from tests import prometheus
from tests.acceptance.harness import Installation

TOKEN = "a-token-for-alerts-0123456789"
DRIFT = 'model_drift_share{model="churn"}'
RULE = {
    "alert": "DataDrift",
    "expr": "model_drift_share > 0.3",
    "labels": {"severity": "page"},
    "annotations": {"value": "{{ $value }}", "summary": "The data of {{ $labels.model }} has drifted"},
}
JOB = r"""
echo x >"$RETRAIN_ARTIFACT_DIR/model"
cp "$RETRAIN_EVENTS" "$CAUSES/$RETRAIN_RUN_ID.json"
echo '{"metrics": {"auc": 0.8}, "champion_metrics": {"auc": 0.7}, "artifact": "model"}' >"$RETRAIN_RESULT.partial"
mv "$RETRAIN_RESULT.partial" "$RETRAIN_RESULT"
"""


@pytest.fixture
def gauges() -> Iterator[prometheus.Gauges]:
    """The model's metrics."""
    endpoint = prometheus.Gauges()
    endpoint.values[DRIFT] = 0.1
    yield endpoint
    endpoint.stop()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Installation]:
    """A daemon with a webhook for alerts, on a port of its own."""
    installation = Installation(tmp_path)
    (tmp_path / "job.sh").write_text(JOB)
    (tmp_path / "causes").mkdir()
    installation.configure(
        {
            "http": {"listen": f"127.0.0.1:{_free_port()}"},
            "sources": {
                "alerts": {"type": "webhook", "format": "alertmanager", "verify": {"bearer": "env:ALERTS_TOKEN"}}
            },
            "models": {
                "churn": {
                    "policies": {"drift": {"on": {"type": "alert.*", "subject": "churn"}}},
                    "train": {
                        "launcher": "process",
                        "command": ["/bin/sh", str(tmp_path / "job.sh")],
                        "env": {"CAUSES": str(tmp_path / "causes")},
                        "candidates": {"a": {}},
                    },
                    "gate": {"objective": {"metric": "auc"}},
                    "promote": [{"type": "alias", "path": "models/churn"}],
                }
            },
        }
    )
    installation.start(ALERTS_TOKEN=TOKEN)
    installation.wait_ready()
    yield installation
    installation.close()


@pytest.fixture
def alertmanager(alertmanager_program: str, there: Installation) -> Iterator[prometheus.Server]:
    """An Alertmanager that tells the daemon of every alert."""
    config = (there.folder / "retrain.yaml").read_text()
    port = re.search(r"127\.0\.0\.1:(\d+)", config)
    assert port is not None
    credentials = {"authorization": {"type": "Bearer", "credentials": TOKEN}}
    receiver = {"url": f"http://127.0.0.1:{port[1]}/hooks/alerts", "send_resolved": True, "http_config": credentials}
    server = prometheus.start_alertmanager(alertmanager_program, receiver=receiver)
    yield server
    server.stop()


@pytest.fixture
def watching(
    prometheus_program: str, gauges: prometheus.Gauges, alertmanager: prometheus.Server
) -> Iterator[prometheus.Server]:
    """A Prometheus that watches the metrics."""
    server = prometheus.start_prometheus(
        prometheus_program, targets=[gauges.address], rules=[RULE], alertmanager=alertmanager.url
    )
    yield server
    server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alerts(there: Installation) -> list[tuple[str, str, str]]:
    """The alerts that were stored, as (type, subject, status)."""
    events = there.rows(sa.select(schema.event).where(schema.event.c.origin == "alerts").order_by(schema.event.c.id))
    return [(event.type, event.subject, event.data["status"]) for event in events]


def notifications(alertmanager: prometheus.Server) -> int:
    """How often Alertmanager has told us something, as it counts itself."""
    found = re.search(
        r'^alertmanager_notifications_total\{integration="webhook"\} (\S+)$',
        alertmanager.text("/metrics"),
        re.MULTILINE,
    )
    failed = re.search(
        r'^alertmanager_notifications_failed_total\{integration="webhook"\} (\S+)$',
        alertmanager.text("/metrics"),
        re.MULTILINE,
    )
    assert found is not None
    assert failed is not None
    assert float(failed[1]) == 0
    return int(float(found[1]))


def causes(there: Installation, run: Any) -> list[dict[str, Any]]:
    """The events that the training was told of."""
    found: list[dict[str, Any]] = json.loads((there.folder / "causes" / f"{run.id}.json").read_text())
    return found


@pytest.mark.timeout(150)
@pytest.mark.usefixtures("watching")
def test_an_alert_is_one_training(
    there: Installation, gauges: prometheus.Gauges, alertmanager: prometheus.Server
) -> None:
    """It fires: one run, however often it is repeated; it resolves: no run; it fires anew: a second one."""
    gauges.values[DRIFT] = 0.42
    first = there.wait_run(1, "PROMOTED")
    firing = ("alert.DataDrift", "churn", "firing")
    assert alerts(there) == [firing]
    (cause,) = causes(there, first)
    assert cause["data"]["labels"]["model"] == "churn"
    assert cause["data"]["value"] == 0.42

    told = notifications(alertmanager)
    there.wait(lambda: notifications(alertmanager) >= told + 3, what="three repeats")
    assert alerts(there) == [firing]
    assert len(there.runs()) == 1

    gauges.values[DRIFT] = 0.1
    resolved = ("alert.DataDrift", "churn", "resolved")
    there.wait(lambda: alerts(there) == [firing, resolved], what="the end of the alert")
    gauges.values[DRIFT] = 0.5
    second = there.wait_run(2, "PROMOTED")
    told = notifications(alertmanager)
    there.wait(lambda: notifications(alertmanager) > told, what="a repeat")

    assert alerts(there) == [firing, resolved, firing]
    (cause,) = causes(there, second)
    assert cause["data"]["value"] == 0.5
    assert len(there.runs()) == 2
    there.wait(
        lambda: not there.rows(sa.select(schema.event).where(schema.event.c.state == "PENDING")), what="all decided"
    )
    assert len(there.runs()) == 2
