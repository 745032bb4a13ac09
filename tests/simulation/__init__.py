"""The simulator: the real core, loops and store of one to five replicas, in one thread, under a seeded scheduler.

What is real: every loop, every transaction on a real SQLite file, every rule of the core, the lease, the cron source, the acts of persons.
What is not: time (it jumps to the next thing that happens), chance (it comes from the seed), and everything outside: producers, launchers,
registries, people. Those are a model that keeps its own record (`world.py`), and breaks its promises as `weather.py` says.
Afterwards `oracle.py` compares that record with the store.

Processes are not threads here. A step of a loop runs until it comes to a crash point; there the weather may end its process, stop it for
longer than its lease while all the others go on, lose the answer of the commit that was just made, or let other loops run in between.
`python -m tests.simulation --seed N -v` plays one seed again, the same to the microsecond.
"""
