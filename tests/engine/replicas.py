"""More daemons on a house's database: one that follows, and what the others know of one."""

from __future__ import annotations

from datetime import datetime

from controller.clock import Ids
from controller.config import load_config
from controller.core.replica import Replica
from controller.engine.runtime import Runtime
from controller.errors import StoreBusy
from controller.store import Store
from controller.telemetry import Metrics
from tests.engine.house import House


class Follows:
    """The lease of a daemon that does not lead."""

    leads = False
    is_contested = True
    has_company = True

    def check(self) -> None:
        """Refuse every outward call that only a leader may make."""
        raise StoreBusy("this replica does not lead")

    def lose(self, reason: str) -> None:
        """Lead no less than before."""


def follower(house: House, owner: str) -> Runtime:
    """Return the runtime of a daemon that follows on the house's database, with this state directory."""
    config = load_config(house.folder / "retrain.yaml")
    store = Store.open(config.store.reveal(), base=config.base, clock=house.clock, ids=Ids(house.clock, house.random))
    runtime = Runtime(
        config=config,
        store=store,
        clock=house.clock,
        random=house.random,
        ids=Ids(house.clock, house.random),
        log=house.log,
        metrics=Metrics(),
        owner=owner,
    )
    runtime.lease = Follows()
    return runtime


def show(house: House, owner: str, *, seen_at: datetime | None = None) -> None:
    """Let the daemon of a state directory have been seen, now unless it says otherwise."""
    now = house.now
    replica = Replica(
        id=f"rep-{owner}",
        owner=owner,
        host="test",
        pid=1,
        program="0",
        config_version=house.runtime.config.version,
        config_at=now,
        address="",
        started_at=now,
        seen_at=seen_at or now,
    )
    with house.store.transaction("show", fenced=False) as tx:
        tx.replicas.show(replica)
