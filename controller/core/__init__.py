"""Nouns and judgements: pure functions over frozen records.

No clock, no I/O, no threads, no randomness: `now` is an argument, and whatever is needed from the world is passed in as facts.
That is why the same code serves the daemon, a dry run, `why` and a backtest.
"""
