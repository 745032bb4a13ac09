"""Asks and tells other people's servers and programs.

Where a plugin may connect to is in `guard.py`, one bounded request in `web.py`, one program within a deadline in `program.py`,
and what is said of either without secrets in `mask.py`.
Sources and notifiers share it, since they do not know each other.
It decides nothing: what an answer or an exit code means is the plugin's own business.
"""
