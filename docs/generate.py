"""Writes what is made from the code: the life cycles, the configuration's schema, the command reference, the tests of each guarantee.

`make generate` runs it; `tests/test_docs.py` compares what it would write with what is there.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
GUARANTEES = ROOT / "GUARANTEES.md"

_ABOUT = {
    "event": "Something that happened, from the moment it is durable. History rows only for DEAD and replay.",
    "run": "One retraining of one model.",
    "job": "One candidate of a run at a launcher; each try at it is an attempt.",
    "version": "One trained artifact of a model.",
    "promotion": "One attempt to make a version the champion: a promotion, an override, a rollback, an adoption.",
    "step": "One promoter's part of a promotion.",
    "notification": "A message to people, in the outbox.",
    "episode": "An alert from firing to resolved, whatever its repeats. One that is resolved before it was seen firing is born RESOLVED.",
    "watch": "What is looked at after a promotion. Its final state is the outcome of the run that was promoted.",
    "dead_letter": "Something that came in and could not be understood, kept as it came.",
}


def pages() -> dict[Path, str]:
    """Return every generated page, by its path."""
    from controller.config import json_schema

    return {
        HERE / "lifecycle.md": lifecycle(),
        HERE / "config.schema.json": json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
        HERE / "cli.md": commands(),
        GUARANTEES: guarantees(),
    }


def lifecycle() -> str:
    """Return the page of the state machines, with a diagram of each."""
    from controller.core.states import MACHINES

    lines = [
        "# Life cycles",
        "",
        "Made by `make generate` from the one table of states, `controller/core/states.py`; change that, not this.",
        "A final state is one that nothing leaves. Every change is written with its cause, its actor, the leader's term and its time.",
    ]
    for machine in MACHINES.values():
        lines += ["", f"## {machine.name}", "", _ABOUT[machine.name], ""]
        final = ", ".join(machine.final) or "none: it can always change again"
        lines += [f"Born {machine.initial}. Final: {final}.", "", "```mermaid", "stateDiagram-v2"]
        lines.append(f"    [*] --> {machine.initial}")
        lines += [f"    {row.origin} --> {row.target}: {', '.join(sorted(row.causes))}" for row in machine.rows]
        lines += [f"    {state} --> [*]" for state in machine.final]
        lines += ["```", "", "| from | to | causes |", "| --- | --- | --- |"]
        lines += [f"| {row.origin} | {row.target} | {', '.join(sorted(row.causes))} |" for row in machine.rows]
    return "\n".join(lines) + "\n"


def commands() -> str:
    """Return the reference of `retrainctl`, from its own help."""
    import click
    import typer

    from controller.cli.main import app

    root = typer.main.get_command(app)
    lines = [
        "# retrainctl",
        "",
        "Made by `make generate` from the commands' own help.",
    ]
    with click.Context(root, info_name="retrainctl") as context:
        lines += _command(root, context)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _command(command: object, context: object) -> list[str]:
    lines = ["", f"## {context.command_path}", "", (command.help or "").strip()]
    options = [
        f"| `{' / '.join(parameter.opts)}` | {getattr(parameter, 'help', '') or ''} |"
        for parameter in command.params
        if parameter.name != "help" and not getattr(parameter, "hidden", False)
    ]
    if options:
        lines += ["", "| argument or option | |", "| --- | --- |", *options]
    children = getattr(command, "commands", {})
    for name in sorted(children):
        child = children[name]
        if not child.hidden:
            with type(context)(child, info_name=name, parent=context) as inner:
                lines += _command(child, inner)
    return lines


def guarantees() -> str:
    """Return GUARANTEES.md with the table of the tests that prove each promise."""
    begin, end = "<!-- tests: written by docs/generate.py -->", "<!-- end of tests -->"
    before, rest = GUARANTEES.read_text().split(begin)
    _, after = rest.split(end)
    lines = ["| promise | tests |", "| --- | --- |"]
    for guarantee, files in sorted(tests_by_guarantee().items()):
        listed = [f"[{file}]({file}): {', '.join(f'`{name}`' for name in names)}" for file, names in files.items()]
        lines.append(f"| {guarantee} | {'<br>'.join(listed)} |")
    return "\n".join([f"{before}{begin}", "", *lines, "", f"{end}{after}"])


def tests_by_guarantee() -> dict[str, dict[str, list[str]]]:
    """Return the names of the tests that carry each guarantee's id, by file."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in _tests(path):
            for guarantee in re.findall(r"(?<=_)G\d\d(?=_)", name):
                found.setdefault(guarantee, {}).setdefault(str(path.relative_to(ROOT)), []).append(name)
    return found


def _tests(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.name


def main() -> int:
    """Write every page."""
    for path, text in pages().items():
        path.write_text(text)
        print(path.relative_to(HERE.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
