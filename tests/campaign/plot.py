"""Curves over time as an SVG, drawn by hand: one small picture below the other, with a line for each thing that happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 900, 110, 90, 34, 34
_INK, _CURVE, _MARK, _GRID = "#333", "#1f6fb2", "#d9822b", "#ddd"


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One quantity over time."""

    name: str
    #: (seconds, value), in order of time.
    points: Sequence[tuple[float, float]]


def draw(title: str, curves: Sequence[Curve], *, marks: Sequence[tuple[float, str]], split: float | None = None) -> str:
    """Return the picture; `marks` are things that happened at an instant, `split` is where another part begins."""
    length = max((point[0] for curve in curves for point in curve.points), default=1.0) or 1.0
    height = _TOP + len(curves) * (_HEIGHT + _GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 20} {height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="18" font-size="14" fill="{_INK}">{escape(title)}</text>',
    ]
    for number, curve in enumerate(curves):
        lines += _panel(curve, top=_TOP + number * (_HEIGHT + _GAP), length=length, marks=marks, split=split)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(
    curve: Curve, *, top: float, length: float, marks: Sequence[tuple[float, str]], split: float | None
) -> list[str]:
    highest = max((value for _, value in curve.points), default=1.0) * 1.05 or 1.0

    def across(seconds: float) -> float:
        return _LEFT + _WIDTH * seconds / length

    def up(value: float) -> float:
        return top + _HEIGHT * (1 - value / highest)

    lines = [f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="{_GRID}"/>']
    lines += [
        f'<line x1="{across(at):.1f}" x2="{across(at):.1f}" y1="{top}" y2="{top + _HEIGHT}" stroke="{_MARK}" opacity="0.4">'
        f"<title>{escape(what)}</title></line>"
        for at, what in marks
    ]
    if split is not None:
        at = across(split)
        lines.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{top + _HEIGHT}" stroke="{_INK}" stroke-dasharray="4"/>'
        )
    path = " ".join(f"{across(seconds):.1f},{up(value):.1f}" for seconds, value in curve.points)
    lines.append(f'<polyline points="{path}" fill="none" stroke="{_CURVE}" stroke-width="1.5"/>')
    lines.append(f'<text x="{_LEFT - 6}" y="{top + 10}" text-anchor="end" fill="{_INK}">{highest:.3g}</text>')
    lines.append(f'<text x="{_LEFT - 6}" y="{top + _HEIGHT}" text-anchor="end" fill="{_INK}">0</text>')
    lines.append(f'<text x="{_LEFT}" y="{top + _HEIGHT + 16}" fill="{_INK}">{escape(curve.name)}</text>')
    end = f"{length / 60:.0f} min"
    lines.append(f'<text x="{_LEFT + _WIDTH}" y="{top + _HEIGHT + 16}" text-anchor="end" fill="{_INK}">{end}</text>')
    return lines
