"""People can choose among the messages that there are: every kind that the engine tells of has its place in the list, and in the docs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from controller.core.notices import KINDS, URGENT

ROOT = Path(__file__).resolve().parent.parent


def literals(node: ast.expr) -> Iterator[str]:
    """Yield the texts that an expression may be: one, or either side of a choice."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from literals(node.body)
        yield from literals(node.orelse)


def told(path: Path) -> Iterator[str]:
    """Yield the kinds that a file tells people of; a name stands for what is assigned to it in the same file."""
    tree = ast.parse(path.read_text())
    assigned: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            assigned.setdefault(node.targets[0].id, []).append(node.value)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        kinds = [node.args[2]] if called == "notify_people" and len(node.args) > 2 else []
        if isinstance(node.func, ast.Attribute) and ast.unparse(node.func).endswith(("outbox.add", "outbox.count")):
            kinds += [keyword.value for keyword in node.keywords if keyword.arg == "kind"]
        for kind in kinds:
            for value in assigned.get(kind.id, []) if isinstance(kind, ast.Name) else [kind]:
                yield from literals(value)


def test_every_kind_has_its_place() -> None:
    """What is told and what can be chosen are the same words, but for the test message."""
    found = {kind for path in (ROOT / "controller" / "engine").glob("*.py") for kind in told(path)}

    assert found == set(KINDS) - {"test"}
    assert set(KINDS) > URGENT


def test_every_kind_is_described() -> None:
    """docs/notifications.md says what each of them means."""
    page = (ROOT / "docs" / "notifications.md").read_text()

    assert [kind for kind in KINDS if f"`{kind}`" not in page] == []
