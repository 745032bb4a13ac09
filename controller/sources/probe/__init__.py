"""Probes: sources that ask, for what nobody announces.

A probe looks at one number or a few (`prometheus`, `sql`, `http`, `command`), each `every` so often, and emits what it saw: every
*reading*, or only a *change*. What all have in common (when to look, what of it is an event, what is remembered, what happens when a
look fails) is in `source.py`; each kind adds how to look, in a file of its own. Whatever goes out over HTTP passes `guard.py`.
"""
