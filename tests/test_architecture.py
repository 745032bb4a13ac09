"""The shape of the code, as far as the import contracts do not say it already."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "controller"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "migrations" not in path.parts)


def test_only_transition_writes_states():
    """No code but `Transaction.transition` (and the marking of processed events) updates a `state` column."""
    writers = []
    for path in SOURCES:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if re.search(r"\.values\(.*\bstate=|\bUPDATE\b.*\bSET\b.*\bstate =", line):
                writers.append(f"{path.relative_to(ROOT)}:{number}")

    assert [writer for writer in writers if not writer.startswith("controller/store/bulk.py")] == []
    assert len(writers) == 1


def test_no_module_has_a_name_that_says_nothing():
    """There is no utils, common, helpers, base or manager."""
    empty = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc"}

    assert [path for path in SOURCES if path.stem in empty] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_short_and_say_what_they_are_for(path):
    """A module begins with what it is for, and is split by noun when it grows past 700 lines."""
    text = path.read_text()

    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert text.count("\n") <= 700


def test_the_root_is_small():
    """The first screen of the project says what there is."""
    entries = [path.name for path in ROOT.iterdir() if not path.name.startswith(".")]
    tracked = [name for name in entries if name not in {"build", "dist", "htmlcov", "state"}]

    assert len(tracked) <= 16
