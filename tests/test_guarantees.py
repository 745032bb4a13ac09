"""GUARANTEES.md says what is proved: each promise has tests that carry its id, and the numbers are those of the logs."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from tests.campaign import run

ROOT = Path(__file__).resolve().parent.parent
IDS = [f"G{number:02}" for number in range(1, 16)]


@cache
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def proofs() -> dict[str, dict[str, list[str]]]:
    """The tests of each guarantee, by file; every test file is read for it."""
    found: dict[str, dict[str, list[str]]] = generator().tests_by_guarantee()
    return found


def page() -> str:
    return run.PAGE.read_text()


def test_every_guarantee_has_its_place() -> None:
    """Fifteen promises, in order, each with its boundary and how it is kept."""
    sections = re.split(r"^## ", page(), flags=re.MULTILINE)[1:]
    promises = [section for section in sections if re.match(r"G\d\d: ", section)]

    assert [promise[:3] for promise in promises] == IDS
    assert [promise[:3] for promise in promises if "- **Boundary.** " not in promise] == []
    assert [promise[:3] for promise in promises if "- **How.** " not in promise] == []
    assert "## What we do not promise" in page()


@pytest.mark.parametrize("guarantee", IDS)
def test_every_guarantee_is_proved(guarantee: str) -> None:
    """At least one test carries its id in its name."""
    assert proofs().get(guarantee), f"no test is called test_{guarantee}_…"


def test_only_guarantees_that_there_are_are_named() -> None:
    """A test that proves G16 proves nothing that anybody was promised."""
    assert sorted(proofs().keys() - set(IDS)) == []


def test_every_proof_is_listed() -> None:
    """The table of tests is that of the tests there are."""
    assert generator().pages()[run.PAGE] == page(), "run `make generate` and look at what changed"


def test_the_numbers_are_those_of_the_logs() -> None:
    """Whoever reads the table of campaigns reads the logs."""
    table = page().split(run.BEGIN)[1].split(run.END)[0]

    assert table.strip() == run.table(), "run `python tests/campaign/run.py --table`"


def test_no_campaign_that_is_kept_went_wrong() -> None:
    """A log with a failure in it is looked into, not kept."""
    assert [campaign.name for campaign in run.CAMPAIGNS if campaign.wrong()] == []


def test_campaigns_prove_guarantees_that_there_are() -> None:
    """Each names some of them, and each log is described in docs/campaigns/README.md."""
    described = (ROOT / "docs" / "campaigns" / "README.md").read_text()

    assert [campaign.name for campaign in run.CAMPAIGNS if not set(campaign.guarantees) <= set(IDS)] == []
    assert [campaign.log for campaign in run.CAMPAIGNS if f"`{campaign.log}`" not in described] == []


@pytest.mark.parametrize("code, verdict", [(0, "ok"), (3, "went wrong (3)")])
def test_what_a_program_says_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, verdict: str) -> None:
    """Of one that writes no log the line with its counts is put there, with how it ended."""
    monkeypatch.setattr(run, "LOGS", tmp_path)
    program = ["-c", f"print('hello'); print('7 outages, 0 missing'); print('bye'); raise SystemExit({code})"]
    one = run.Campaign(
        name="a",
        commands={"short": [program]},
        log="a.txt",
        guarantees=(),
        counts=(),
        keeps=r"\d+ outages",
        good=": ok$",
    )

    well = run.run(one, "short")

    assert well == (code == 0)
    assert (tmp_path / "a.txt").read_text() == f"7 outages, 0 missing: {verdict}\n"


def test_numbers_are_read_from_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all lines together, or of the newest; what is not good is counted."""
    monkeypatch.setattr(run, "LOGS", tmp_path)
    (tmp_path / "a.txt").write_text("# 3 kills\nseed 1: 1,000 kills, 7 names: fine\nseed 2: 20 kills, 8 names: oh no\n")
    counts = (
        run.Count(words="kills", pattern=r"([\d,]+) kills"),
        run.Count(words="names", pattern=r"(\d+) names", of="last"),
    )
    one = run.Campaign(name="a", commands={}, log="a.txt", guarantees=(), counts=counts, outcome="^[^#]", good="fine$")

    assert one.told() == "1,023 kills, 8 names"
    assert one.wrong() == 1
