"""Evidently's reports, new and old: what a score means, whose report it is, and when it is known already.

The payloads are in tests/data, with where their shape was read.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from controller.errors import InvalidInput
from controller.sources.webhook.formats.evidently import polarity
from controller.testing import MemoryInbox
from tests.unit.webhook_formats.hook import utc
from tests.webhooks import content


def test_a_report_says_what_a_score_means(hook: Any) -> None:
    """P-values and distances in one report: each with its method, threshold, polarity, sample size and verdict."""
    event = hook(format="evidently").event("evidently/report", query="model=churn&dataset=2026-03")
    columns = event.data["columns"]

    assert (event.type, event.subject, event.source) == ("drift.report", "churn", "/evidently/churn")
    assert {name: (c["polarity"], c["drifted"]) for name, c in columns.items()} == {
        "age": ("below", True),
        "income": ("above", True),
        "city": ("below", False),
        "tenure": ("above", False),
    }
    assert columns["age"] == {
        "method": "K-S p_value",
        "value": 2.29e-70,
        "threshold": 0.05,
        "polarity": "below",
        "drifted": True,
        "rows": {"current": 2000.0},
    }
    # A share that equals the limit is drift.
    assert (event.data["drifted"], event.data["drifted_share"], event.data["drift_share"]) == (True, 0.5, 0.5)
    assert (event.data["drifted_count"], event.data["drifted_columns"]) == (2.0, ["age", "income"])
    assert event.data["tests"] is None  # none were asked for, which is not the same as none failed
    assert event.data["dataset"] == "2026-03"
    assert event.time is None


def test_tests_are_counted(hook: Any) -> None:
    """Those that failed are named."""
    tests = hook(format="evidently").event("evidently/report-with-tests").data["tests"]

    assert (tests["count"], tests["failed_count"], tests["by_status"]) == (2, 1, {"FAIL": 1, "SUCCESS": 1})
    assert [(test["id"], test["critical"]) for test in tests["failed"]] == [("drift", True)]


def test_early_reports_name_a_metric_by_its_call(hook: Any) -> None:
    """`ValueDrift(column=age,…)` is read where there is no `config`."""
    data = hook(format="evidently").event("evidently/report-without-config").data

    assert data["columns"]["age"]["drifted"] is False
    assert (data["drifted"], data["drift_share"]) == (False, 0.5)


@pytest.mark.parametrize("name", ["legacy-report", "legacy-suite"])
def test_the_old_shapes_are_read_too(hook: Any, name: str) -> None:
    """Their own verdict is taken; rows are beside each number where the report has them."""
    data = hook(format="evidently").event(f"evidently/{name}").data

    assert data["drifted"] is True
    assert {column: (c["polarity"], c["drifted"]) for column, c in data["columns"].items()} == {
        "age": ("below", True),
        "city": ("above", False),
    }
    assert data["drifted_columns"] == ["age"]
    if name == "legacy-report":
        assert data["columns"]["age"]["rows"] == {"current": 500, "reference": 1500}
        assert data["drifted_share"] == 0.5


@pytest.mark.parametrize(
    "method, expected",
    [
        ("K-S p_value", "below"), ("chi-square p_value", "below"), ("Z-test p_value", "below"), ("t_test", "below"),
        ("Anderson-Darling", "below"), ("Mann-Whitney U-rank test", "below"), ("Fisher's Exact test", "below"),
        ("Total-Variation-Distance", "below"), ("empirical_mmd", "below"), ("Cramer-von Mises", "below"), ("g_test", "below"),
        ("Epps-Singleton", "below"), ("Wasserstein distance (normed)", "above"), ("PSI", "above"),
        ("Jensen-Shannon distance", "above"), ("Kullback-Leibler divergence", "above"), ("Energy-distance", "above"),
        ("Hellinger distance", "above"), ("Percentile text content drift", "above"), ("", None), (None, None),
    ],
)  # fmt: skip
def test_polarity_by_method(method: str | None, expected: str | None) -> None:
    """Not every p-value says so in its name."""
    assert polarity(method) == expected


def test_the_model_of_a_report_is_found(hook: Any) -> None:
    """In the query, else in the header, else in the option; else there is none."""
    header = ("x-retrain-model", "by-header")
    reports = hook(format="evidently", model="by-option")

    subjects = [
        reports.event("evidently/report", header, query="model=by%20query").subject,
        reports.event("evidently/report", header).subject,
        reports.event("evidently/report").subject,
        hook(format="evidently").event("evidently/report").subject,
    ]
    assert subjects == ["by query", "by-header", "by-option", None]


def test_a_report_is_known_by_its_bytes_and_time(hook: Any, inbox: MemoryInbox) -> None:
    """Posted twice it is one event; another model or another time makes another."""
    reports = hook(format="evidently")
    for query in ("model=a", "model=a", "model=b", "model=a&time=2026-03-05T12:00:00Z"):
        reports.send("evidently/report", query=query)

    assert len(inbox.events) == 3
    assert inbox.events[-1].time == utc(2026, 3, 5, 12)


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"metrics": []}', b'{"metrics": 5}', b'{"tests": [{}]}'])
def test_what_is_no_report_is_refused(hook: Any, inbox: MemoryInbox, body: bytes) -> None:
    """The script that posts it sees why."""
    with pytest.raises(InvalidInput):
        hook(format="evidently").post(body)

    assert not inbox.dead


def test_a_time_that_is_none_is_refused(hook: Any) -> None:
    """Rather than taken for now."""
    with pytest.raises(InvalidInput, match="not an instant"):
        hook(format="evidently").send("evidently/report", query="time=yesterday")


def test_a_large_report_is_taken_where_it_is_allowed(hook: Any) -> None:
    """Two million bytes and three thousand columns: what is too much for an event is counted, not listed."""
    body = copy.deepcopy(content("evidently/report"))
    drift = body["metrics"][1]
    for number in range(3_000):
        body["metrics"].append({**drift, "config": {**drift["config"], "column": f"c{number}"}, "note": "n" * 400})
    (event,) = hook(format="evidently", max_bytes=8 << 20).post(body).batch.events

    assert (len(event.data["columns"]), event.data["truncated"]) == (2_000, True)
