"""How senders sign by HMAC: the same idea under different names.

| dialect | read in |
| --- | --- |
| `github` | GitHub's documentation, "Validating webhook deliveries" |
| `grafana` | grafana/alerting, the transport that signs (`X-Grafana-Alerting-Signature`; `<seconds>:<body>` with a timestamp header) |
| `standard-webhooks` | standardwebhooks.com, `spec/standard-webhooks.md`: the key is base64 after `whsec_`, a header may have several |
| `mlflow` | mlflow, `mlflow/webhooks/delivery.py` |
| `slack` | Slack's documentation, "Verifying requests from Slack" |
| `stripe` | Stripe's documentation, "Verify webhook signatures": time and signatures share a header, `t=…,v1=…` |
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

#: The name of the dialect that has no defaults.
CUSTOM = "custom"
#: What stands before the body, for each form of what is signed.
_BEFORE = {
    "body": b"",
    "timestamp.body": b"%(timestamp)s.",
    "timestamp:body": b"%(timestamp)s:",
    "v0:timestamp:body": b"v0:%(timestamp)s:",
    "id.timestamp.body": b"%(id)s.%(timestamp)s.",
}
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """One way of signing."""

    #: Header with the signature; lower case.
    header: str
    algorithm: str = "sha256"
    #: hex or base64.
    encoding: str = "hex"
    #: What stands before each signature.
    prefix: str = ""
    #: Header with the seconds since 1970; None when the time is not signed, or stands in the signature's header.
    timestamp_header: str | None = None
    #: Header with the delivery's id; None when it is not signed.
    id_header: str | None = None
    #: A key of the forms above.
    signed: str = "body"
    #: What parts several signatures in one header; empty for one alone.
    between: str = ""
    #: What the timestamp begins with, where it stands among the signatures.
    timestamp_prefix: str = ""
    #: Whether the secret is base64 after `whsec_`.
    whsec: bool = False

    @property
    def has_timestamp(self) -> bool:
        """Whether the time of sending is signed."""
        return "timestamp" in self.signed

    @classmethod
    def build(cls, name: str, said: Mapping[str, Any]) -> Dialect:
        """Return a dialect with what is said otherwise; raises `ValueError` with a sentence when it makes no sense."""
        parts: dict[str, Any] = dict(DIALECTS.get(name, {})) | dict(said)
        if name == "grafana" and "timestamp_header" in said and "signed" not in said:
            parts["signed"] = "timestamp:body"
        if "header" not in parts:
            raise ValueError(f"dialect {name!r} needs `header`: the one that has the signature")
        for key in ("header", "timestamp_header", "id_header"):
            if parts.get(key) is not None:
                if not _TOKEN.fullmatch(parts[key]):
                    raise ValueError(f"{key} {parts[key]!r} is not the name of a header")
                parts[key] = parts[key].lower()
        found = cls(**parts)
        found._check()
        return found

    def _check(self) -> None:
        if self.has_timestamp and self.timestamp_header is None and not self.timestamp_prefix:
            raise ValueError(f"signed is {self.signed!r}, so `timestamp_header` is needed")
        if self.timestamp_header is not None and not self.has_timestamp:
            raise ValueError(
                "timestamp_header is given, but the time is not signed; say so by `signed: timestamp.body`"
            )
        if "id." in self.signed and self.id_header is None:
            raise ValueError(f"signed is {self.signed!r}, so `id_header` is needed")
        if self.id_header is not None and "id." not in self.signed:
            raise ValueError("id_header is given, but the id is not signed; say so by `signed: id.timestamp.body`")

    def before(self, *, timestamp: bytes, identity: bytes) -> bytes:
        """Return what is signed before the body."""
        pattern = _BEFORE[self.signed]
        return pattern % {b"timestamp": timestamp, b"id": identity} if pattern else b""

    def key(self, secret: str) -> bytes:
        """Return a secret's bytes; raises `ValueError` when it is not of the form that the dialect wants."""
        if not self.whsec or not secret.startswith("whsec_"):
            return secret.encode()
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not key:
            raise ValueError("what follows whsec_ is not base64")
        return key

    def decoded(self, text: str, *, size: int) -> bytes | None:
        """Return a signature's bytes; None for one that is malformed or of another length."""
        if not text.startswith(self.prefix):
            return None
        written = text[len(self.prefix) :]
        try:
            found = bytes.fromhex(written) if self.encoding == "hex" else base64.b64decode(written, validate=True)
        except (binascii.Error, ValueError):
            return None
        return found if len(found) == size and len(written) < 4 * size else None


_ID_TIMESTAMP = {"encoding": "base64", "prefix": "v1,", "signed": "id.timestamp.body"}
#: What each dialect says; everything else is the default of `Dialect`.
DIALECTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "github": {"header": "x-hub-signature-256", "prefix": "sha256="},
        "grafana": {"header": "x-grafana-alerting-signature"},
        "standard-webhooks": {
            "header": "webhook-signature",
            "timestamp_header": "webhook-timestamp",
            "id_header": "webhook-id",
            "between": " ",
            "whsec": True,
            **_ID_TIMESTAMP,
        },
        "mlflow": {
            "header": "x-mlflow-signature",
            "timestamp_header": "x-mlflow-timestamp",
            "id_header": "x-mlflow-delivery-id",
            **_ID_TIMESTAMP,
        },
        "slack": {
            "header": "x-slack-signature",
            "timestamp_header": "x-slack-request-timestamp",
            "prefix": "v0=",
            "signed": "v0:timestamp:body",
        },
        "stripe": {
            "header": "stripe-signature",
            "prefix": "v1=",
            "between": ",",
            "timestamp_prefix": "t=",
            "signed": "timestamp.body",
        },
    }
)
