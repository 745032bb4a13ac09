"""Asks Prometheus (or what speaks its API: Thanos, Mimir, VictoriaMetrics) for the present value of a PromQL expression.

One request to `/api/v1/query` (Prometheus documentation, "HTTP API", instant queries). A scalar is one value, each series of a vector one
more, told apart by its labels. A sample that is NaN or infinite is what PromQL answers when there is nothing to compute, such as a
division of nothing by nothing: it is no value, and never an event.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from pydantic import Field

from controller.core.model import Json
from controller.errors import GiveUp, RetryLater
from controller.outbound.guard import Resolve, resolve, without_query
from controller.outbound.web import Answer, check_status
from controller.ports import SourceContext
from controller.sources.probe.access import WebOptions
from controller.sources.probe.reading import Look, Sample
from controller.sources.probe.source import Probe


class PrometheusOptions(WebOptions):
    """What a probe of Prometheus is told."""

    query: str = Field(min_length=1, description="PromQL, with a scalar or an instant vector as its value")
    subject_label: str = Field(
        "model", min_length=1, description="The label that is the events' subject, when `subject` does not say it"
    )
    series: int = Field(100, ge=1, le=1000, description="A vector of more series is refused")


class PrometheusProbe(Probe):
    """Reads the value of a PromQL expression."""

    Options = PrometheusOptions
    options: PrometheusOptions

    def __init__(self, options: PrometheusOptions, context: SourceContext, resolve: Resolve = resolve) -> None:
        super().__init__(options, context)
        self._web = options.web(context, resolve)

    def look(self, cursor: Json) -> Look:
        options = self.options
        seconds = options.deadline.total_seconds()
        asked = urlencode({"query": options.query, "timeout": f"{seconds:g}s"})
        base, _, more = options.url.partition("?")
        url = f"{base.rstrip('/')}/api/v1/query?{f'{more}&' if more else ''}{asked}"
        answer = self._web.fetch(url, method="GET", headers=options.credentials(), timeout_seconds=seconds)
        body = self._body(answer)
        samples, without_value = self._samples(body["data"])
        return Look(
            samples=samples,
            without_value=without_value,
            warnings=[str(warning) for warning in body.get("warnings") or ()],
            payload=answer.body,
        )

    def question(self) -> Json:
        return {"url": self.options.url, "query": self.options.query}

    def described(self) -> Mapping[str, Json]:
        return {"query": self.options.query, "url": without_query(self.options.url)}

    def subject_of(self, sample: Sample) -> str | None:
        label = sample.labels.get(self.options.subject_label)
        return None if label is None else str(label)

    def _body(self, answer: Answer) -> dict[str, Any]:
        """Return the body of a success; raises what Prometheus says is wrong."""
        if answer.status in (400, 422) and answer.body.startswith(b"{"):
            said = answer.json(max_bytes=self.options.max_bytes)
            if isinstance(said, dict) and said.get("status") == "error":
                raise GiveUp(f"Prometheus refuses the query: {said.get('errorType')}: {said.get('error')}")
        check_status(answer, now=self.context.clock.now())
        body = answer.json(max_bytes=self.options.max_bytes)
        if not isinstance(body, dict) or body.get("status") != "success" or not isinstance(body.get("data"), dict):
            raise RetryLater(
                f"{without_query(self.options.url)} does not answer as Prometheus does", hint="is that its address?"
            )
        return body

    def _samples(self, data: Mapping[str, Any]) -> tuple[list[Sample], str | None]:
        kind, result = data.get("resultType"), data.get("result", ())
        try:
            if kind == "scalar":
                found = [(dict[str, Json](), result[1])]
            elif kind == "vector":
                found = [_series(series) for series in result]
            else:
                raise GiveUp(
                    f"the query gives a {kind}, not a number", hint="aggregate over the range, such as avg_over_time(…)"
                )
        except (KeyError, IndexError, TypeError) as error:
            raise RetryLater(f"Prometheus answered a {kind} that cannot be read: {error!r}") from error
        if len(found) > self.options.series:
            raise GiveUp(
                f"the query gives {len(found)} series, at most {self.options.series} are taken",
                hint="aggregate more, or raise `series`",
            )
        samples = []
        without_value = []
        for labels, text in found:
            value = _finite(text)
            if value is None:
                without_value.append(f"{_written(labels) or 'the value'} is {text}")
            else:
                samples.append(Sample(value=value, key=_written(labels), labels=labels))
        return samples, "; ".join(without_value[:3]) or None


def _series(series: Mapping[str, Any]) -> tuple[dict[str, Json], object]:
    """Return labels and value of one element of a vector; a native histogram has no single value."""
    return dict(series["metric"]), series["value"][1] if "value" in series else "a histogram"


def _finite(text: object) -> float | None:
    """Return a sample's number, None when it has none."""
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _written(labels: Mapping[str, Json]) -> str:
    """Return labels as PromQL writes them, in a fixed order; empty for a value without any."""
    name = labels.get("__name__", "")
    pairs = ",".join(f"{key}={json.dumps(labels[key])}" for key in sorted(labels) if key != "__name__")
    return f"{name}{{{pairs}}}" if pairs or name else ""
