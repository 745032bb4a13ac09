"""Asks and tells servers of other people: where a plugin may connect to (`guard.py`), and one bounded request (`web.py`).

Sources and notifiers share it, since they do not know each other. It decides nothing: what an answer means is the plugin's own business.
"""
