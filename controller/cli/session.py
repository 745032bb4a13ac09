"""What every command shares: the global options, how answers are printed, and the way to the daemon or past it."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from controller.cli.exits import Exit, Failure
from controller.cli.installation import Installation
from controller.cli.text import clean
from controller.errors import ConfigError, ControllerError, InvalidInput

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from controller.cli.client import Client
    from controller.core.policy import ModelSpec
    from controller.store.store import Store
    from controller.store.views import Views

#: Tables are made for this width where there is no terminal to ask.
_WIDTH = 100

T = TypeVar("T")
Format = Literal["table", "json"]


class Offline:
    """The answers of the daemon's API, read from the database without it."""

    def __init__(self, views: Views, models: Mapping[str, ModelSpec], store: Store) -> None:
        self._views = views
        self.store = store
        self._models = models

    def status(self) -> Any:
        return {**self._views.status(), "models": self.models()}

    def models(self) -> Any:
        return self._views.models(self._models)

    def model(self, name: str) -> Any:
        return self._views.model(name, configured=self._models)

    def policies(self, **query: Any) -> Any:
        return self._views.policies(self._models, **query)

    def runs(self, **query: Any) -> Any:
        return self._views.runs(**query)

    def run(self, name: str) -> Any:
        return self._views.run(self._find(name, "run"))

    def events(self, **query: Any) -> Any:
        return self._views.events(**query)

    def event(self, name: str) -> Any:
        return self._views.event(self._find(name, "event"))

    def episodes(self, **query: Any) -> Any:
        return self._views.episodes(**query)

    def why(self, thing: str, *, key: str | None, at: datetime | None) -> Any:
        from controller.api.why import why

        return why(self._views, thing, self._models, key=key, at=at)

    def _find(self, name: str, kind: str) -> str:
        from controller.api.why import locate

        found = locate(self._views, name, self._models)
        if found.kind != kind:
            raise Failure(Exit.NOT_FOUND, f"{name!r} is a {found.kind}, not a {kind}")
        return found.id


class Session:
    """One command's run."""

    def __init__(self, *, config: Path | None, url: str | None, token: str | None, output: Format) -> None:
        self.installation = Installation(config, url, token)
        self.output = output

    def with_output(self, output: Format | None) -> Session:
        """Return this session, with a command's own `-o` over the global one."""
        if output is not None:
            self.output = output
        return self

    # ------------------------------------------------------------------------------------- the daemon

    def client(self) -> Client:
        """Return the way to the daemon."""
        from controller.cli.client import Client

        return Client(self.installation)

    def ask(self, remote: Callable[[Client], T], offline: Callable[[Offline], T]) -> T:
        """Return the daemon's answer, or that of the database when the daemon does not run."""
        from controller.cli.client import Unreachable

        try:
            with self.client() as client:
                return remote(client)
        except Unreachable:
            if self.installation.url:
                raise
        from controller.store.views import Views

        with contextlib.closing(self.installation.store()) as store:
            found = offline(Offline(Views(store), self._models(), store))
        self.note("the daemon does not run; this is read from the database")
        return found

    def _models(self) -> Mapping[str, ModelSpec]:
        try:
            return self.installation.config.models
        except ConfigError:
            return {}

    def now(self) -> datetime:
        """Return the present instant."""
        from controller.clock import SystemClock

        return SystemClock().now()

    def new_key(self) -> str:
        """Return an id of our own for an event or a press."""
        from controller.clock import Ids, SystemClock, system_random

        return Ids(SystemClock(), system_random()).make("cli")

    # ---------------------------------------------------------------------------------------- printing

    def print(self, value: Any, people: Callable[[], Iterable[RenderableType]]) -> None:
        """Print a value as JSON, or what `people` makes of it: text lines and tables."""
        if self.output == "json":
            self.print_json_only(value)
            return
        console = self.console()
        for part in people():
            console.print(clean(part) if isinstance(part, str) else part, markup=False, highlight=False, soft_wrap=True)

    def print_json_only(self, value: Any) -> None:
        """Print a value if JSON is wanted. Other than ASCII is escaped, so that nothing steers a terminal."""
        if self.output == "json":
            sys.stdout.write(json.dumps(value, indent=2, default=_as_text) + "\n")

    def console(self, *, stderr: bool = False) -> Console:
        """Return a console as wide as the terminal, or wide enough for our tables."""
        from rich.console import Console

        stream = sys.stderr if stderr else sys.stdout
        return Console(file=stream, width=None if stream.isatty() else _WIDTH, soft_wrap=False)

    def width(self) -> int:
        """Return how many columns an account may have."""
        return self.console().width

    def note(self, text: str) -> None:
        """Say something beside the answer, dimly."""
        self.console(stderr=True).print(clean(text), style="dim", markup=False, highlight=False, soft_wrap=True)

    def complain(self, message: str, hint: str) -> None:
        """Say why a command ends."""
        console = self.console(stderr=True)
        console.print(f"error: {clean(message)}", style="red", markup=False, highlight=False, soft_wrap=True)
        if hint:
            console.print(f"hint: {clean(hint)}", style="dim", markup=False, highlight=False, soft_wrap=True)

    # ------------------------------------------------------------------------------------------- input

    def reason(self, given: str | None, *, needed: bool = False) -> str:
        """Return the reason: as given, else as typed by a person at a terminal; without either nothing, or a `Failure`."""
        if given is None and sys.stdin.isatty() and sys.stderr.isatty():
            import typer

            answer: str = typer.prompt("reason", default="", show_default=False, err=True)
            given = answer
        if needed and not (given or "").strip():
            raise Failure(Exit.USAGE, "this needs a reason", hint="add --reason '…'; it is recorded with your name")
        return given or ""

    def parameters(self, pairs: Iterable[str] | None) -> dict[str, Any]:
        """Return `key=value` pairs; a value that is JSON counts as that, any other as text."""
        found: dict[str, Any] = {}
        for pair in pairs or ():
            name, equals, value = pair.partition("=")
            if not equals or not name:
                raise Failure(Exit.USAGE, f"{pair!r} is not key=value")
            found[name] = _json_or_text(value)
        return found

    def payload(self, text: str | None) -> Any:
        """Return JSON from the command line, a file (`@FILE`) or standard input (`-`)."""
        if text is None:
            return None
        from controller.core import strict_json

        if text == "-":
            document = sys.stdin.buffer.read()
        elif text.startswith("@"):
            try:
                document = Path(text[1:]).read_bytes()
            except OSError as error:
                raise Failure(Exit.USAGE, f"{text[1:]} cannot be read: {error.strerror or error}") from error
        else:
            document = text.encode()
        return strict_json.parse(document)


def _as_text(value: Any) -> str:
    return str(value)


def _json_or_text(value: str) -> Any:
    from controller.core import strict_json

    try:
        return strict_json.parse(value.encode())
    except InvalidInput:
        return value


def complete_model(incomplete: str) -> list[str]:
    """Return the models of the configuration that begin like this, for the shell's completion."""
    import os

    path = os.environ.get("RETRAIN_CONFIG")
    try:
        known = Installation(Path(path) if path else None, None, None).config.models
    except (Failure, ControllerError, OSError):
        return []
    return [name for name in known if name.startswith(incomplete)]
