"""The verbs: one small loop per step. Each has a `tick(now)` that loads rows, asks the core, writes rows, and says when to look again.

A loop starts from rows, never from messages, so that a skipped, merged or repeated wake-up cannot break it.
"""
