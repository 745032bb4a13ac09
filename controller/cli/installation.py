"""Which installation a command speaks to, and how: a Unix socket, a URL with a token, or the database itself.

A broken configuration must not lock people out of a daemon that runs on the one before: then only the few words that lead to the socket and
the database are read from it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controller.cli.exits import Exit, Failure

if TYPE_CHECKING:
    from controller.config import Config
    from controller.store.store import Store

#: Where a configuration is looked for, in this order.
_PLACES = ("retrain.yaml", "configs")


@dataclass(frozen=True)
class Installation:
    """What the global options say."""

    config_path: Path | None
    url: str | None
    token: str | None

    @cached_property
    def path(self) -> Path:
        """The configuration: as named, else found in the current folder; raises `Failure` when there is none."""
        if self.config_path is not None:
            if not self.config_path.exists():
                raise Failure(Exit.USAGE, f"there is no configuration at {self.config_path}")
            return self.config_path
        for name in _PLACES:
            if Path(name).exists():
                return Path(name)
        raise Failure(
            Exit.USAGE,
            "there is no configuration here: neither retrain.yaml nor configs/",
            hint="name one with --config PATH or RETRAIN_CONFIG, or write one with `retrainctl init`",
        )

    @cached_property
    def config(self) -> Config:
        """The configuration, loaded; raises `ConfigError`."""
        from controller.config import load_config

        return load_config(self.path)

    @cached_property
    def socket(self) -> Path:
        """The daemon's Unix socket."""
        return self._places[0]

    @cached_property
    def _places(self) -> tuple[Path, str]:
        """Return the socket and the store's URL, also from a configuration that is broken elsewhere."""
        from controller.errors import ConfigError

        try:
            return self.config.http.socket, self.config.store.reveal()
        except ConfigError:
            return _lenient_places(self.path)

    def store(self, *, writable: bool = False, any_schema: bool = False) -> Store:
        """Return the database to read from, or to write to as well, and close afterwards.

        Raises `Failure` when there is none, and `SchemaMismatch` for one of another program's version unless `any_schema` will do.
        """
        from controller.clock import Ids, SystemClock, system_random
        from controller.store.store import Store

        url = self._places[1]
        if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
            raise Failure(
                Exit.UNREACHABLE,
                f"the daemon does not run, and there is no database yet at {url.removeprefix('sqlite:///')}",
                hint=self.how_to_start(),
            )
        clock = SystemClock()
        store = Store.open(url, base=Path(), clock=clock, ids=Ids(clock, system_random()), readonly=not writable)
        try:
            if not any_schema:
                store.check_schema()
        except BaseException:
            store.close()
            raise
        return store

    def how_to_start(self) -> str:
        """Say how the daemon is started."""
        return f"start it: retraind --config {self.path}"


def _lenient_places(path: Path) -> tuple[Path, str]:
    """Return socket and store as far as a broken configuration tells them."""
    from controller.config.records import absolute

    base = absolute(Path(), path if path.is_dir() else path.parent)
    files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")]) if path.is_dir() else [path]
    known: dict[str, Any] = {}
    for file in files:
        known |= {name: value for name, value in _top_level(file).items() if name in ("store", "state_dir", "http")}
    state = absolute(base, str(known.get("state_dir") or "state"))
    http = known.get("http")
    socket = http.get("socket") if isinstance(http, dict) else None
    store = known.get("store")
    url = store.get("url") if isinstance(store, dict) else store
    url = str(url) if url else f"sqlite:///{state / 'retrain.db'}"
    if url.startswith("env:"):
        url = os.environ.get(url.removeprefix("env:"), "")
    if url.startswith("sqlite:///"):
        url = f"sqlite:///{absolute(base, url.removeprefix('sqlite:///'))}"
    return (absolute(base, str(socket)) if socket else state / "retrain.sock"), url


def _top_level(file: Path) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}
