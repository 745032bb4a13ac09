"""Evidently's reports and test suites, as a job posts them: what `Snapshot.json()` of Evidently 0.7 writes (measured with 0.7.21), and the
JSON of `Report` and `TestSuite` before 0.7, which still ships as `evidently.legacy`.

One report is one event, `drift.report`. The JSON names neither model nor time: these come from the query (`?model=…&time=…&dataset=…`),
from the headers `x-retrain-model`, `-time`, `-dataset`, or, the model, from the option. Its identity is the digest of the body with the
time that was given, so a repeated post is one event.

Whether a score means drift when it is *below* its threshold or above depends on the method, and Evidently chooses the method by the size of
the data; a rule on the bare score is silently wrong half of the time. So each score comes with its `polarity` and the verdict, `drifted`.
Which methods return a p-value was read in evidently 0.7 `legacy/calculations/stattests/`: not all of them say so in their name.

Nothing is sent by Evidently itself: a script of the user's own posts the file, sees the answer, and still has the file. So a body that is
no report is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from controller.core.model import Json, NewEvent
from controller.errors import InvalidInput
from controller.sources.webhook.formats.delivery import (
    Delivery,
    Foreign,
    Format,
    Read,
    attribute,
    instant,
    listed,
    number,
    shown,
    table,
)

#: CloudEvents type of the events.
DRIFT_REPORT = "drift.report"
#: More columns, other metrics or failed tests than this are counted, not listed.
MAX_COLUMNS, MAX_METRICS, MAX_FAILED = 2_000, 500, 200
#: Methods that return a p-value without `p_value` at the end of their name.
_P_VALUES = frozenset(
    {
        "anderson", "anderson-darling", "cramer_von_mises", "cramer-von mises", "empirical_mmd", "epps-singleton", "es",
        "fisher_exact", "fisher's exact test", "g_test", "mannw", "mann-whitney u-rank test", "t_test", "total-variation-distance",
        "tvd", "chisquare", "ks", "z",
    }
)  # fmt: skip
_CALL = re.compile(r"(\w+)\((.*)\)", re.DOTALL)
_ARGUMENT = re.compile(r"(?:^|,)(\w+)=(.*?)(?=,\w+=|$)", re.DOTALL)
_FAILED = frozenset({"FAIL", "ERROR"})


def read(delivery: Delivery) -> Read:
    """Return the one event of a report."""
    body = delivery.body()
    if not isinstance(body, dict):
        raise Foreign(f"it is {shown(body)}, not a report of Evidently")
    metrics = [each for each in listed("metrics", body.get("metrics", [])) if isinstance(each, dict)]
    tests = [each for each in listed("tests", body.get("tests", [])) if isinstance(each, dict)]
    found = _Findings()
    if any("metric_name" in each or "metric_id" in each for each in metrics):
        found.read_metrics(metrics)
    elif any("metric" in each for each in metrics):
        found.read_legacy_metrics(metrics)
    elif not any("status" in each for each in tests):
        raise Foreign("it is no report of Evidently: neither a metric nor a test is in it")
    found.read_tests(tests)
    return Read(events=[_event(delivery, found)])


def _event(delivery: Delivery, found: _Findings) -> NewEvent:
    model = delivery.said("model") or delivery.options.model
    written = delivery.said("time")
    time = instant(written)
    if written is not None and time is None:
        raise InvalidInput(f"time is {written!r}, not an instant", hint="write 2026-01-31T12:00:00Z")
    return NewEvent(
        source=f"/evidently/{attribute('model', model)}" if model else "/evidently",
        source_id=delivery.digest() if written is None else f"{delivery.digest()}@{written}",
        type=DRIFT_REPORT,
        subject=model,
        time=time,
        data={"dataset": delivery.said("dataset"), **found.data()},
    )


def polarity(method: Json) -> str | None:
    """Return whether a score of this method means drift `below` its threshold or `above`; None for a method without a name."""
    if not isinstance(method, str) or not method.strip():
        return None
    name = method.strip().lower()
    return "below" if name in _P_VALUES or re.search(r"p[-_ ]value$", name) else "above"


class _Findings:
    """What a report says, gathered piece by piece."""

    def __init__(self) -> None:
        self._columns: dict[str, dict[str, Json]] = {}
        self._column_count = 0
        self._metrics: dict[str, Json] = {}
        self._dataset: dict[str, Json] = {"drifted_share": None, "drifted_count": None, "drift_share": None}
        self._dataset_drifted: bool | None = None
        self._rows: dict[str, Json] = {}
        self._tests: dict[str, Json] | None = None

    def data(self) -> dict[str, Json]:
        """Return the event's data."""
        rows = self._rows or None
        columns = {name: {**column, "rows": rows} for name, column in self._columns.items()}
        drifted = [name for name, column in columns.items() if column["drifted"]]
        known = [column["drifted"] for column in columns.values() if column["drifted"] is not None]
        verdict = self._dataset_drifted
        if verdict is None and known:
            verdict = bool(drifted)
        return {
            "drifted": verdict,
            **self._dataset,
            "columns": columns,
            "drifted_columns": drifted,
            "rows": rows,
            "metrics": self._metrics,
            "tests": self._tests,
            "truncated": self._column_count > len(columns),
        }

    # --------------------------------------------------------------------------------------------- since 0.7

    def read_metrics(self, metrics: Iterable[Mapping[str, Json]]) -> None:
        for metric in metrics:
            name, config = _configuration(metric)
            value = metric.get("value")
            kind = str(config.get("type") or "").rpartition(":")[2] or name.partition("(")[0]
            if kind == "ValueDrift":
                self._add_column(config.get("column"), config.get("method"), value, config.get("threshold"))
            elif kind == "DriftedColumnsCount":
                counted = table(value)
                self._add_dataset(counted.get("share"), counted.get("count"), config.get("drift_share"))
            elif kind == "RowCount" and number(value) is not None:
                self._rows["current"] = value
            if kind != "ValueDrift" and len(self._metrics) < MAX_METRICS:
                self._metrics[name or kind] = value

    # --------------------------------------------------------------------------------------------- before 0.7

    def read_legacy_metrics(self, metrics: Iterable[Mapping[str, Json]]) -> None:
        for metric in metrics:
            name, result = metric.get("metric"), table(metric.get("result"))
            if name == "DatasetDriftMetric":
                self._add_dataset(
                    result.get("share_of_drifted_columns"),
                    result.get("number_of_drifted_columns"),
                    result.get("drift_share"),
                    drifted=result.get("dataset_drift"),
                )
            elif name == "DataDriftTable":
                for column, said in table(result.get("drift_by_columns")).items():
                    self._add_legacy_column(column, table(said))
            elif name == "ColumnDriftMetric":
                self._add_legacy_column(result.get("column_name"), result)
            elif name == "DatasetSummaryMetric":
                for part in ("current", "reference"):
                    rows = number(table(result.get(part)).get("number_of_rows"))
                    if rows is not None:
                        self._rows[part] = rows

    def _add_legacy_column(self, name: Json, said: Mapping[str, Json]) -> None:
        self._add_column(
            name,
            said.get("stattest_name") or said.get("stattest"),
            said.get("drift_score", said.get("score")),
            said.get("stattest_threshold", said.get("threshold")),
            drifted=said.get("drift_detected", said.get("detected")),
        )

    # --------------------------------------------------------------------------------------------- tests

    def read_tests(self, tests: Iterable[Mapping[str, Json]]) -> None:
        """Count the tests; none at all means that none were asked for, not that none failed."""
        by_status: dict[str, int] = {}
        failed: list[Json] = []
        for test in tests:
            status = str(test.get("status"))[:40].upper()
            by_status[status] = by_status.get(status, 0) + 1
            if status in _FAILED and len(failed) < MAX_FAILED:
                critical = table(test.get("test_config")).get("is_critical")
                failed.append({**{key: test.get(key) for key in ("id", "name", "description")}, "critical": critical})
            for column, said in table(table(test.get("parameters")).get("features")).items():
                self._add_legacy_column(column, table(said))
        if by_status:
            failures = sum(count for status, count in by_status.items() if status in _FAILED)
            self._tests = {
                "count": sum(by_status.values()),
                "failed_count": failures,
                "by_status": by_status,
                "failed": failed,
            }

    # --------------------------------------------------------------------------------------------- common

    def _add_column(self, name: Json, method: Json, value: Json, threshold: Json, *, drifted: Json = None) -> None:
        """Note a column's score; `drifted` is Evidently's own verdict, where it gives one."""
        if not isinstance(name, str):
            return
        if name in self._columns:
            if self._columns[name]["method"] == method:
                return  # the same again, in another place of the report
            name = f"{name} ({method})"
        self._column_count += 1
        if len(self._columns) >= MAX_COLUMNS:
            return
        means, score, limit = polarity(method), number(value), number(threshold)
        verdict = drifted if isinstance(drifted, bool) else None
        if verdict is None and means is not None and score is not None and limit is not None:
            verdict = score < limit if means == "below" else score >= limit
        self._columns[name] = {
            "method": method,
            "value": score,
            "threshold": limit,
            "polarity": means,
            "drifted": verdict,
        }

    def _add_dataset(self, share: Json, count: Json, limit: Json, *, drifted: Json = None) -> None:
        """Note the share of drifted columns; a share equal to the limit is drift, as Evidently's own test has it."""
        portion, most = number(share), number(limit)
        self._dataset = {"drifted_share": portion, "drifted_count": number(count), "drift_share": most}
        if isinstance(drifted, bool):
            self._dataset_drifted = drifted
        elif portion is not None and most is not None:
            self._dataset_drifted = portion >= most


def _configuration(metric: Mapping[str, Json]) -> tuple[str, Mapping[str, Json]]:
    """Return a metric's name and its parameters, which older releases of 0.7 have only in the name: `ValueDrift(column=age,…)`."""
    name = metric.get("metric_name") or metric.get("metric_id")
    name = name[:400] if isinstance(name, str) else ""
    config = metric.get("config")
    if isinstance(config, dict):
        return name, config
    call = _CALL.fullmatch(name)
    if call is None:
        return name, {}
    found: dict[str, Json] = dict(_ARGUMENT.findall(call[2]))
    for key in ("threshold", "drift_share"):
        try:
            found[key] = float(found[key])
        except (KeyError, ValueError):
            found.pop(key, None)
    return name, {"type": call[1], **found}


FORMAT = Format(read=read, keeps=False, options=frozenset({"model"}))
