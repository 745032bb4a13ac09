"""An account as lines for people, whatever it is of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from controller.core.explain.events import event_lines
from controller.core.explain.lines import Instant, Line, as_written, faint, heading, note
from controller.core.explain.models import model_lines
from controller.core.explain.policies import policy_lines
from controller.core.explain.runs import run_lines
from controller.core.model import Json

_KINDS: Mapping[str, Callable[[Any, Instant], Iterator[Line]]] = {
    "event": event_lines,
    "run": run_lines,
    "model": model_lines,
    "policy": policy_lines,
}


def render(account: Mapping[str, Json], *, instant: Instant = as_written) -> list[Line]:
    """Return an account as lines for people; `instant` writes the times."""
    lines = list(_KINDS[account["kind"]](account, instant))
    if account["at"] is not None:
        lines.insert(1, faint(f"as of {instant(account['at'])}", indent=0))
    if account["unknown"]:
        lines += [*heading("what can no longer be known"), *(note(text) for text in account["unknown"])]
    return [Line(text=" ".join(line.text.splitlines()), indent=line.indent, mark=line.mark, tone=line.tone, hang=line.hang)
            if "\n" in line.text else line for line in lines]  # fmt: skip
