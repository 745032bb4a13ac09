"""Where to ask for what another replica has: said in the hints of answers that this one cannot give."""

from __future__ import annotations

from controller.core.replica import Replica, is_live
from controller.engine.runtime import Runtime
from controller.store import Transaction


def ask_the_leader(runtime: Runtime) -> str:
    """Return a hint to whoever asked a replica that follows for what only the leader has."""
    with runtime.store.reading() as tx:
        return where_it_leads(tx)


def where_it_leads(tx: Transaction) -> str:
    """As `ask_the_leader`, within a transaction."""
    replica = tx.replicas.leading()
    if replica is None:
        return "nobody leads at the moment; try again in some seconds"
    return f"ask the replica that leads: {place(replica)}"


def place(replica: Replica) -> str:
    """Return which process a replica is, and where it listens."""
    return f"pid {replica.pid} on {replica.host}, {replica.address}"


def other_owner(runtime: Runtime, owner: str) -> tuple[Replica, bool] | None:
    """Return the replica whose state directory this is and whether it is there; None when it is ours, or nobody knows it."""
    if owner == runtime.owner:
        return None
    with runtime.store.reading() as tx:
        replica = tx.replicas.of_owner(owner)
        return None if replica is None else (replica, is_live(replica, tx.database_now()))
