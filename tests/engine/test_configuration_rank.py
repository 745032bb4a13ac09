"""How new a configuration is, is the same for replicas whose clocks differ."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

from controller.clock import Ids
from controller.store import Store, dialect
from controller.testing import ManualClock, SeededRandom


def test_a_configuration_counts_from_its_activation_by_the_database_s_clock(tmp_path: Path, empty_store: Path) -> None:
    """Otherwise one that a replica with a fast clock activated would rule over every later one, until the clocks have caught up."""
    shutil.copy(empty_store, tmp_path / "retrain.db")
    fast, database = ManualClock(), ManualClock()
    fast.advance(timedelta(hours=1))
    url = dialect.parse_url("sqlite:///retrain.db", tmp_path)
    store = Store(url, clock=fast, ids=Ids(fast, SeededRandom()), database_clock=database)

    with store.transaction("activate", fenced=False) as tx:
        tx.people.activate(version="first", body={}, actor="ann", policies=[])
    with store.reading() as tx:
        activated_at = tx.replicas.configured_at("first")
    store.close()

    assert activated_at == database.now()
