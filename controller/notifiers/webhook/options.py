"""What the notifier `webhook` is told."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from controller.core import template
from controller.core.model import Json
from controller.errors import ExpressionError, GiveUp, RetryLater
from controller.notifiers.webhook.bodies import VARIABLES
from controller.notifiers.webhook.signature import key_of
from controller.outbound.guard import Guard, NetworkOption, Place, Resolve, resolve
from controller.ports import Duration, PluginOptions, refusal
from controller.secret import Secret

#: Hosts whose URLs are secrets themselves: who knows one may post.
_SECRET_HOSTS = ("slack.com", "office.com", "logic.azure.com", "powerplatform.com", "discord.com", "googleapis.com")
_OURS = frozenset(
    {"host", "accept-encoding", "connection", "content-length", "content-type", "transfer-encoding", "user-agent"}
    | {"webhook-id", "webhook-timestamp", "webhook-signature"}
)


def _as_several(value: Any) -> Any:
    if isinstance(value, str | Secret):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


_REFERENCE = {"type": "string", "pattern": "^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$"}
#: One secret, or several.
_Secrets = Annotated[
    tuple[Secret, ...],
    BeforeValidator(_as_several),
    WithJsonSchema({"anyOf": [_REFERENCE, {"type": "array", "items": _REFERENCE}]}),
]


class Tls(PluginOptions):
    """How the other side proves who it is."""

    ca: str = Field(min_length=1, description="File of certificates to trust instead of the system's")


class WebhookOptions(PluginOptions):
    """Options of the notifier `webhook`."""

    url: Annotated[Secret | str, Field(union_mode="left_to_right")] = Field(
        description="Where to post: env:NAME or file:PATH, because most such URLs are secrets; or an http or https address"
    )
    secret: _Secrets = Field(
        (), description="Signs in the Standard Webhooks dialect, by reference; several while a key is rotated"
    )
    template: Literal["slack", "teams", "cloudevents", "json"] | dict[str, Any] = Field(
        "json",
        description="The body: for Slack, for Teams, a CloudEvent, JSON, or your own with {{ CEL }} over notification",
    )
    headers: dict[str, Annotated[Secret | str, Field(union_mode="left_to_right")]] = Field(
        default_factory=dict, description="Headers to send; a value may be a reference to a secret"
    )
    timeout: Duration = Field(timedelta(seconds=10), description="When an attempt is given up and made again later")
    tls: Tls | None = Field(None, description="Certificates to trust: {ca: FILE}")
    allow: tuple[NetworkOption, ...] = Field(
        (), description="Networks to allow that are refused otherwise, such as link-local ones"
    )
    deny_private: bool = Field(False, description="Refuse loopback and private addresses too")

    @field_validator("headers")
    @classmethod
    def _headers_are_free(cls, value: Mapping[str, Secret | str]) -> Mapping[str, Secret | str]:
        for name in value:
            if name.lower() in _OURS:
                raise refusal(f"the header {name!r} is set by the notifier itself")
        return value

    @field_validator("template")
    @classmethod
    def _template_is_cel(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        try:
            list(template.expressions(value if isinstance(value, dict) else {}, variables=VARIABLES))
        except ExpressionError as error:
            raise refusal(f"template: {error.message}", hint=error.hint) from None
        return value

    @field_validator("timeout")
    @classmethod
    def _takes_some_time(cls, value: timedelta) -> timedelta:
        if not timedelta(0) < value <= timedelta(minutes=2):
            raise refusal("a timeout must be more than 0s, and not more than 2m")
        return value

    @model_validator(mode="after")
    def _may_be_told(self) -> Self:
        """Judge the URL, as far as it can be known now, without ever showing one that is a secret."""
        if isinstance(self.url, str) and _is_secret(self.url):
            raise refusal(
                "who knows this URL may post there: it is a secret", hint="give it by reference: env:NAME or file:PATH"
            )
        try:
            with contextlib.suppress(RetryLater):  # the loader complains of a secret that cannot be read
                place = place_of(self.url)
                with contextlib.suppress(ValueError):  # a name is judged when it has been resolved
                    self.guard(resolve).judge(place.host, place.host)
        except GiveUp as error:
            raise refusal(error.message, hint=error.hint) from None
        return self

    @field_validator("secret")
    @classmethod
    def _keys_are_well_formed(cls, value: tuple[Secret, ...]) -> tuple[Secret, ...]:
        for secret in value:
            with contextlib.suppress(RetryLater):  # the loader complains of that
                try:
                    key_of(secret.reveal())
                except ValueError as error:
                    raise refusal(f"secret {secret.reference} is malformed: {error}") from None
        return value

    def guard(self, resolver: Resolve) -> Guard:
        """Return the guard that these options describe."""
        return Guard(allow=self.allow, deny_private=self.deny_private, resolve=resolver)

    def form(self) -> Any:
        """Return the name of a body's form, or the user's own template."""
        found: str | Mapping[str, Json] = self.template
        return found


def revealed(value: Secret | str) -> str:
    """Return a text, or the secret's present value without what surrounds it; raises `RetryLater`."""
    return value.reveal().strip() if isinstance(value, Secret) else value


def place_of(url: Secret | str) -> Place:
    """Return where a URL leads; raises `GiveUp` that names the reference of a secret one, and `RetryLater`."""
    try:
        return Place.of(revealed(url))
    except GiveUp:
        if isinstance(url, str):
            raise
        raise GiveUp(f"what {url.reference} holds is no http or https URL that can be used") from None


def _is_secret(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
    except ValueError:
        return False  # complained of where it is taken apart
    return bool(parts.query) or any(host == known or host.endswith(f".{known}") for known in _SECRET_HOSTS)
