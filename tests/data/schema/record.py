"""Writes what an older version of this program leaves in its database, as SQL; run once for each schema, when the next one comes.

The rows are made by that version's own code, in a checkout of its last commit, through its own test house: nothing in them is made up.
A line is an INSERT that both databases understand; `tests/migration/old.py` reads them.

    git archive COMMIT | tar -x -C OLD
    cd OLD && PYTHONPATH=OLD python /path/to/record.py > /path/to/0003.sql
"""

# ruff: noqa: T201
from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

sys.path.insert(0, str(Path.cwd()))

from controller import plugins
from controller.clock import Ids
from controller.core.model import NewEvent
from controller.errors import ConfigError, GiveUp, RetryLater
from controller.ports import Batch
from controller.store import Store, migrate, schema
from controller.testing import ManualClock, SeededRandom
from tests.engine import conftest
from tests.engine.house import House

#: Stands for the folder of the installation, which is another one each time.
FOLDER = "/srv/retrain"
POLICIES: dict[str, Any] = {
    "drift": {"on": {"type": "drift"}},
    "held": {"on": {"type": "held"}, "debounce": {"quiet": "30m"}},
    "paced": {"on": {"type": "paced"}, "cooldown": {"after": "decision", "period": "6h"}},
}
COUNTED: dict[str, Any] = {"counted": {"on": {"type": "counted", "count": 3, "within": "1d"}}}
#: Marks of the second schema's episodes.
MARK = {"episode": "alert-1", "episodestate": "firing"}


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    install_plugins(folder)
    house = open_house(folder)
    play(house)
    print(f"-- Schema {migrate.HEAD}, as its own code left it; see record.py.")
    for line in dump(house.store, str(house.folder)):
        print(line)


def install_plugins(folder: Path) -> None:
    metadata = folder / "plugins" / "scripted_plugins-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted-plugins\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(conftest._ENTRY_POINTS)
    sys.path.append(str(folder / "plugins"))
    plugins._found.cache_clear()


def open_house(folder: Path) -> House:
    clock = ManualClock()
    store = Store.open("sqlite:///empty.db", base=folder, clock=clock, ids=Ids(clock, SeededRandom()))
    store.upgrade()
    store.close()
    home = folder / "home"
    home.mkdir()
    try:
        return House(home, folder / "empty.db", model={"policies": {**POLICIES, **COUNTED}})
    except ConfigError:  # a version that does not count yet
        return House(home, folder / "empty.db", model={"policies": POLICIES})


def play(house: House) -> None:
    """Let something of everything happen."""
    house.champion(auc=0.7)
    train(house, auc=0.5)
    train(house, auc=0.8)
    house.desk.rollback("churn", who="ann", reason="complaints")
    house.settle()
    house.desk.resume(scope="model", target="churn", who="ann", reason="looked at")
    house.settle()
    house.world.mail_script = [GiveUp("no such address")]
    train(house, auc=0.9)
    house.train()
    house.desk.cancel(house.runs()[-1].id, who="bob", reason="by mistake")
    house.advance(timedelta(minutes=1))
    house.desk.pause(scope="policy", target="churn/paced", who="bob", reason="too often")
    house.send("paced", data={"share": 0.4})
    house.send("nobody", subject="west")
    house.send("counted")
    house.send("held", data={"rows": 12})
    bury(house)
    house.settle()
    hear_alerts(house)
    house.world.mail_script = [RetryLater("the far side is down", after_seconds=300)] * 5
    house.train()
    for _ in range(2):
        house.world.fail("a")
        house.settle()
        house.advance(timedelta(minutes=1))
    house.send("drift", data={"share": 0.5})
    house.settle()
    house.retrain(reason="the data were wrong", key="press-1", depth=3)
    house.settle()
    with house.store.transaction("test", fenced=False) as tx:
        tx.people.add_token(name="ci", digest="d" * 64, actor="ann", expires_at=None)
    house.inbox.put("api", Batch(events=[NewEvent(source="/test", source_id="waits", type="drift")]))
    house.inbox.tick(house.now)


def train(house: House, *, auc: float) -> None:
    house.train(share=0.3)
    house.world.succeed("a", auc=auc, champion_auc=0.7)
    house.settle()
    house.advance(timedelta(minutes=5))


def bury(house: House) -> None:
    """Let an event be one that could not be decided."""
    receipt = house.send("nobody", id="dead")
    with house.store.transaction("test") as tx:
        tx.events.mark_dead(receipt.event_id, reason="an expression failed: 1/0")


def hear_alerts(house: House) -> None:
    """Hear what only the second schema knows: alerts, and what was not understood."""
    if not hasattr(schema, "episode"):
        return
    from controller.ports import DeadLetter

    for key, state in (("alert-1", "firing"), ("alert-1", "resolved"), ("alert-2", "firing")):
        house.send("alert", extensions={"episode": key, "episodestate": state})
        house.settle()
    body = b"\x00\xff{not json"
    letters = [DeadLetter(place=f"bus/0/{at}", reason="not JSON", body=body, size=len(body), meta={}) for at in (1, 2)]
    house.inbox.put("bus", Batch(events=[], dead=letters))
    house.inbox.tick(house.now)


def dump(store: Store, folder: str) -> Iterator[str]:
    """Yield the rows of every table as statements."""
    with store.engine.begin() as connection:
        for table in schema.metadata.sorted_tables:
            keys = [column.name for column in table.primary_key]
            booleans = [column.name for column in table.columns if isinstance(column.type, sa.Boolean)]
            rows = connection.exec_driver_sql(f"SELECT * FROM {table.name} ORDER BY {', '.join(keys)}").mappings()
            for row in rows:
                names = ", ".join(f'"{name}"' for name in row)
                values = ", ".join(literal(value, is_boolean=name in booleans) for name, value in row.items())
                yield f"INSERT INTO {table.name} ({names}) VALUES ({values});".replace(folder, FOLDER)


def literal(value: Any, *, is_boolean: bool) -> str:
    if value is None:
        return "NULL"
    if is_boolean:
        return "TRUE" if value else "FALSE"
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    if isinstance(value, int | float):
        return json.dumps(value)
    text = str(value)
    assert "\n" not in text, text
    return "'" + text.replace("'", "''") + "'"


if __name__ == "__main__":
    main()
