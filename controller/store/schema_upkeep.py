"""The tables of the installation itself: who leads, which daemons there are, the chain over history, and what retention let go of.

`schema.py` has all others, and names these too.
"""

from __future__ import annotations

import sqlalchemy as sa

from controller.store.columns import id_column as _id
from controller.store.columns import instant_column as _at
from controller.store.columns import json_column as _json
from controller.store.columns import metadata
from controller.store.columns import text_column as _text
from controller.store.columns import whole_column as _whole

#: One row: who leads. The term rises with every daemon that takes over, and fences the one before.
leader = sa.Table(
    "leader",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    _whole("term"),
    #: The last number given in the order of deciding.
    _whole("decided_seq"),
    _text("owner"),
    _text("host"),
    _whole("pid"),
    _at("since"),
    #: The replica that holds the lease; None when it was given back.
    _text("replica", null=True),
    #: When the lease ends by the database's clock; None: not before another takes it, as where only one daemon can run.
    _at("expires_at", null=True),
    sa.CheckConstraint("id = 1", name="single_row"),
)

#: Every process that runs on this database, or did not long ago; instants by the database's clock.
replica = sa.Table(
    "replica",
    metadata,
    #: Made anew by each process: neither a host's name nor a directory tells two of them apart.
    _id(),
    #: The id of its state directory; local jobs belong to it.
    _text("owner"),
    _text("host"),
    _whole("pid"),
    _text("program"),
    _text("config_version"),
    #: How new its configuration is: when it was activated last; for one that never was, when this replica loaded it.
    _at("config_at"),
    _text("address"),
    _at("started_at"),
    _at("seen_at"),
    #: What it says of itself: `ready`, `reasons`, and how many events wait in it.
    _json("report"),
    sa.Index("ix_replica_owner", "owner"),
)

#: The chain over `history`: each link covers the rows up to `last_seq` that no link before it covers, and the link before it.
seal = sa.Table(
    "seal",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    _whole("last_seq"),
    _whole("count"),
    #: SHA-256 over the link before and the rows, as `core/seal.py` writes them.
    _text("digest"),
    _whole("term"),
    _at("at"),
    #: For each row 16 bytes, its number and the beginning of its digest: they name the row that broke a link.
    sa.Column("marks", sa.LargeBinary, nullable=False),
)

#: What retention let go of, by kind; written with every batch, so that a record that is no longer whole says so.
pruned = sa.Table(
    "pruned",
    metadata,
    #: As in `store/pruning.py`.
    _id("kind"),
    #: How many rows, ever.
    _whole("row_count"),
    #: Of what is older than this, some may be gone.
    _at("cutoff"),
    #: When the last batch went.
    _at("at"),
)
