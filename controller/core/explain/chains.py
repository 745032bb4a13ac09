"""How the trace of a chain reads: a line per stage with its mark, and for a condition that is a tree a line per node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from controller.core.explain.lines import MARKS, TONES, Line
from controller.core.model import Json

#: Where a trace's line keeps the nodes of a condition.
NODES = "nodes"


def chain_lines(trace: Sequence[Mapping[str, Json]], *, indent: int = 1) -> Iterator[Line]:
    """Yield the lines of a trace."""
    width = max((len(line["stage"]) for line in trace), default=0)
    for line in trace:
        yield Line(
            text=f"{line['stage']:<{width}}  {line['reason']}",
            indent=indent,
            mark=MARKS.get(line["outcome"], "•"),
            tone=TONES.get(line["outcome"], "plain"),
            hang=width + 2,
        )
        nodes = line["facts"].get(NODES) or ()
        if len(nodes) > 1:
            yield from node_lines(nodes, indent=indent + 2)
        elif nodes and (again := nodes[0].get("looks_again_at")):
            yield Line(text=f"looks again at {again}", indent=indent + 2, tone="dim")


def node_lines(nodes: Sequence[Mapping[str, Json]], *, indent: int) -> Iterator[Line]:
    """Yield a line per node, each below the node that it is a part of."""
    names = [node_name(node["path"]) for node in nodes]
    width = max((2 * depth + len(name) for depth, name in names), default=0)
    for node, (depth, name) in zip(nodes, names, strict=True):
        room = max(width - 2 * depth, len(name))
        yield Line(
            text=f"{name:<{room}}  {_said(node)}{_ahead(node)}",
            indent=indent + depth,
            mark=MARKS.get(node["truth"], "•"),
            tone=TONES.get(node["truth"], "plain"),
            hang=room + 2,
        )


def node_name(path: str) -> tuple[int, str]:
    """Return how deep a node stands and what it is called there; the root of a tree is `on`."""
    if not path:
        return 0, "on"
    steps = path.split(".")
    return len(steps), steps[-1]


def _said(node: Mapping[str, Json]) -> str:
    """Say what a node found; of one that has parts only how many are true, because they stand below it."""
    if node["kind"] in ("all", "any"):
        return f"{node['value']} of its parts true, {node['needed']} needed"
    return str(node["text"])


def _ahead(node: Mapping[str, Json]) -> str:
    """Say when time alone could make a node true."""
    again = node.get("looks_again_at")
    return f"; looks again at {again}" if again else ""
