"""The job: train one candidate that predicts late arrivals, and score it beside the champion.

Problem: is a model trained now better than the one that serves?
Only rows that *neither* has seen can say.
Idea: the newest month that has landed is cut by date.
Its last eight days are the evaluation: nothing trains on them while their month is the newest.
So a champion of an earlier month, and one of an earlier run of this month, have not seen them.
(That earlier run was judged on the same days, which flatters its champion a little, if anyone.)
The six days before are the validation, on which the candidates of a run compete (`auc_valid`).
What lies before, and the months before, is for training:

- after a new file: all months that have landed;
- after a drift alert: only the newest month, as the older ones are what the world drifted from;
- after a person's press: as `months` in the parameters says, else all.

A flight is *late* when it arrives more than 15 minutes after schedule.
Flights without an arrival delay (cancelled, diverted) have no label and are left out.
Features are what is known before departure: the schedule, and the weather of the hour before.
An artifact says until when it was trained; a champion that could have seen the evaluation
is not scored, and the gate then finds the comparison INCONCLUSIVE instead of flattering.

It is told by `RETRAIN_*` variables, answers with one JSON result, and needs no import of ours.
The artifact is a pickle (joblib), loaded only here and only from an earlier run of this job.
"""

from __future__ import annotations

import os

# Candidates run side by side, one core each. To be set before numpy and OpenMP are loaded.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import joblib
import numpy as np
import pandas as pd
import sklearn
from scipy.stats import rankdata
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, SplineTransformer, StandardScaler

SEED = 2013
LATE_MINUTES = 15
EVALUATION_DAYS = 8
VALIDATION_DAYS = 6
#: Months to train on, the newest included.
ALL_MONTHS, AFTER_DRIFT = 12, 1

CATEGORIES = ["carrier", "origin", "dest", "weekday"]
CLOCK = ["departure_minute", "arrival_minute"]
WEATHER = [
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
NUMBERS = [*CLOCK, "block_minutes", "distance", *WEATHER]
_SCHEDULE = [
    "year",
    "month",
    "day",
    "sched_dep_time",
    "sched_arr_time",
    "carrier",
    "origin",
    "dest",
    "distance",
]
#: All that is read of a file: what became known later (dep_time, air_time, …) never enters memory.
_COLUMNS = [*_SCHEDULE, *WEATHER, "arr_delay"]
_MONTH_FILE = re.compile(r"flights-(\d{4})-(\d{2})\.csv\.gz")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """What the controller told the job."""

    #: CloudEvents that caused the run, oldest first.
    events: list[dict[str, Any]]
    params: dict[str, Any]
    #: Version, artifact and metrics of the model that serves; None for the first.
    champion: dict[str, Any] | None
    artifact_dir: Path
    result: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Contract:
        """Read the `RETRAIN_*` variables; `KeyError` names one that is missing."""
        events = environment["RETRAIN_EVENTS"]
        champion = environment.get("RETRAIN_CHAMPION", "")
        return cls(
            events=json.loads(events if events[:1] == "[" else Path(events).read_text("utf-8")),
            params=json.loads(environment.get("RETRAIN_PARAMS") or "{}"),
            champion=json.loads(champion) if champion else None,
            artifact_dir=Path(environment["RETRAIN_ARTIFACT_DIR"]),
            result=Path(environment["RETRAIN_RESULT"]),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """The rows of one run; in time, training < validation < evaluation."""

    training: pd.DataFrame
    validation: pd.DataFrame
    evaluation: pd.DataFrame
    #: The months behind them, oldest first, such as `2013-03`.
    months: list[str]


def find_months(folder: Path) -> dict[str, Path]:
    """Return the files of the months that have landed, oldest first.

    Raises `FileNotFoundError` when there are none.
    """
    matches = ((_MONTH_FILE.fullmatch(path.name), path) for path in folder.iterdir())
    found = {f"{match[1]}-{match[2]}": path for match, path in matches if match}
    if not found:
        msg = f"no month has landed in {str(folder)!r}; expected flights-2013-01.csv.gz and so on"
        raise FileNotFoundError(msg)
    return dict(sorted(found.items()))


def months_wanted(events: Iterable[Mapping[str, Any]], params: Mapping[str, Any]) -> int:
    """Return how many months to train on: as the parameters say, else as the cause suggests."""
    if "months" in params:
        return max(1, int(params["months"]))
    after_drift = any(str(event.get("type", "")).startswith("drift.") for event in events)
    return AFTER_DRIFT if after_drift else ALL_MONTHS


def load_month(path: Path) -> pd.DataFrame:
    """Return the flights of a file that arrived, with features and label."""
    return prepare(pd.read_csv(path, usecols=_COLUMNS))


def prepare(flights: pd.DataFrame) -> pd.DataFrame:
    """Return features, label (`late`) and day of those flights that arrived."""
    rows = flights.loc[flights["arr_delay"].notna(), _COLUMNS].copy()
    date = pd.to_datetime(rows[["year", "month", "day"]])
    rows["date"] = date.dt.strftime("%Y-%m-%d")
    rows["weekday"] = date.dt.day_name()
    rows["departure_minute"] = _minute_of_day(rows["sched_dep_time"])
    rows["arrival_minute"] = _minute_of_day(rows["sched_arr_time"])
    # Differs from the time in the air by the time zones; constant for a destination, so no harm.
    rows["block_minutes"] = (rows["arrival_minute"] - rows["departure_minute"]) % 1440
    rows["late"] = (rows["arr_delay"] > LATE_MINUTES).astype(int)
    return rows[["date", "late", *CATEGORIES, *NUMBERS]].reset_index(drop=True)


def split_months(files: Mapping[str, Path], month_count: int) -> Split:
    """Load the newest months, as many as wanted, and cut them."""
    return split_rows({month: load_month(files[month]) for month in list(files)[-month_count:]})


def split_rows(months: Mapping[str, pd.DataFrame]) -> Split:
    """Cut the newest month by date; the months before it join its first part."""
    *earlier, newest = months.values()
    days = int(newest["date"].max()[-2:]) - newest["date"].str[-2:].astype(int)
    evaluation = newest[days < EVALUATION_DAYS]
    validation = newest[(days >= EVALUATION_DAYS) & (days < EVALUATION_DAYS + VALIDATION_DAYS)]
    first = newest[days >= EVALUATION_DAYS + VALIDATION_DAYS]
    return Split(
        training=pd.concat([*earlier, first], ignore_index=True),
        validation=validation,
        evaluation=evaluation,
        months=list(months),
    )


def build(params: Mapping[str, Any]) -> Pipeline:
    """Return the untrained pipeline that the parameters name.

    Raises `ValueError` for an unknown algorithm.
    """
    algorithm = params.get("algorithm", "boosting")
    if algorithm == "boosting":
        return _boosting()
    if algorithm == "linear":
        return _linear()
    msg = f"the algorithm {algorithm!r} is unknown; expected 'boosting' or 'linear'"
    raise ValueError(msg)


def train(split: Split, params: Mapping[str, Any]) -> Pipeline:
    """Return a pipeline trained on the training rows."""
    return build(params).fit(split.training[CATEGORIES + NUMBERS], split.training["late"])


def predict(pipeline: Pipeline, rows: pd.DataFrame) -> np.ndarray:
    """Return each flight's probability of being late."""
    return pipeline.predict_proba(rows[CATEGORIES + NUMBERS])[:, 1]


def delong(late: np.ndarray, scores: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the AUC of each score and the covariance of those AUCs.

    DeLong, DeLong & Clarke-Pearson (Biometrics 44, 1988), by the midranks of Sun & Xu (2014).
    It takes flights as independent; those of one stormy day are not, so the true errors are larger.
    All sums are of integers, so that the same scores give the same bits on every machine.
    """
    positive, negative = late == 1, late == 0
    m, n = int(positive.sum()), int(negative.sum())
    over_negatives, over_positives = [], []
    for score in scores:
        # How many of the others each flight is ranked above, doubled: a tie counts one half.
        ranks = _double_ranks(score)
        over_negatives.append(ranks[positive] - _double_ranks(score[positive]))
        over_positives.append(2 * m - (ranks[negative] - _double_ranks(score[negative])))
    auc = np.array([int(above.sum()) / (2 * m * n) for above in over_negatives])
    spread = _covariance(over_negatives, 2 * n) / m + _covariance(over_positives, 2 * m) / n
    return auc, spread


def _double_ranks(score: np.ndarray) -> np.ndarray:
    return np.rint(2 * rankdata(score)).astype(np.int64)


def _covariance(counts: list[np.ndarray], unit: int) -> np.ndarray:
    """Return the sample covariance of counts, each divided by `unit`, from exact sums."""
    size = len(counts[0])
    sums = [int(count.sum()) for count in counts]
    products = [
        [size * int((a * b).sum()) - sum_a * sum_b for b, sum_b in zip(counts, sums, strict=True)]
        for a, sum_a in zip(counts, sums, strict=True)
    ]
    divisor = size * (size - 1) * unit**2
    return np.array([[product / divisor for product in row] for row in products])


def main() -> None:
    """Train the candidate, score it and the champion, write artifact and result."""
    parser = argparse.ArgumentParser(description="Train one candidate on what has landed.")
    parser.add_argument("--data", type=Path, required=True, help="the landing folder")
    folder = parser.parse_args().data
    contract = Contract.from_environment(os.environ)
    files = find_months(folder)
    split = split_months(files, months_wanted(contract.events, contract.params))
    _say(f"caused by {', '.join(str(event.get('type')) for event in contract.events) or 'nothing'}")
    _say(f"training on {split.months[0]} … {split.months[-1]}: {len(split.training):,} flights")
    pipeline = train(split, contract.params)
    artifact = _save(pipeline, split, contract)
    result = {
        **_scores(pipeline, split, contract.champion),
        "artifact": str(artifact),
        "evaluation": {"digest": _rows_digest(split.evaluation), "count": len(split.evaluation)},
        "data": _data_identity(split, files),
        "code": {"digest": _file_digest(Path(__file__)), "scikit_learn": sklearn.__version__},
    }
    _write(contract.result, result)
    _say(f"metrics {result['metrics']}")
    _say(f"champion {result.get('champion_metrics')}")


def _scores(pipeline: Pipeline, split: Split, champion: Mapping[str, Any] | None) -> dict[str, Any]:
    late = split.evaluation["late"].to_numpy()
    scores = [predict(pipeline, split.evaluation)]
    serving = _load_champion(champion, split)
    if serving is not None:
        scores.append(predict(serving, split.evaluation))
    auc, covariance = delong(late, scores)
    valid, _ = delong(split.validation["late"].to_numpy(), [predict(pipeline, split.validation)])
    metrics = {
        "auc": _shown(auc[0]),
        "auc_se": _shown(np.sqrt(covariance[0, 0])),
        "auc_valid": _shown(valid[0]),
        "rows": len(late),
        "late_share": _shown(late.mean()),
        "training_rows": len(split.training),
    }
    if serving is None:
        return {"metrics": metrics}
    # Scored on the same flights, their errors are alike: the gain's is smaller than either.
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    metrics["auc_gain_se"] = _shown(np.sqrt(max(variance, 0.0)))
    theirs = {
        "auc": _shown(auc[1]),
        "auc_se": _shown(np.sqrt(covariance[1, 1])),
        "rows": len(late),
    }
    return {"metrics": metrics, "champion_metrics": theirs}


def _shown(value: float) -> float:
    """Return a metric to six decimals: far finer than its error, and free of the last bits."""
    return round(float(value), 6)


def _load_champion(champion: Mapping[str, Any] | None, split: Split) -> Pipeline | None:
    """Return the champion's pipeline; None without one, or if it may have seen the evaluation."""
    if champion is None:
        return None
    kept = joblib.load(_path_of(champion["artifact"]))
    if kept["trained_until"] >= split.evaluation["date"].min():
        _say(f"champion not scored: trained until {kept['trained_until']}, it may know these days")
        return None
    return kept["pipeline"]


def _save(pipeline: Pipeline, split: Split, contract: Contract) -> Path:
    contract.artifact_dir.mkdir(parents=True, exist_ok=True)
    path = contract.artifact_dir / "model.joblib"
    kept = {
        "pipeline": pipeline,
        "params": contract.params,
        "months": split.months,
        "trained_until": split.training["date"].max(),
    }
    joblib.dump(kept, path, compress=3)
    return path


def _path_of(artifact: str) -> Path:
    is_uri = artifact.startswith("file:")
    path = Path(unquote(urlsplit(artifact).path) if is_uri else artifact)
    return path / "model.joblib" if path.is_dir() else path


def _data_identity(split: Split, files: Mapping[str, Path]) -> dict[str, Any]:
    digests = {files[month].name: _file_digest(files[month]) for month in split.months}
    return {
        "digest": _digest(json.dumps(digests, sort_keys=True).encode()),
        "rows": len(split.training),
        "months": split.months,
        "trained_until": split.training["date"].max(),
        "evaluated_from": split.evaluation["date"].min(),
        "files": digests,
    }


def _write(path: Path, result: Mapping[str, Any]) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(result, indent=2, allow_nan=False), "utf-8")
    partial.replace(path)


def _rows_digest(rows: pd.DataFrame) -> str:
    return _digest(rows.to_csv(index=False, lineterminator="\n").encode())


def _file_digest(path: Path) -> str:
    return _digest(path.read_bytes())


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _minute_of_day(clock: pd.Series) -> pd.Series:
    """Return minutes since midnight of times written as 1435."""
    return clock // 100 * 60 + clock % 100


def _boosting() -> Pipeline:
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    columns = ColumnTransformer([("codes", codes, CATEGORIES), ("numbers", "passthrough", NUMBERS)])
    model = HistGradientBoostingClassifier(
        categorical_features=list(range(len(CATEGORIES))),
        max_iter=100,
        learning_rate=0.08,
        max_leaf_nodes=15,
        min_samples_leaf=100,
        l2_regularization=1.0,
        # Its own stopping rule would hold out rows at random, from days that it trains on.
        early_stopping=False,
        random_state=SEED,
    )
    return make_pipeline(columns, model)


def _linear() -> Pipeline:
    others = [name for name in NUMBERS if name not in CLOCK]
    median = {"strategy": "median", "keep_empty_features": True}
    flags = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=50)
    clock = make_pipeline(SimpleImputer(**median), SplineTransformer(extrapolation="constant"))
    numbers = make_pipeline(SimpleImputer(**median), StandardScaler())
    parts = [("flags", flags, CATEGORIES), ("clock", clock, CLOCK), ("numbers", numbers, others)]
    columns = ColumnTransformer(parts)
    # Newton's method ends at the optimum. L-BFGS stops short of it, where the last bits of a sum decide,
    # and these depend on how memory happens to be aligned: the same data gave another AUC at times.
    model = LogisticRegression(C=0.1, solver="newton-cholesky", tol=1e-8)
    return make_pipeline(columns, model)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
