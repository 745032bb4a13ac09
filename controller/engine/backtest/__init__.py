"""Policies tried against the past: the evaluator's own walk over recorded events, in memory.

`world.py` keeps what a sitting looks up and writes, `driver.py` moves the time, `record.py` brings the history of a store into it,
`report.py` adds up what came of it, `cases.py` runs the cases of `policy test`, `plan.py` compares two configurations.
"""
