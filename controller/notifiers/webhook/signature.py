"""How our webhooks are signed: Standard Webhooks (standardwebhooks.com, `spec/standard-webhooks.md`).

`webhook-id` is the message's id, the same in every repetition, so that a receiver can drop what it knows; `webhook-timestamp` is when this
attempt was made, in seconds since 1970; `webhook-signature` has one `v1,<base64>` for each key, apart by spaces, of HMAC-SHA256 over
`id.timestamp.body`. A key is what follows `whsec_`, as base64, or the secret's own bytes. Several keys are for the time of a rotation.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

_PREFIX = "whsec_"


def signed_headers(*, message_id: str, timestamp: int, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """Return the headers that identify a message, and prove where it comes from if there are keys."""
    headers = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    if keys:
        content = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
        headers["webhook-signature"] = " ".join(f"v1,{_signature(key, content)}" for key in keys)
    return headers


def key_of(secret: str) -> bytes:
    """Return a secret's bytes; raises `ValueError`, without the secret, when what follows `whsec_` is not base64."""
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError("what follows whsec_ is not base64")
    return key


def _signature(key: bytes, content: bytes) -> str:
    return base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
