"""The documentation says what the code does: generated pages are current, and every name has its place."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def generator():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["lifecycle.md", "config.schema.json", "cli.md"])
def test_generated_pages_are_current(name):
    """`make generate` would change nothing."""
    path = ROOT / "docs" / name

    assert generator().pages()[path] == path.read_text(), "run `make generate` and look at what changed"


def test_every_decision_is_listed():
    """The list of decisions names every page of it."""
    listed = (ROOT / "docs" / "decisions" / "README.md").read_text()
    pages = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("0*.md"))

    assert pages
    assert [page for page in pages if page not in listed] == []


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *[str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md")]]
)
def test_links_lead_somewhere(page):
    """Every relative link of a page leads to a file that is there."""
    path = ROOT / page
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)(?:#[^)]*)?\)", path.read_text())

    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_metric_is_described():
    """Each metric that the daemon can show stands in docs/operations.md."""
    from controller.telemetry import Metrics

    page = (ROOT / "docs" / "operations.md").read_text()
    names = [family.name for family in Metrics().registry.collect()]

    assert names
    assert [name for name in names if name not in page] == []


def test_the_order_of_reasons_is_the_chain():
    """docs/policies.md lists each stage of the chain in its order: what it may say, and whether a person's press passes over it."""
    from controller.core.stages import CHAIN

    page = (ROOT / "docs" / "policies.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\w+) \| ([^|]*) \| ([^|]*)\| ([^|]*) \|$", page, re.MULTILINE)

    assert [(int(number), stage) for number, stage, *_ in rows] == list(enumerate((stage.name for stage in CHAIN), 1))
    assert [row[4] == "passes over" for row in rows] == [stage.person_passes_over for stage in CHAIN]
    assert [("hold" in row[2]) == bool(row[3].strip()) for row in rows] == [True] * len(rows)
    assert [stage.name for stage in CHAIN if f"\n| {stage.name} | `" not in page and stage.name != "episode"] == []


def test_readme_shows_its_two_commands():
    """A stranger finds the two commands in the README."""
    readme = (ROOT / "README.md").read_text()

    assert "make demo" in readme
    assert "make test" in readme
