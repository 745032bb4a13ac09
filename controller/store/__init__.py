"""Everything that is durable: tables, statements, migrations. SQL lives here and nowhere else."""

from controller.store.store import Store, Transaction

__all__ = ["Store", "Transaction"]
