"""Train a tiny model: y as a line in x, or as a constant.

A template for your own training; it needs the standard library only, and shows the whole contract of a job:

* RETRAIN_PARAMS        parameters of this candidate, as JSON
* RETRAIN_CHAMPION      the version that serves now, as JSON; empty for the first
* RETRAIN_ARTIFACT_DIR  where the trained model goes
* RETRAIN_RESULT        where the result goes, as one JSON document; exit code 0 means that it is there
"""

import csv
import hashlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

log = logging.getLogger("train")


def main() -> None:
    """Train on two rows of three, and compare with the champion on the third."""
    params = json.loads(os.environ.get("RETRAIN_PARAMS") or "{}")
    champion = json.loads(os.environ.get("RETRAIN_CHAMPION") or "null")
    files = sorted(Path(sys.argv[1]).rglob("*.csv"))
    rows = sorted({row for file in files for row in read(file)})
    if len(rows) < 3:
        sys.exit(f"{len(rows)} rows in {sys.argv[1]}: drop a CSV with the columns x and y there")
    held_out, training = rows[::3], [row for number, row in enumerate(rows) if number % 3]
    log.info("%d files, %d rows to train on", len(files), len(training))

    model = fit(training, degree=int(params.get("degree", 1)))
    artifact = Path(os.environ["RETRAIN_ARTIFACT_DIR"]) / "model.json"
    write_json(artifact, model)
    result: dict[str, Any] = {
        "metrics": {"mae": mean_absolute_error(model, held_out), "rows": len(rows)},
        "artifact": str(artifact),
        "evaluation": {"digest": digest(held_out), "count": len(held_out)},
        "data": {"digest": digest(rows), "count": len(rows)},
    }
    if champion:  # evaluated on the same rows, so that the comparison is fair
        serving = json.loads(local_path(champion["artifact"]).read_text())
        result["champion_metrics"] = {
            "mae": mean_absolute_error(serving, held_out),
            "rows": len(rows),
        }
    write_json(Path(os.environ["RETRAIN_RESULT"]), result)
    log.info("metrics %s", result["metrics"])
    log.info("champion %s", result.get("champion_metrics", "none yet"))


def read(file: Path) -> list[tuple[float, float]]:
    """Return the rows of a CSV with the columns x and y."""
    with file.open(newline="") as stream:
        return [(float(row["x"]), float(row["y"])) for row in csv.DictReader(stream)]


def fit(rows: list[tuple[float, float]], *, degree: int) -> dict[str, float]:
    """Return the constant (degree 0) or the line (degree 1) with the least squares."""
    mean_x = sum(x for x, _ in rows) / len(rows)
    mean_y = sum(y for _, y in rows) / len(rows)
    spread = sum((x - mean_x) ** 2 for x, _ in rows)
    slope = 0.0
    if degree > 0 and spread > 0:
        slope = sum((x - mean_x) * (y - mean_y) for x, y in rows) / spread
    return {"slope": slope, "intercept": mean_y - slope * mean_x}


def mean_absolute_error(model: dict[str, float], rows: list[tuple[float, float]]) -> float:
    """Return how far the model is off on average."""
    return sum(abs(model["slope"] * x + model["intercept"] - y) for x, y in rows) / len(rows)


def digest(rows: list[tuple[float, float]]) -> str:
    """Return a digest that says which data this was."""
    return f"sha256:{hashlib.sha256(json.dumps(rows).encode()).hexdigest()}"


def local_path(uri: str) -> Path:
    """Return the path of an artifact, which may be given as file://…"""
    return Path(unquote(urlsplit(uri).path)) if uri.startswith("file://") else Path(uri)


def write_json(file: Path, document: object) -> None:
    """Write the whole document, or nothing that somebody could read by halves."""
    unfinished = file.with_name(file.name + ".tmp")
    unfinished.write_text(json.dumps(document, indent=2) + "\n")
    unfinished.replace(file)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main()
