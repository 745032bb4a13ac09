"""`retrainctl policy test`: unit tests for policies, kept beside a team's code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from controller.cli.exits import Exit, Failure
from controller.cli.session import Session
from controller.cli.text import clean
from controller.errors import ConfigError, InvalidInput

if TYPE_CHECKING:
    from rich.console import RenderableType

    from controller.config import Config

policy_app = typer.Typer(help="Rules that say when a model is retrained.", no_args_is_help=True)

_Output = Annotated[
    Literal["table", "json"] | None, typer.Option("--output", "-o", help="Tables for people, JSON for programs.")
]


@policy_app.callback()
def _policy() -> None:
    """Rules that say when a model is retrained."""


@policy_app.command("test")
def policy_test(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Files of cases, or folders of them.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="PATH", help="The configuration, over what a file names itself."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the results as JUnit XML.")] = None,
    output: _Output = None,
) -> None:
    """Run cases: given these events at these times, expect this. Exit code 1 when one fails."""
    session: Session = ctx.obj.with_output(output)
    results = [result for file in _files(files) for result in _run_file(session, file, config)]
    if junit is not None:
        _write_junit(junit, results)
    failed = [result for result in results if result["failures"]]
    document = {"cases": len(results), "failed": len(failed), "results": results}
    session.print(document, lambda: _lines(results, failed))
    if failed:
        raise typer.Exit(int(Exit.FAILED))


def _files(named: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in named:
        if path.is_dir():
            inside = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
            if not inside:
                raise Failure(Exit.USAGE, f"there is no *.yaml file in {path}")
            found += inside
        else:
            found.append(path)
    return found


def _run_file(session: Session, file: Path, config: Path | None) -> list[dict[str, Any]]:
    from controller.config.cases import read_cases
    from controller.core.casefile import judge
    from controller.engine.backtest.cases import run_case

    def load(named: Path | None) -> Config:
        from controller.config import load_config

        if config is not None:
            return load_config(config)
        return session.installation.config if named is None else load_config(named)

    try:
        configuration, cases = read_cases(file, load)
    except ConfigError as error:
        raise InvalidInput(error.message) from error
    results = []
    for case in cases:
        happened = run_case(configuration, case)
        results.append({"file": str(file), "name": case.name, "place": case.place, "failures": judge(case, happened)})
    return results


def _lines(results: Sequence[dict[str, Any]], failed: Sequence[dict[str, Any]]) -> list[RenderableType]:
    from rich.text import Text

    lines: list[RenderableType] = []
    file = None
    for result in results:
        if result["file"] != file:
            file = result["file"]
            lines.append(Text(clean(str(file)), style="bold"))
        mark, style = ("✗", "red") if result["failures"] else ("✓", "green")
        lines.append(Text.assemble(f"  {mark} ", clean(result["name"]), style=style))
        for failure in result["failures"]:
            lines += [f"      {line}" for line in failure.splitlines()]
    said = f"{len(results) - len(failed)} passed" + (f", {len(failed)} failed" if failed else "")
    return [*lines, "", Text(said, style="red" if failed else "green")]


def _write_junit(path: Path, results: Sequence[dict[str, Any]]) -> None:
    from xml.etree import ElementTree

    suites = ElementTree.Element("testsuites")
    for file in dict.fromkeys(result["file"] for result in results):
        mine = [result for result in results if result["file"] == file]
        failures = sum(bool(result["failures"]) for result in mine)
        suite = ElementTree.SubElement(
            suites, "testsuite", name=file, tests=str(len(mine)), failures=str(failures), errors="0", skipped="0"
        )
        for result in mine:
            case = ElementTree.SubElement(suite, "testcase", classname=Path(file).stem, name=clean(result["name"]))
            for failure in result["failures"]:
                shown = clean(failure)
                element = ElementTree.SubElement(case, "failure", message=shown.splitlines()[0])
                element.text = shown
    try:
        ElementTree.ElementTree(suites).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise Failure(Exit.USAGE, f"{path} cannot be written: {error.strerror or error}") from error
