"""What a bucket is told, and where its URL leads."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from controller.errors import InvalidInput
from controller.ports import Duration, GroupOption, PluginOptions, refusal
from controller.secret import Secret


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scheme:
    #: The package that speaks to it, and the extra of ours that brings it.
    package: str
    extra: str
    #: What fsspec calls the two parts of a credential; None where it is only taken from the environment.
    key: str | None = None
    secret: str | None = None
    #: Whether the first part of the path is a bucket.
    buckets: bool = True


_SCHEMES = {
    "s3": _Scheme(package="s3fs", extra="s3", key="key", secret="secret"),  # noqa: S106 - the name of an argument
    "gs": _Scheme(package="gcsfs", extra="gcs"),
    "az": _Scheme(package="adlfs", extra="azure", key="account_name", secret="account_key"),  # noqa: S106 - so is this
    "file": _Scheme(package="fsspec", extra="bucket", buckets=False),
    "memory": _Scheme(package="fsspec", extra="bucket", buckets=False),
}
#: Words in the name of an option whose value would be a secret.
_SECRET_WORDS = ("key", "secret", "token", "password", "passphrase", "credential", "connection_string")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a URL leads."""

    scheme: str
    #: Name of the bucket or container; for local stores, the folder.
    bucket: str
    #: What all keys begin with: empty, or ends with a slash.
    prefix: str

    @property
    def url(self) -> str:
        """The URL of the bucket: the CloudEvents source of its events."""
        return f"{self.scheme}://{self.bucket}"

    @property
    def root(self) -> str:
        """The URL of what is listed, without a slash at its end."""
        return f"{self.url}/{self.prefix}".rstrip("/")


def read_url(url: str) -> Place:
    """Return where a URL leads; raises `InvalidInput` when it is none that is known."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        raise InvalidInput(f"{_without_userinfo(url)!r} is not the URL of a bucket; it begins with one of {known}")
    if "@" in rest.split("/", 1)[0]:
        raise InvalidInput(
            f"{_without_userinfo(url)!r} carries a name or a password", hint="give `key` and `secret` by reference"
        )
    if not _SCHEMES[scheme].buckets:
        path = "/" + rest.strip("/")
        if scheme == "file" and not rest.startswith("/"):
            raise InvalidInput(f"{url!r} is not an absolute path; write file:///folder")
        return Place(scheme=scheme, bucket=path if path != "/" else "", prefix="")
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise InvalidInput(f"{url!r} names no bucket; write {scheme}://bucket/prefix")
    prefix = prefix.strip("/")
    return Place(scheme=scheme, bucket=bucket, prefix=f"{prefix}/" if prefix else "")


def _without_userinfo(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


class BucketOptions(PluginOptions):
    """What a bucket is told."""

    url: str = Field(description="s3://bucket/prefix, gs://, az://container/prefix, file:///folder or memory://folder")
    every: Duration = Field(
        timedelta(minutes=1),
        description="Wait between two listings; at least ten times the length of the last",
    )
    include: tuple[str, ...] = Field(
        ("*",), min_length=1, description="Globs of names that count; with a slash, of paths below the URL"
    )
    exclude: tuple[str, ...] = Field(
        (), description="Globs of names that do not count, also of folders; stronger than include"
    )
    settle: Duration = Field(
        timedelta(0), description="How long ago an object must have been modified, by the store's clock"
    )
    on_start: Literal["backfill", "ignore"] = Field(
        "backfill", description="Whether objects count that were there when the source was first started"
    )
    versions: bool = Field(
        False,
        description="S3: list versions, so that each version of a key is an event, also one with the same content",
    )
    endpoint_url: str | None = Field(None, description="S3: where a server that is not Amazon's listens")
    key: Secret | None = Field(
        None, description="Access key (S3) or account name (Azure); default: as the environment has it"
    )
    secret: Secret | None = Field(None, description="Secret key (S3) or account key (Azure)")
    anonymous: bool = Field(False, description="Ask without credentials")
    options: dict[str, Any] = Field(default_factory=dict, description="Further arguments for the fsspec file system")
    group: GroupOption | None = Field(
        None,
        description="Which objects are one data set, and when it is complete: one event for each data set, none for its objects",
    )
    event_type: str = Field(
        "object.arrived",
        min_length=1,
        description="CloudEvents type of the events; by default object.arrived, and dataset.arrived with group",
    )

    @field_validator("url")
    @classmethod
    def _url_leads_somewhere(cls, value: str) -> str:
        try:
            place = read_url(value)
        except InvalidInput as error:
            raise refusal(error.message, hint=error.hint) from None
        scheme = _SCHEMES[place.scheme]
        for package, extra in (("fsspec", "bucket"), (scheme.package, scheme.extra)):
            if importlib.util.find_spec(package) is None:
                raise refusal(
                    f"a bucket at {place.scheme}:// needs the package {package}, which is not installed",
                    hint=f"pip install 'retrain-controller[{scheme.extra or extra}]'",
                )
        return value

    @field_validator("every")
    @classmethod
    def _listings_have_a_pause(cls, value: timedelta) -> timedelta:
        if value < timedelta(seconds=1):
            raise refusal("a listing every less than 1s costs more than it brings; write 1m")
        return value

    @field_validator("options")
    @classmethod
    def _options_hold_no_secret(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if any(word in name.lower() for word in _SECRET_WORDS) and isinstance(value[name], str):
                raise refusal(
                    f"`options` has {name!r}, which looks like a secret",
                    hint="give `key` and `secret` by reference, or leave it to the environment",
                )
            if name in ("endpoint_url", "anon", "use_listings_cache", "skip_instance_cache", "asynchronous"):
                raise refusal(f"`options` has {name!r}, which the source sets itself")
        return value

    @model_validator(mode="after")
    def _event_type_follows_group(self) -> Self:
        if self.group is not None and "event_type" not in self.model_fields_set:
            object.__setattr__(self, "event_type", "dataset.arrived")  # while it is made; nobody has seen it
        return self

    @model_validator(mode="after")
    def _credentials_fit(self) -> Self:
        scheme = read_url(self.url).scheme
        if (self.key is None) != (self.secret is None):
            raise refusal("`key` and `secret` belong together", hint="give both, or neither")
        if self.key is not None and self.anonymous:
            raise refusal("`anonymous` contradicts `key` and `secret`")
        if self.key is not None and _SCHEMES[scheme].key is None:
            raise refusal(
                f"{scheme}:// takes its credentials from the environment", hint="leave out `key` and `secret`"
            )
        for name in ("endpoint_url", "versions"):
            if scheme != "s3" and getattr(self, name):
                raise refusal(f"`{name}` is for s3:// alone")
        return self

    def place(self) -> Place:
        """Return where the URL leads."""
        return read_url(self.url)

    def arguments(self) -> dict[str, Any]:
        """Return what fsspec is told, secrets included; raises `RetryLater` when there is none where one should be."""
        scheme = _SCHEMES[self.place().scheme]
        arguments = dict(self.options)
        if self.anonymous and scheme.buckets:
            arguments["anon"] = True
        if self.endpoint_url is not None:
            arguments["endpoint_url"] = self.endpoint_url
        if self.key is not None and self.secret is not None and scheme.key is not None and scheme.secret is not None:
            arguments[scheme.key] = self.key.reveal()
            arguments[scheme.secret] = self.secret.reveal()
        return arguments
