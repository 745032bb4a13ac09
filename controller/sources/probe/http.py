"""Asks any HTTP address: for a value in its JSON, or only whether it is another one than before (ETag, date, digest).

Requests are conditional (RFC 9110, section 13) once an answer carried an ETag or a date: "not modified" costs no body, and stands for the
value that was seen last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from controller.core.model import Json
from controller.errors import ExpressionError, GiveUp, RetryLater
from controller.outbound.guard import Resolve, resolve, without_query
from controller.outbound.web import Answer, check_status
from controller.ports import SourceContext, refusal
from controller.secret import Secret
from controller.sources.probe.access import WebOptions
from controller.sources.probe.extract import Extract
from controller.sources.probe.reading import Look, Sample, checked
from controller.sources.probe.source import Probe

_VARIABLES = ("body", "headers", "status")
_OURS = frozenset({"host", "accept-encoding", "connection", "content-length", "transfer-encoding", "if-none-match"})
_OURS_TOO = frozenset({"if-modified-since"})
_NOT_MODIFIED = 304
_VALIDATORS = {"etag": "etag", "last_modified": "last-modified"}


class HttpOptions(WebOptions):
    """What a probe of an HTTP address is told."""

    method: Literal["GET", "HEAD"] = Field("GET", description="HEAD fetches no body, and suits `watch: etag`")
    headers: dict[str, Annotated[Secret | str, Field(union_mode="left_to_right")]] = Field(
        default_factory=dict, description="Headers to send; a value may be a reference to a secret"
    )
    watch: Literal["value", "etag", "last_modified", "digest"] = Field(
        "value", description="What is looked at: a value in the JSON body, the ETag, the date, or the body's SHA-256"
    )
    path: str | None = Field(
        None, description="With `watch: value`: where the value is, as CEL over body, headers, status; by default body"
    )

    @field_validator("headers")
    @classmethod
    def _headers_are_free(cls, value: Mapping[str, Secret | str]) -> Mapping[str, Secret | str]:
        for name in value:
            if name.lower() in _OURS | _OURS_TOO:
                raise refusal(f"the header {name!r} is set by the probe itself")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.watch != "value" and self.path is not None:
            raise refusal(f"`path` is for `watch: value`, and this probe watches {self.watch}")
        if self.method == "HEAD" and self.watch in ("value", "digest"):
            raise refusal(f"HEAD fetches no body, and `watch: {self.watch}` needs one", hint="method: GET")
        if self.auth is not None and any(name.lower() == "authorization" for name in self.headers):
            raise refusal("`auth` and the header Authorization say the same twice", hint="take one of the two out")
        try:
            Extract.load(self.path or "body", variables=_VARIABLES)
        except ExpressionError as error:
            raise refusal(f"path: {error.message}", hint=error.hint) from None
        return self


class HttpProbe(Probe):
    """Reads a value at an HTTP address, or its fingerprint."""

    Options = HttpOptions
    options: HttpOptions

    def __init__(self, options: HttpOptions, context: SourceContext, resolve: Resolve = resolve) -> None:
        super().__init__(options, context)
        self._web = options.web(context, resolve)
        self._extract = Extract.load(options.path or "body", variables=_VARIABLES)

    def look(self, cursor: Json) -> Look:
        options = self.options
        answer = self._web.fetch(
            options.url,
            method=options.method,
            headers={**self._headers(), **_conditions(cursor)},
            timeout_seconds=options.deadline.total_seconds(),
        )
        if answer.status == _NOT_MODIFIED and cursor is not None:
            place = {name: cursor[name] for name in _VALIDATORS}
            return Look(samples=_samples(cursor["value"]), cursor=cursor, place=place, payload=b"(not modified)")
        check_status(answer, now=self.context.clock.now())
        value = checked(self._value(answer), what=f"the value at {without_query(options.url)}")
        fresh = {name: answer.header(header) for name, header in _VALIDATORS.items()}
        known = any(text is not None for text in fresh.values())
        return Look(
            samples=_samples(value),
            cursor={**fresh, "value": value} if known else None,
            place=fresh if known else None,
            payload=answer.body,
        )

    def question(self) -> Json:
        return {"url": self.options.url, "watch": self.options.watch, "path": self.options.path}

    def described(self) -> Mapping[str, Json]:
        return {"url": without_query(self.options.url)}

    def _headers(self) -> dict[str, str]:
        told = self.options.headers.items()
        revealed = {name: value.reveal() if isinstance(value, Secret) else value for name, value in told}
        return {**revealed, **self.options.credentials()}

    def _value(self, answer: Answer) -> Json:
        watch = self.options.watch
        if watch == "digest":
            return f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
        if watch != "value":
            fingerprint = answer.header(_VALIDATORS[watch])
            if fingerprint is None:
                raise GiveUp(
                    f"{without_query(self.options.url)} sends no {_VALIDATORS[watch]} header", hint="watch: digest"
                )
            return fingerprint
        is_read = "body" in self._extract.expression.variables
        body = answer.json(max_bytes=self.options.max_bytes) if is_read else None
        try:
            return self._extract.read({"body": body, "headers": dict(answer.headers), "status": answer.status})
        except ExpressionError as error:
            raise RetryLater(f"path: {error.message}") from error


def _samples(value: Json) -> list[Sample]:
    """Return the one sample; null is no value."""
    return [] if value is None else [Sample(value=value)]


def _conditions(cursor: Json) -> dict[str, str]:
    """Return the headers that ask for an answer only when it is another one."""
    if cursor is None:
        return {}
    if cursor["etag"] is not None:
        return {"If-None-Match": cursor["etag"]}
    return {"If-Modified-Since": cursor["last_modified"]}
