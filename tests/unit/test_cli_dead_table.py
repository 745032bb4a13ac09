"""The list of dead letters fits its terminal, and says why each is dead."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from controller.cli.dead import _table

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def letter(
    number: int, *, kind: str = "raw", source: str = "bus", state: str = "DEAD", **fields: Any
) -> dict[str, Any]:
    return {
        "id": f"dea-01HZ8Y6{number:013d}",
        "kind": kind,
        "source": source,
        "received_at": "2026-03-01T11:00:00Z",
        "size": 1_234,
        "state": state,
        "place": "ml.events/3/1234567890/abcDEFghiJKLmnoPQRstuv",
        "error": "not JSON: Expecting value at line 1 column 1",
        **fields,
    }


LETTERS = [
    letter(1),
    letter(
        2,
        source="landing-zone",
        place="7f3a9c0d1e2b4a5f6071829304a5b6c7d8e9f00112233445566778899aabb?model=churn",
        error="the mapping does not fit: 'body.model.name': the data has no field 'model'",
    ),
    letter(3, kind="event", source="alerts" * 10, state="REPLAYED", size=12, error="'event.data.share > 0.3' " * 20),
    letter(4, source="日本語の名前", place="主題/0/1", error="項目がありません " * 30),
]


def shown(width: int, letters: list[dict[str, Any]]) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    for part in _table(letters, NOW, width=width):
        console.print(part, markup=False, highlight=False, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 140, 160])
def test_lines_fit_and_ids_are_whole(width: int) -> None:
    """No line is wider than the terminal, and each id, which other commands take, is whole."""
    lines = shown(width, LETTERS)

    assert max(cell_len(line) for line in lines) <= width
    assert all(any(line.startswith(each["id"]) for line in lines) for each in LETTERS)


@pytest.mark.parametrize("width", [80, 140])
def test_reason_and_place_can_be_told(width: int) -> None:
    """The reason is read to its point, and of the place the end stays, where it differs from the others."""
    text = "\n".join(shown(width, LETTERS[:2]))

    assert "not JSON: Expecting value at line 1 column 1" in text
    assert "the mapping does not fit: 'body.model.name'" in text
    assert "mnoPQRstuv" in text
    assert "?model=churn" in text


def test_columns_stand_below_their_names() -> None:
    """On a wide terminal a letter is one line; what is wide itself moves nothing."""
    head, *lines = shown(160, [letter(1, place="t/0/1"), LETTERS[3]])

    assert len(lines) == 2
    for name, values in {"when": ["60m ago"] * 2, "state": ["DEAD"] * 2, "place": ["t/0/1", "主題/0/1"]}.items():
        at = head.index(name)
        assert [cell_len(line[: line.index(value)]) for line, value in zip(lines, values, strict=True)] == [at, at]


def test_nothing() -> None:
    """An empty list is said in words."""
    assert shown(80, []) == ["no dead letters"]
