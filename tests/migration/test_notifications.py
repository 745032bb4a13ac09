"""Messages of an older installation live on: what was dead can be sent again, what waits is sent."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command

from controller.core.model import Notification
from controller.store import Store, migrate, schema
from controller.store.rows import record
from controller.testing import ManualClock
from tests.factories import NOON, make_ids

_OLD = """
    INSERT INTO notification
        (id, channel, kind, model, run_id, title, body, state, cause, attempts, due_at, created_at, finished_at)
    VALUES (:id, 'log', 'failed', 'churn', NULL, 'churn: failed', '{}', :state, :cause, 1, :at, :at, :finished_at)
"""


def test_messages_of_an_older_schema(database_url: str) -> None:
    """Dead ones have ended no longer and know their group; those that wait are closed by the outbox like new ones."""
    clock = ManualClock(NOON)
    store = Store.open(database_url, base=Path("/"), clock=clock, ids=make_ids(clock))
    at = int(NOON.timestamp() * 1_000_000)
    with store.engine.begin() as connection:
        command.upgrade(migrate._alembic_config(connection), "0002")
        for id_, state, cause, finished_at in (
            ("not-1", "SENT", "sent", at),
            ("not-2", "DEAD", "gave_up", at),
            ("not-3", "PENDING", "created", None),
        ):
            values = {"id": id_, "state": state, "cause": cause, "at": at, "finished_at": finished_at}
            connection.execute(sa.text(_OLD), values)
    store.upgrade()
    store.lead(owner="here", host="host", pid=1)
    with store.transaction("test") as tx:
        tx.outbox.retry(tx.outbox.group(tx.outbox.find("not-2")), actor="ann", reason="mended")
        closed = [tx.outbox.close(each, together=True, most=10) for each in tx.outbox.waiting(NOON)]
        due = tx.outbox.due("log", NOON, 10)
        rows = [record(Notification, row) for row in tx.execute(sa.select(schema.notification).order_by("id"))]
    store.close()

    assert closed == [1]
    assert [[message.id for message in group] for group in due] == [["not-2"], ["not-3"]]
    assert [(row.state, row.finished_at, row.group_id) for row in rows] == [
        ("SENT", NOON, "not-1"),
        ("PENDING", None, "not-2"),
        ("PENDING", None, "not-3"),
    ]
