"""What a webhook is told: its format, how its callers prove who they are, and how a body becomes events.

A webhook without a verifier is refused, unless it says `insecure: true`: whoever reaches it could start a training.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from controller.core.episode import MAX_EXPIRE_SECONDS
from controller.core.strict_json import MAX_BYTES
from controller.ports import Duration, MappingOption, PluginOptions, refusal
from controller.secret import Secret
from controller.sources.webhook.dialects import CUSTOM, DIALECTS, Dialect
from controller.sources.webhook.formats import FORMATS

#: The largest body that a webhook can be told to take.
LARGEST = 64 << 20
#: How far a caller's clock may be from ours, unless the configuration says otherwise.
TOLERANCE = timedelta(minutes=5)
_MAX_SECRETS = 4
_MAX_VERIFIERS = 8
_WRITE = "write `verify: {bearer: env:NAME}`, `{basic: …}` or `{hmac: …}`; or `insecure: true`, to take anything from anybody"


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


_SECRET = {"type": "string", "pattern": "^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$"}
#: One secret, or several while one replaces another.
Secrets = Annotated[
    tuple[Secret, ...],
    Field(min_length=1, max_length=_MAX_SECRETS),
    BeforeValidator(_as_tuple),
    WithJsonSchema(
        {
            "anyOf": [_SECRET, {"type": "array", "items": _SECRET, "minItems": 1, "maxItems": _MAX_SECRETS}],
            "description": "A secret by reference; several while one replaces another: each of them counts",
        }
    ),
]


class BasicOptions(PluginOptions):
    """A user's name and password (RFC 7617)."""

    username: str = Field(min_length=1, max_length=256, description="The user's name")
    password: Secrets

    @field_validator("username")
    @classmethod
    def _has_no_colon(cls, value: str) -> str:
        if ":" in value:
            raise refusal(f"username {value!r} has a colon, which HTTP's basic authentication cannot carry")
        return value


class HmacOptions(PluginOptions):
    """A signature over the body: a dialect names the headers and forms, and each of its parts can be said otherwise."""

    secret: Secrets
    dialect: str | None = Field(
        None, description=f"How the sender signs: {', '.join(DIALECTS)}, or custom; the format's own by default"
    )
    header: str | None = Field(None, description="Header with the signature")
    algorithm: Literal["sha256", "sha384", "sha512"] | None = Field(None, description="Hash of the signature")
    encoding: Literal["hex", "base64"] | None = Field(None, description="How the signature is written")
    prefix: str | None = Field(None, max_length=64, description="What stands before the signature, such as sha256=")
    timestamp_header: str | None = Field(None, description="Header with the time of sending, in seconds since 1970")
    id_header: str | None = Field(None, description="Header with the delivery's id, where it is signed")
    signed: Literal["body", "timestamp.body", "id.timestamp.body", "timestamp:body", "v0:timestamp:body"] | None = (
        Field(None, description="What is signed")
    )
    tolerance: Duration = Field(TOLERANCE, description="How far the signed time may be from ours, either way")

    @field_validator("dialect")
    @classmethod
    def _is_known(cls, value: str | None) -> str | None:
        if value is not None and value not in (*DIALECTS, CUSTOM):
            raise refusal(f"{value!r} is no dialect", hint=_near(value, (*DIALECTS, CUSTOM)))
        return value

    def resolved(self, default: str | None) -> Dialect:
        """Return the dialect with what is said otherwise; `default` is the format's own. Raises a `refusal` when it makes no sense."""
        name = self.dialect or default
        if name is None:
            raise refusal("`hmac` needs a `dialect` here", hint=f"known: {', '.join(DIALECTS)}, {CUSTOM}")
        said = {
            key: value
            for key in ("header", "algorithm", "encoding", "prefix", "timestamp_header", "id_header", "signed")
            if (value := getattr(self, key)) is not None
        }
        try:
            found = Dialect.build(name, said)
        except ValueError as error:
            raise refusal(str(error)) from None
        if "tolerance" in self.model_fields_set and not found.has_timestamp:
            raise refusal("`tolerance` means nothing here: no timestamp is signed", hint="take it out")
        return found


class VerifierOptions(PluginOptions):
    """One way for a caller to prove who it is: exactly one of the three."""

    bearer: Secrets | None = Field(None, description="The token in `Authorization: Bearer …`")
    basic: BasicOptions | None = None
    hmac: HmacOptions | None = None

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        given = [name for name in ("bearer", "basic", "hmac") if getattr(self, name) is not None]
        if len(given) != 1:
            said = " and ".join(given) if given else "nothing"
            raise refusal(f"a verifier is one of bearer, basic and hmac; this one says {said}", hint=_WRITE)
        return self


def _or_one_alone(schema: dict[str, Any]) -> None:
    """Tell editors that a single verifier needs no list."""
    schema["anyOf"].insert(0, next(each["items"] for each in schema["anyOf"] if "items" in each))


#: One verifier, or several.
Verifiers = Annotated[
    tuple[VerifierOptions, ...], Field(min_length=1, max_length=_MAX_VERIFIERS), BeforeValidator(_as_tuple)
]


class WebhookOptions(PluginOptions):
    """What a webhook is told."""

    format: Annotated[str, WithJsonSchema({"enum": sorted(FORMATS), "description": "What its sender speaks"})]
    verify: Verifiers | None = Field(
        None,
        description="How a caller proves who it is; of several, one proof is enough",
        json_schema_extra=_or_one_alone,
    )
    insecure: bool = Field(False, description="Take what comes from anybody; needed where there is no verifier")
    mapping: MappingOption | None = Field(
        None, description="How a body becomes events; needed by format generic, else it changes what the format reads"
    )
    max_bytes: int = Field(MAX_BYTES, ge=1024, le=LARGEST, description="The largest body that is taken")
    expire: Duration = Field(
        timedelta(days=1), description="An alert that says nothing for so long counts as over (formats with alerts)"
    )
    model: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="Subject of the reports, where the request names none (evidently)",
    )
    branches: tuple[str, ...] = Field(
        ("*",), min_length=1, description="Branches whose pushes count, as globs (github)"
    )
    events: tuple[str, ...] = Field(
        ("push",), min_length=1, description="Which of GitHub's events count, by their names (github)"
    )

    @field_validator("format")
    @classmethod
    def _format_is_known(cls, value: str) -> str:
        if value not in FORMATS:
            raise refusal(f"{value!r} is no format of a webhook", hint=_near(value, tuple(FORMATS)))
        return value

    @field_validator("expire")
    @classmethod
    def _expire_is_possible(cls, value: timedelta) -> timedelta:
        if not 1 <= value.total_seconds() <= MAX_EXPIRE_SECONDS:
            raise refusal(f"expire is {value}; from a second to {MAX_EXPIRE_SECONDS // 86_400} days are possible")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self._check_verifiers()
        self._check_format()
        return self

    def _check_verifiers(self) -> None:
        if self.verify is None and not self.insecure:
            raise refusal(
                "a webhook needs a verifier: without one, whoever reaches it can start a training", hint=_WRITE
            )
        if self.verify is not None and self.insecure:
            raise refusal("`insecure: true` and `verify` contradict each other", hint="take one of the two out")
        for verifier in self.verify or ():
            if verifier.hmac is not None:
                verifier.hmac.resolved(FORMATS[self.format].dialect)

    def _check_format(self) -> None:
        if self.format == "generic" and self.mapping is None:
            raise refusal(
                "format generic needs a `mapping`",
                hint="such as mapping: {type: \"'data.arrived'\", subject: body.model}",
            )
        if self.format == "cloudevents" and self.max_bytes > MAX_BYTES:
            raise refusal(f"max_bytes is {self.max_bytes:,}; format cloudevents takes at most {MAX_BYTES:,}")
        own = set(FORMATS[self.format].options)
        if self.mapping is not None and self.mapping.episode is not None:
            own.add("expire")
        for name in ("expire", "model", "branches", "events"):
            if name in self.model_fields_set and name not in own:
                users = ", ".join(key for key, each in FORMATS.items() if name in each.options)
                raise refusal(
                    f"`{name}` means nothing for format {self.format!r}", hint=f"it is for {users}; take it out"
                )


def _near(value: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(value, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
