"""The year as its monitors would have told it: the events that policies are tried against (`events-2013.jsonl`).

Problem: a policy should be tried against a year before it goes live, and the numbers in that year have to be measured, not made up.
Idea: walk through 2013 day by day with what was known that morning.

- `file.arrived`: a month lands on the first of the next one.
- `model.performance`: each morning, how well the model that was trained on January ranked the flights of the day before (AUC), and on how
  many flights that was measured; the model is never retrained, so it shows what a year does to it.
- `drift.weekly`: each Monday, the share of features whose distribution in the last seven days moved away from January's (PSI, `drift.py`).
- `alert.delays`: more than 45 % of a day's flights were late; repeated each morning, and resolved when it is less than 30 %.

`python history.py > events-2013.jsonl` makes the file; a test makes it anew and compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import data
import pandas as pd
import train
from drift import DRIFTED_ABOVE, index_of
from sklearn.metrics import roc_auc_score

SOURCE = "/flights/monitors"
SUBJECT = "flight-delay"
TRAINED_ON = 1
FIRST, LAST = date(data.YEAR, 2, 1), date(data.YEAR, 12, 31)
#: The share of late flights at which the alert begins, and below which it ends.
MUCH_IS_LATE, LITTLE_IS_LATE = 0.45, 0.3
Event = dict[str, Any]


def main() -> int:
    """Print the events of the year, oldest first, one in a line."""
    year = data.load_year()
    rows = train.prepare(year)
    events = [*arrivals(year), *performance(rows), *drifts(rows), *delays(rows)]
    for event in sorted(events, key=lambda event: (event["time"], event["id"])):
        sys.stdout.write(json.dumps(event) + "\n")
    return 0


def arrivals(year: pd.DataFrame) -> Iterator[Event]:
    """Yield the landing of each month, at four in the morning of the first of the next one."""
    for month in data.MONTHS:
        lands = date(data.YEAR + month // 12, month % 12 + 1, 1)
        name = data.file_name(month)
        values = {"name": name, "size": len(data.month_bytes(year, month)), "rows": int((year["month"] == month).sum())}
        yield _event("file.arrived", name, lands, 4, values, subject=name, source="landing")


def performance(rows: pd.DataFrame) -> Iterator[Event]:
    """Yield how the model of January ranked the flights of each day since."""
    months = pd.to_datetime(rows["date"]).dt.month
    model = train.build({"algorithm": "linear"})
    known = rows[months == TRAINED_ON]
    model.fit(known[[*train.CATEGORIES, *train.NUMBERS]], known["late"])
    for day in _days(FIRST, LAST):
        flights = rows[rows["date"] == day.isoformat()]
        if flights["late"].nunique() < 2:
            continue
        scores = model.predict_proba(flights[[*train.CATEGORIES, *train.NUMBERS]])[:, 1]
        auc = round(float(roc_auc_score(flights["late"], scores)), 3)
        values = {
            "day": day.isoformat(),
            "auc": auc,
            "n": len(flights),
            "late": round(float(flights["late"].mean()), 3),
        }
        yield _event("model.performance", f"performance/{day}", day + timedelta(days=1), 6, values)


def drifts(rows: pd.DataFrame) -> Iterator[Event]:
    """Yield, each Monday, how many features of the week before moved away from January's."""
    months = pd.to_datetime(rows["date"]).dt.month
    reference = rows[months == TRAINED_ON]
    features = [*train.CATEGORIES, *train.NUMBERS]
    for monday in _days(FIRST + timedelta(days=10), LAST):
        if monday.weekday() != 0:
            continue
        week = rows[(rows["date"] >= (monday - timedelta(days=7)).isoformat()) & (rows["date"] < monday.isoformat())]
        drifted = [name for name in features if index_of(reference[name], week[name]) > DRIFTED_ABOVE]
        values = {
            "share": round(len(drifted) / len(features), 3),
            "drifted": drifted,
            "test": "psi",
            "polarity": "above",
            "n": len(week),
        }
        yield _event("drift.weekly", f"drift/{monday}", monday, 7, values)


def delays(rows: pd.DataFrame) -> Iterator[Event]:
    """Yield the alerts of days on which much was late, with their ends; a storm of several days is one alert."""
    late = rows.groupby("date")["late"].mean()
    since: date | None = None
    for day, share in ((date.fromisoformat(str(text)), float(value)) for text, value in late.items()):
        if since is None and share > MUCH_IS_LATE:
            since = day
            yield _alert(since, day, "firing", share)
        elif since is not None and share < LITTLE_IS_LATE:
            yield _alert(since, day, "resolved", share)
            since = None
        elif since is not None:
            yield _alert(since, day, "firing", share)


def _alert(since: date, day: date, state: str, late: float) -> Event:
    key = f"delays/{since}"
    event = _event(
        "alert.delays", f"{key}/{day}", day + timedelta(days=1), 5, {"late": round(late, 3)}, subject="airports"
    )
    return {**event, "episode": key, "episodestate": state}


def _event(kind: str, name: str, day: date, hour: int, values: Event, **attributes: str) -> Event:
    at = datetime.combine(day, time(hour), tzinfo=UTC).isoformat().replace("+00:00", "Z")
    known = {"specversion": "1.0", "id": name, "source": SOURCE, "type": kind, "subject": SUBJECT, "time": at}
    return {**known, **attributes, "data": values}


def _days(first: date, last: date) -> Iterator[date]:
    while first <= last:
        yield first
        first += timedelta(days=1)


if __name__ == "__main__":
    sys.exit(main())
