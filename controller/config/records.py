"""What a loaded configuration is, for the rest of the program."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from controller.config.yaml12 import Map
from controller.core.model import Json
from controller.core.notices import Bundling
from controller.core.policy import ModelSpec
from controller.errors import Problem
from controller.secret import Secret

SQLITE = "sqlite:///"


def absolute(base: Path, path: Path | str) -> Path:
    """Return a path that starts at `base`, without `..`.

    Links stay links: a link that is swapped makes a reload, not another installation.
    """
    return Path(os.path.abspath(base / path))  # noqa: PTH100 - resolve() would follow links


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreAddress:
    """Where the database is; its repr shows no password."""

    #: As written, or a reference to the whole of it.
    url: str | Secret
    #: PostgreSQL's password.
    password: Secret | None
    #: Where relative SQLite paths start.
    base: Path
    #: SQLite's file may lie on a network's file system.
    on_network: bool = False

    def reveal(self) -> str:
        """Return the complete URL, with an absolute path or the password in it; raises `RetryLater` when a secret is missing."""
        url = self.url.reveal().strip() if isinstance(self.url, Secret) else self.url
        if url.startswith(SQLITE):
            return f"{SQLITE}{absolute(self.base, url.removeprefix(SQLITE))}"
        if self.password is None:
            return url
        parts = urlsplit(url)
        user, _, host = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}:{quote(self.password.reveal(), safe='')}@{host}"))

    def __repr__(self) -> str:
        if isinstance(self.url, Secret) or self.password is None:
            return f"StoreAddress({self.url!r})"
        parts = urlsplit(self.url)
        user, _, host = parts.netloc.rpartition("@")
        return f"StoreAddress({urlunsplit(parts._replace(netloc=f'{user}:***@{host}'))!r})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Http:
    """Where the API listens."""

    #: Host and port; None when only the socket is served.
    listen: tuple[str, int] | None
    #: Absolute path of the Unix socket.
    socket: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSpec:
    """One configured entrance for events."""

    name: str
    #: Name of the plugin.
    type: str
    #: An instance of the plugin's `Options`.
    options: Any
    #: Stands in for the source's name in the identity of its events, when several sources may hear of the same thing.
    dedup_domain: str | None = None
    #: An event is expected at least this often; longer silence is itself an event, `source.silent`.
    expect_every: timedelta | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class NotifierSpec:
    """One configured channel to people."""

    name: str
    #: Name of the plugin.
    type: str
    #: An instance of the plugin's `Options`.
    options: Any
    #: The kinds of messages it takes; None: all.
    only: frozenset[str] | None = None
    #: How messages that wait together become one; None: each goes at once, by itself.
    grouping: Bundling | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """How many dead letters of each source are kept."""

    keep: int
    #: Of their bodies together.
    max_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """How long what nobody needs any longer is kept."""

    #: Events that were decided on, and so the time in which a second delivery of one has no effect.
    events: timedelta = timedelta(days=30)
    #: The data of such events; no longer than the events.
    bodies: timedelta = timedelta(days=30)
    #: Dead letters that were replayed or dropped.
    dead_letters: timedelta = timedelta(days=30)
    #: Alerts that were resolved or given up.
    episodes: timedelta = timedelta(days=90)
    #: Messages that were sent or not wanted.
    notifications: timedelta = timedelta(days=30)
    #: Watches after promotions that came to an end.
    watches: timedelta = timedelta(days=365)
    #: Logs and files of the attempts of runs that ended.
    run_files: timedelta = timedelta(days=90)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A whole configuration, checked."""

    #: The file or folder, as the user named it.
    path: Path
    #: Absolute folder in which relative paths start.
    base: Path
    #: The files that were read.
    files: tuple[Path, ...]
    store: StoreAddress
    #: Absolute folder for the socket, the runs' files, the daemon's identity.
    state_dir: Path
    #: Absolute folder for the runs' files.
    runs_dir: Path
    http: Http
    sources: Mapping[str, SourceSpec]
    #: Of what could not be understood.
    dead_letters: Quota
    #: Settings by launcher name, for every launcher that has settings or is used.
    launchers: Mapping[str, Any]
    models: Mapping[str, ModelSpec]
    #: Hash of the normal form, 16 hexadecimal digits.
    version: str
    #: The configuration with every default written out, as JSON; references to secrets stay references. Kept for ever.
    normal_form: Mapping[str, Json] = field(repr=False)
    #: Channels to people by name; a plugin that needs no options is a channel without standing here.
    notifiers: Mapping[str, NotifierSpec] = field(default_factory=dict)
    #: Channels that are told what concerns no single model, such as a silent source.
    notify: tuple[str, ...] = ("log",)
    #: How long what nobody needs any longer is kept.
    retention: Retention = field(default_factory=Retention)
    #: What let it pass but should be seen.
    warnings: tuple[Problem, ...] = ()
    #: The values with their places, for `check`.
    tree: Map = field(repr=False, compare=False)
