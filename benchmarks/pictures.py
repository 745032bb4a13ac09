"""Pictures of figures, as SVG that is read in a page: bars with goals, and lines over decades. Written by `run.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 760
_LEFT, _RIGHT, _ROW, _TOP = 250, 110, 26, 46
_BLUE, _GREY, _RED, _INK = "#3b6ea5", "#b7bec8", "#c0392b", "#222"
_COLOURS = ("#3b6ea5", "#d98e2b", "#4b9b6e", "#8e5ea2", "#7f8c8d", "#b5524a")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar: what was measured, and what was wanted of it."""

    label: str
    value: float
    #: Where the goal is; None for what has none, such as a floor.
    goal: float | None = None


def bars(title: str, rows: Sequence[Bar], *, unit: str) -> str:
    """Return horizontal bars; a red line on each shows its goal, and what has none is grey."""
    longest = max(max(row.value, row.goal or 0.0) for row in rows) or 1.0
    scale = (WIDTH - _LEFT - _RIGHT) / longest
    parts = []
    for number, row in enumerate(rows):
        y = _TOP + number * _ROW
        colour = _GREY if row.goal is None else _BLUE
        parts.append(_text(_LEFT - 8, y + 13, row.label, anchor="end"))
        parts.append(f'<rect x="{_LEFT}" y="{y}" width="{max(row.value * scale, 1):.1f}" height="17" fill="{colour}"/>')
        end = _LEFT + max(row.value, row.goal or 0.0) * scale
        parts.append(_text(end + 8, y + 13, _number(row.value)))
        if row.goal is not None:
            x = _LEFT + row.goal * scale
            parts.append(_line(x, y - 3, x, y + 20, _RED))
    foot = _text(
        _LEFT, _TOP + len(rows) * _ROW + 16, f"{unit}; red: the goal; grey: the floor, or for comparison", size=11
    )
    return _picture(title, [*parts, foot], height=_TOP + len(rows) * _ROW + 30)


def lines(title: str, places: Sequence[str], series: Mapping[str, Sequence[float]], *, limit: float, unit: str) -> str:
    """Return a line for each series over named places; a red one at the limit."""
    left, top, bottom, right = 60, 50, 250, WIDTH - 220
    most = max([limit * 1.15, *(value for values in series.values() for value in values)])
    step = (right - left) / max(len(places) - 1, 1)

    def y(value: float) -> float:
        return bottom - value / most * (bottom - top)

    parts = [_line(left, bottom, right, bottom, _INK), _line(left, y(limit), right, y(limit), _RED)]
    parts += [_text(left + number * step, bottom + 18, place, anchor="middle") for number, place in enumerate(places)]
    parts += [
        _text(left - 8, y(value) + 4, f"{value:g}", anchor="end")
        for value in (0.0, 0.5, 1.0, 1.5, 2.0)
        if value <= most
    ]
    for number, (name, values) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(f"{left + place * step:.1f},{y(value):.1f}" for place, value in enumerate(values))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<rect x="{right + 24}" y="{top + number * 20}" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(right + 42, top + number * 20 + 11, name))
    return _picture(title, [*parts, _text(left, bottom + 38, unit, size=11)], height=bottom + 52)


def _picture(title: str, parts: Sequence[str], *, height: int) -> str:
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
    ground = f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, ground, _text(16, 26, title, size=16), *parts, "</svg>", ""])


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{_INK}">{escape(text)}</text>'
    )


def _line(x: float, y: float, to_x: float, to_y: float, colour: str) -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="{colour}" stroke-width="1.5"/>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
