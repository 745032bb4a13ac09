"""When a run may start: up to its policy's `jitter` after the decision, so that models that share a trigger do not start at once.

The share comes from the model's name and is always the same, so that a model keeps its place among the others.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta


def start_at(model: str, *, decided_at: datetime, jitter: timedelta | None) -> datetime | None:
    """Return the instant before which a run is not started; None for at once."""
    return None if jitter is None else decided_at + share_of(model) * jitter


def share_of(model: str) -> float:
    """Return the model's share of any jitter, from 0 to just below 1: the first 53 bits of BLAKE2b over its name."""
    digest = hashlib.blake2b(model.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
