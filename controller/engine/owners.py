"""Whose a local job is, and whether its host is there.

A job of a local launcher lives on one machine, below one state directory; that directory's id is its owner. Only a daemon with this
directory can find, watch and stop it, whether it leads or not. As long as that daemon is seen, every other one leaves the job to it.
"""

from __future__ import annotations

from datetime import timedelta

from controller.core.replica import is_live
from controller.store import Transaction

#: The owner of an attempt that was meant for one host, and that this host found was not started: whoever leads takes it over.
RELEASED = ""
#: How long a host was not seen that said goodbye, or that nobody knows.
NEVER_SEEN = timedelta.max


def gone_for(tx: Transaction, owner: str) -> timedelta | None:
    """Return for how long no daemon with this state directory was seen; None: one is there."""
    replica = tx.replicas.of_owner(owner)
    if replica is None:
        return NEVER_SEEN
    now = tx.database_now()
    return None if is_live(replica, now) else now - replica.seen_at
