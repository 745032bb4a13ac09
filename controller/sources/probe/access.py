"""What the probes that ask over HTTP are told of the way there: address, credentials, certificates, and what the guard allows."""

from __future__ import annotations

import base64
import contextlib
from typing import Self

from pydantic import Field, field_validator, model_validator

from controller.errors import GiveUp
from controller.outbound.guard import Guard, NetworkOption, Place, Resolve, resolve
from controller.outbound.web import Web
from controller.ports import PluginOptions, SourceContext, refusal
from controller.secret import Secret
from controller.sources.probe.options import ProbeOptions

_MAX_BYTES = 1 << 20
_MOST_BYTES = 64 << 20


class Basic(PluginOptions):
    """A user name and a password."""

    username: str = Field(min_length=1, description="The user's name")
    password: Secret = Field(description="The password, by reference")

    @field_validator("username")
    @classmethod
    def _no_colon(cls, value: str) -> str:
        if ":" in value:
            raise refusal(f"the user name {value!r} must hold no colon (RFC 7617)")
        return value


class Auth(PluginOptions):
    """Credentials: one of the two."""

    bearer: Secret | None = Field(None, description="A token, by reference")
    basic: Basic | None = Field(None, description="A user name and a password")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.bearer is None) == (self.basic is None):
            raise refusal("`auth` is either `bearer` or `basic`", hint="auth: {bearer: env:TOKEN}")
        return self

    def header(self) -> str:
        """Return the value of the header `Authorization`; raises `RetryLater` when the secret is missing."""
        if self.basic is not None:
            pair = f"{self.basic.username}:{self.basic.password.reveal()}"
            return f"Basic {base64.b64encode(pair.encode()).decode()}"
        return f"Bearer {self.bearer.reveal() if self.bearer is not None else ''}"


class Tls(PluginOptions):
    """How the other side proves who it is."""

    ca: str = Field(min_length=1, description="File of certificates to trust instead of the system's")


class WebOptions(ProbeOptions):
    """What every probe over HTTP is told."""

    url: str = Field(description="Where to ask: http or https, without credentials")
    auth: Auth | None = Field(None, description="Credentials: {bearer: env:NAME} or {basic: {username, password}}")
    tls: Tls | None = Field(None, description="Certificates to trust: {ca: FILE}")
    allow: tuple[NetworkOption, ...] = Field(
        (), description="Networks to allow that are refused otherwise, such as link-local ones"
    )
    deny_private: bool = Field(False, description="Refuse loopback and private addresses too")
    redirects: int = Field(0, ge=0, le=5, description="How many redirects are followed; each is judged like the URL")
    max_bytes: int = Field(_MAX_BYTES, ge=1, le=_MOST_BYTES, description="A longer answer is refused")

    @model_validator(mode="after")
    def _url_may_be_asked(self) -> Self:
        if "#" in self.url:
            raise refusal("the URL has a fragment, which no server is told", hint="leave out what begins with #")
        try:
            place = Place.of(self.url)
            with contextlib.suppress(ValueError):  # a name is judged when it has been resolved
                self.guard(resolve).judge(place.host, place.host)
        except GiveUp as error:
            raise refusal(error.message, hint=error.hint) from None
        return self

    def guard(self, resolver: Resolve) -> Guard:
        """Return the guard that these options describe."""
        return Guard(allow=self.allow, deny_private=self.deny_private, resolve=resolver)

    def web(self, context: SourceContext, resolver: Resolve) -> Web:
        """Return what makes the requests."""
        return Web(
            guard=self.guard(resolver),
            clock=context.clock,
            max_bytes=self.max_bytes,
            redirects=self.redirects,
            ca=None if self.tls is None else context.base / self.tls.ca,
        )

    def credentials(self) -> dict[str, str]:
        """Return the headers that prove who asks; raises `RetryLater` when a secret is missing."""
        return {} if self.auth is None else {"Authorization": self.auth.header()}
