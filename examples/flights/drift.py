"""The monitor: how far the flights of a month have moved from those of another.

Problem: the demo raises a drift event, and its number has to be measured, not made up.
Idea: the population stability index (PSI) of every feature, over deciles of the reference month;
the event reports the share of features whose PSI is above 0.2.

It raises nothing itself; `demo.py` posts what `measure` returns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from train import CATEGORIES, NUMBERS, prepare

#: PSI above which a feature counts as drifted; a rule of thumb of credit scoring.
DRIFTED_ABOVE = 0.2
#: Share of rows that an empty bin is taken to have, so that the logarithm exists.
_FLOOR = 1e-4


def measure(year: pd.DataFrame, *, month: int, reference: int) -> dict[str, Any]:
    """Return the data of a drift event: the share of features that drifted, and which."""
    now = prepare(year[year["month"] == month])
    then = prepare(year[year["month"] == reference])
    features = [*CATEGORIES, *NUMBERS]
    drifted = [name for name in features if index_of(then[name], now[name]) > DRIFTED_ABOVE]
    return {
        "month": month,
        "reference": reference,
        "share": round(len(drifted) / len(features), 3),
        "drifted": drifted,
        "feature_count": len(features),
    }


def index_of(then: pd.Series, now: pd.Series) -> float:
    """Return the population stability index of a feature: 0 for the same distribution, above 0.2 for another one."""
    if pd.api.types.is_numeric_dtype(then):
        edges = np.unique(np.nanquantile(then, np.linspace(0.1, 0.9, 9)))
        before, after = _binned(then, edges), _binned(now, edges)
    else:
        counts = then.value_counts()
        before = counts.to_numpy()
        after = now.value_counts().reindex(counts.index).fillna(0).to_numpy()
    before = np.maximum(before / before.sum(), _FLOOR)
    after = np.maximum(after / max(after.sum(), 1), _FLOOR)
    return float(np.sum((after - before) * np.log(after / before)))


def _binned(values: pd.Series, edges: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(edges, values.dropna()), minlength=len(edges) + 1)
