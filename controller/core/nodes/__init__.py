"""The nodes of a condition, each judged by one pure function.

What a node is asked and finds is in `finding.py`, and how a whole is judged in `judge.py`.

`edges.py` has those about events that came, `metric.py` the value of many events, `state.py` those about how things stand.
The stages `metric` and `tree` call this; nothing here knows of the chain behind them.
"""
