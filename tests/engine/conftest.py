"""A `House` per test, and the scripted plugins, registered as a stranger's would be."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller import plugins
from controller.clock import Ids
from controller.store import Store
from controller.testing import ManualClock, SeededRandom
from tests.engine.house import House
from tests.engine.watching import WATCH, promote

_ENTRY_POINTS = """\
[controller.launchers]
scripted = tests.engine.scripted:ScriptedLauncher
blind = tests.engine.scripted:BlindLauncher
local = tests.engine.scripted:LocalLauncher
nameless = tests.engine.scripted:NamelessLauncher

[controller.promoters]
scripted = tests.engine.scripted:ScriptedPromoter

[controller.notifiers]
scripted = tests.engine.scripted:ScriptedNotifier
"""


@pytest.fixture(scope="session")
def plugin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the plugins of `scripted.py` are an installed distribution."""
    folder = tmp_path_factory.mktemp("plugins")
    metadata = folder / "scripted_plugins-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted-plugins\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(_ENTRY_POINTS)
    return folder


@pytest.fixture
def scripted_plugins(plugin_folder: Path) -> Iterator[None]:
    """The scripted plugins, found while a test runs, and by no other test."""
    sys.path.append(str(plugin_folder))
    plugins._found.cache_clear()
    yield
    sys.path.remove(str(plugin_folder))
    plugins._found.cache_clear()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with our schema; a copy of it is quicker than a migration."""
    folder = tmp_path_factory.mktemp("store")
    clock = ManualClock()
    store = Store.open("sqlite:///empty.db", base=folder, clock=clock, ids=Ids(clock, SeededRandom()))
    store.upgrade()
    store.close()
    return folder / "empty.db"


@pytest.fixture
def make_house(tmp_path: Path, empty_store: Path, scripted_plugins: None) -> Iterator[Callable[..., House]]:
    """Make an installation: `model` is laid over the plain model, other keywords over the whole configuration."""
    made: list[House] = []

    def make(*, model: dict[str, Any] | None = None, **config: Any) -> House:
        made.append(House(tmp_path, empty_store, model=model or {}, **config))
        return made[-1]

    yield make
    for house in made:
        house.close()


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    """The plain installation."""
    return make_house()


@pytest.fixture
def watched(make_house: Callable[..., House]) -> House:
    """An installation whose second champion was promoted just now, and is watched."""
    house = make_house(model={"watch": WATCH})
    promote(house, 0.7)
    promote(house, 0.8)
    return house
