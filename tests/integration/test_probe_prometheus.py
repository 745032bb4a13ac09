"""The `prometheus` probe against the real Prometheus, and against what only looks like it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.sources.probe.prometheus import PrometheusProbe
from controller.testing import wait_until
from tests import prometheus
from tests.probes import (
    Bench,
    Script,
    says,
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Builds probes."""
    return Bench(tmp_path)


@pytest.fixture
def script() -> Iterator[Script]:
    """An HTTP server."""
    server = Script()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def gauges() -> Iterator[prometheus.Gauges]:
    """What Prometheus scrapes."""
    endpoint = prometheus.Gauges()
    endpoint.values |= {'model_auc{model="churn"}': 0.75, 'model_auc{model="fraud"}': 0.5}
    yield endpoint
    endpoint.stop()


@pytest.fixture(scope="module")
def real_prometheus(prometheus_program: str, gauges: prometheus.Gauges) -> Iterator[prometheus.Server]:
    """A Prometheus that has scraped the gauges."""
    server = prometheus.start_prometheus(prometheus_program, targets=[gauges.address])
    wait_until(lambda: len(server.get("/api/v1/query", query="model_auc")["data"]["result"]) == 2, timeout=30)
    yield server
    server.stop()


def test_prometheus_vector(bench: Bench, real_prometheus: prometheus.Server) -> None:
    """Each series is an event about its model."""
    events = bench.look(bench.build(PrometheusProbe, url=real_prometheus.url, query="model_auc"))

    assert {data["labels"]["model"]: data["value"] for data in events} == {"churn": 0.75, "fraud": 0.5}
    assert {event.subject for event in bench.inbox.events} == {"churn", "fraud"}
    assert len({event.source_id for event in bench.inbox.events}) == 2
    assert events[0]["query"] == "model_auc"
    assert events[0]["url"] == real_prometheus.url


def test_prometheus_scalar(bench: Bench, real_prometheus: prometheus.Server) -> None:
    """A scalar is one value without labels; so is an aggregate."""
    for query in ("scalar(model_auc{model='churn'}) * 2", "sum(model_auc) + 0.25"):
        (data,) = bench.look(bench.build(PrometheusProbe, url=real_prometheus.url, query=query, subject="churn"))
        assert data["value"] == 1.5
        assert "labels" not in data
    assert {event.subject for event in bench.inbox.events} == {"churn"}


def test_prometheus_change(bench: Bench, real_prometheus: prometheus.Server, gauges: prometheus.Gauges) -> None:
    """A series that moved by the step is one event, and the others are none."""
    gauges.values['model_drift{model="churn"}'] = 0.1
    gauges.values['model_drift{model="fraud"}'] = 0.1
    probe = bench.build(PrometheusProbe, url=real_prometheus.url, query="model_drift", emit="change", step=0.2)

    def seen() -> list[str]:
        result = real_prometheus.get("/api/v1/query", query="model_drift")["data"]["result"]
        return [series["value"][1] for series in result]

    wait_until(lambda: seen() == ["0.1", "0.1"])
    assert bench.look(probe) == []
    gauges.values['model_drift{model="fraud"}'] = 0.4
    wait_until(lambda: "0.4" in seen())

    (data,) = bench.look(probe)

    assert (data["labels"]["model"], data["previous"], data["value"]) == ("fraud", 0.1, 0.4)


def test_prometheus_without_a_value(bench: Bench, real_prometheus: prometheus.Server) -> None:
    """NaN, infinity and nothing at all are no values: complained of, and never an event."""
    for query, complaint in (
        ("sum(model_auc) * 0 / 0", "the value is NaN"),
        ("model_auc / 0", 'model="churn"'),
        ("nothing_of_that_name", "the answer is empty"),
    ):
        assert bench.look(bench.build(PrometheusProbe, url=real_prometheus.url, query=query)) == []
        assert complaint in bench.inbox.complaints["no data"]
    bench.look(bench.build(PrometheusProbe, url=real_prometheus.url, query="nothing", empty="ignore"))
    assert bench.inbox.complaints == {}


@pytest.mark.parametrize(
    "query, complaint",
    [
        ("sum(", "refuses the query: bad_data"),
        ("model_auc[5m]", "gives a matrix"),
        ('"text"', "gives a string"),
        ("model_auc + on() group_left() model_auc", "refuses the query: execution"),
    ],
)
def test_prometheus_refusals(bench: Bench, real_prometheus: prometheus.Server, query: str, complaint: str) -> None:
    """What Prometheus says is wrong is what is complained of."""
    assert complaint in bench.complaint(bench.build(PrometheusProbe, url=real_prometheus.url, query=query))


def test_prometheus_limits(bench: Bench, real_prometheus: prometheus.Server) -> None:
    """Too many series are refused, and so is another kind of server."""
    probe = bench.build(PrometheusProbe, url=real_prometheus.url, query="model_auc", series=1)
    assert "gives 2 series" in bench.complaint(probe)
    probe = bench.build(PrometheusProbe, url=f"{real_prometheus.url}/nowhere", query="x")
    assert "answered 404" in bench.complaint(probe)


def test_prometheus_warnings_and_others(bench: Bench, script: Script) -> None:
    """Warnings are shown beside the value; what is not Prometheus is said to be so."""
    vector = {"resultType": "vector", "result": [{"metric": {"model": "m"}, "value": [1700000000.1, "1.5"]}]}
    script.answer = says({"status": "success", "data": vector, "warnings": ["a store is slow"]})
    probe = bench.build(PrometheusProbe, url=f"http://127.0.0.1:{script.port}/prom/?tenant=a", query="x > 1")

    (data,) = bench.look(probe)

    assert (data["value"], data["warnings"]) == (1.5, ["a store is slow"])
    assert bench.inbox.complaints == {"warnings": "warned: a store is slow"}
    assert script.asked[0][1] == "/prom/api/v1/query?tenant=a&query=x+%3E+1&timeout=30s"
    histogram = {"resultType": "vector", "result": [{"metric": {}, "histogram": [1, {"count": "1"}]}]}
    script.answer = says({"status": "success", "data": histogram})
    assert bench.look(probe) == []
    assert "histogram" in bench.inbox.complaints["no data"]
    for answer in ({}, [], {"status": "success", "data": {"resultType": "vector", "result": [1]}}):
        script.answer = says(answer)
        bench.complaint(probe)
