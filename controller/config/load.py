"""Loads a configuration: files, merging, validation, plugins' options, secrets. All that is wrong is reported at once, each with its place.

What this module does not do: look at the world beyond files and secrets (`check.py`), or build plugins (`daemon.py`).
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard, TypeVar
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from controller import plugins
from controller.config.build import build_models, normal_form
from controller.config.build_policy import version_of
from controller.config.build_stages import DEFAULT_COST
from controller.config.channels import Channels
from controller.config.files import read_files, with_defaults
from controller.config.nearest import nearest_or_known
from controller.config.problems import Findings, report, texts
from controller.config.problems import Path as Steps
from controller.config.records import SQLITE, Config, Http, Quota, SourceSpec, StoreAddress, absolute
from controller.config.retention_section import build_retention
from controller.config.schema import (
    DEFAULT_LAUNCHER,
    ConfigSection,
    DeadLettersSection,
    DefaultsSection,
    SourceSection,
    TrainSection,
)
from controller.config.values import read_duration, split_listen
from controller.config.yaml12 import Map, Seq, Word
from controller.core import template
from controller.core.calendar import Calendar, check_date, never_open
from controller.core.model import CONTROLLER_ORIGIN, PERSON_ORIGIN, Json
from controller.core.schedule import parse_days
from controller.errors import ConfigError, ExpressionError, PluginError, RetryLater
from controller.secret import Secret

#: The origin of events that come by the API; a policy may name it as its source.
API_ORIGIN = "api"
#: Names that no source may have.
RESERVED_SOURCES = (PERSON_ORIGIN, API_ORIGIN, CONTROLLER_ORIGIN)
#: The policy that a person's press counts as.
MANUAL_POLICY = "manual"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_PASSWORD_KEYS = ("password", "passwd", "pwd")

_Options = TypeVar("_Options", bound=BaseModel)


def load_config(path: Path | str) -> Config:
    """Load a file, or a folder of `*.yaml` and `*.yml` files.

    Raises `ConfigError` with every problem there is, sorted by place; nothing is loaded by halves.
    """
    with collector_paused():
        return _load(Path(path))


def _load(path: Path) -> Config:
    base = absolute(Path(), path if path.is_dir() else path.parent)
    files, root, problems = read_files(path)
    findings = Findings(root)
    for problem in problems:
        findings.note(problem)
    _check_names(findings)
    section = _validate(with_defaults(root), findings, base)
    loader = _Loader(findings, base)
    loader.check()
    if (errors := findings.errors()) or section is None:
        raise ConfigError(errors)
    return loader.build(section, path, files)


#: What differs between replicas that have the same configuration.
OF_ONE_REPLICA = ("store", "state_dir", "runs_dir", "http")


def reload_config(old: Config) -> Config:
    """Load the configuration again, all or nothing: raises `ConfigError`, and `old` stays in force.

    What only a restart can change (store, state_dir, runs_dir, http) is refused when it differs.
    """
    new = load_config(old.path)
    findings = Findings(new.tree)
    for key, before, now in (
        ("store", old.store, new.store),
        ("state_dir", old.state_dir, new.state_dir),
        ("runs_dir", _runs_in(old), _runs_in(new)),
        ("http", old.http, new.http),
    ):
        if before != now:
            findings.add(
                (key,),
                f"{key} has changed, which needs a restart",
                "restart the daemon, or change it back",
                at_key=True,
            )
    if errors := findings.errors():
        raise ConfigError(errors)
    return new


def _runs_in(config: Config) -> Path | None:
    """Return the folder of runs that is not in the state directory, and so does not move with it."""
    return None if config.runs_dir == config.state_dir / "runs" else config.runs_dir


def plugin_options(kind: plugins.Kind, name: str, values: Mapping[str, Json], *, base: Path) -> Any:
    """Return `values` as the plugin's `Options`, as after filling in templates; raises `PluginError` when it refuses them."""
    options_class = plugins.load(kind, name).Options
    root = _without_places(values)
    findings = Findings(root)
    options = _read_options(options_class, root, findings, (), base=base)
    if options is None or findings.problems:
        said = "; ".join(
            f"{problem.path}: {problem.message}" if problem.path else problem.message for problem in findings.problems
        )
        raise PluginError(f"{kind.removesuffix('s')} {name!r} refuses its options: {said}")
    return options


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the garbage collector out: nothing here is garbage yet, and looking for it takes half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# -------------------------------------------------------------------------------------------------------- names


def _check_names(findings: Findings) -> None:
    """Refuse names that are malformed, reserved, or hard to tell apart."""
    root = findings.root
    _check_names_in(findings, ("sources",), reserved=RESERVED_SOURCES)
    _check_names_in(findings, ("notifiers",))
    _check_names_in(findings, ("models",))
    _check_names_in(findings, ("calendars",))
    _check_names_in(findings, ("defaults", "train", "candidates"))
    _check_names_in(findings, ("policies",), reserved=(MANUAL_POLICY,))
    models = root.get("models")
    for name in models if isinstance(models, Map) else ():
        _check_names_in(findings, ("models", name, "policies"), reserved=(MANUAL_POLICY,))
        _check_names_in(findings, ("models", name, "train", "candidates"))


def _check_names_in(findings: Findings, path: Steps, *, reserved: tuple[str, ...] = ()) -> None:
    names = findings.value(path)
    if not isinstance(names, Map):
        return
    seen: dict[str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        if plain in seen:
            other = seen[plain]
            findings.add(
                (*path, name),
                f"{name!r} and {other!r} differ only in case or Unicode form; the other is at {names.key_at(other)}",
                at_key=True,
            )
            continue
        seen[plain] = name
        if name in reserved:
            findings.add((*path, name), f"{name!r} is reserved", "choose another name", at_key=True)
        elif not _NAME.fullmatch(name):
            findings.add(
                (*path, name),
                f"{_shortened(name)} is not a name; use a-z, 0-9, '.', '_' and '-', at most 63 characters",
                _suggestion(plain),
                at_key=True,
            )


def _shortened(name: str) -> str:
    return repr(name if len(name) <= 70 else f"{name[:70]}…")


def _suggestion(plain: str) -> str:
    suggestion = re.sub(r"[^a-z0-9._-]+", "-", plain).strip("-._")[:63]
    return f"write {suggestion!r}" if suggestion else ""


# --------------------------------------------------------------------------------------------------- validation


def _validate(root: Map, findings: Findings, base: Path) -> ConfigSection | None:
    """Return the validated sections; None when they have problems, which are noted."""
    findings.root = root
    context = {"base": base}
    if "defaults" in root:
        try:
            DefaultsSection.model_validate_json(json.dumps(root["defaults"]), strict=True, context=context)
        except ValidationError as error:
            report(
                error,
                findings,
                model=DefaultsSection,
                base=("defaults",),
                ignore=lambda kind, _: kind == "missing",
            )
    text = json.dumps({key: value for key, value in root.items() if key != "defaults"})
    try:
        return ConfigSection.model_validate_json(text, strict=True, context=context)
    except ValidationError as error:
        report(error, findings, model=ConfigSection, base=())
        return None


def _read_options(
    options_class: type[_Options],
    values: Mapping[str, Any],
    findings: Findings,
    path: Steps,
    *,
    base: Path,
    also_known: Collection[str] = (),
    templates: bool = False,
) -> _Options | None:
    """Return a plugin's options, or None with the problems noted; with `templates`, what a template will fill is not judged yet."""
    text, context = json.dumps(values), {"base": base}
    coerces = bool(options_class.model_config.get("coerce_numbers_to_str"))

    def ignore(kind: str, at: Steps) -> bool:
        value = findings.value(at)
        if templates and isinstance(value, str) and "{{" in value:
            return True
        return coerces and kind == "string_type" and isinstance(value, int | float) and not isinstance(value, bool)

    try:
        return options_class.model_validate_json(text, strict=True, context=context)
    except ValidationError as error:
        before = len(findings.problems)
        report(error, findings, model=options_class, base=path, also_known=also_known, ignore=ignore)
        if not coerces or len(findings.problems) > before:
            return None
    try:
        # Strictness forbids what the plugin allows: numbers where text is wanted. Nothing else was wrong.
        return options_class.model_validate_json(text, context=context)
    except ValidationError:
        return None  # a template stands where something else will; there is nothing to build yet


def _without_places(value: Any) -> Any:
    """Return JSON as values that could have places, and have none."""
    if isinstance(value, Mapping):
        converted = Map("")
        for key, item in value.items():
            converted.put(key, _without_places(item), 0, 0)
        return converted
    if isinstance(value, list | tuple):
        items = Seq("")
        items.extend(_without_places(item) for item in value)
        items.marks.extend(0 for _ in value)
        return items
    return value


class _Loader:
    """Checks what the shape alone does not say, and builds the configuration.

    The checks read the values as they stand in the files, so that they find what they can although the shape was refused.
    """

    def __init__(self, findings: Findings, base: Path) -> None:
        self._findings = findings
        self._base = base
        self._classes: dict[tuple[str, str], Any] = {}
        self._failures: dict[tuple[str, str], PluginError] = {}
        self._sources: dict[str, SourceSpec] = {}
        self._launchers: dict[str, Any] = {}
        self._channels = Channels(findings, self._plugin, self._options)
        self._store: StoreAddress | None = None
        self._known_sources = self._names(("sources",))
        #: Options without problems, by their text: most models are trained and promoted alike.
        self._read_before: dict[tuple[type[BaseModel], str], Any] = {}
        #: Policies by identity, all of which live as long as the configuration's tree.
        self._looked_at: set[int] = set()

    def check(self) -> None:
        """Note every problem with plugins, their options, references, templates and secrets."""
        for name in self._names(("sources",)):
            self._check_source(name)
        for name in self._names(("launchers",)):
            self._check_settings(name, ("launchers", name))
        self._channels.check()
        for name in self._names(("models",)):
            self._check_model(name)
        self._check_policies(("policies",))
        self._check_store()

    def build(self, section: ConfigSection, path: Path, files: tuple[Path, ...]) -> Config:
        """Return the configuration; only after `check` found no error."""
        state_dir = absolute(self._base, section.state_dir)
        http = section.http
        form = normal_form(section)
        dead = section.dead_letters or DeadLettersSection()
        return Config(
            path=path,
            base=self._base,
            files=files,
            store=self._where_store_is(section),
            state_dir=state_dir,
            runs_dir=absolute(self._base, section.runs_dir) if section.runs_dir else state_dir / "runs",
            http=Http(
                listen=None if http.listen is None else split_listen(http.listen),
                socket=absolute(self._base, http.socket) if http.socket else state_dir / "retrain.sock",
            ),
            sources=self._sources,
            dead_letters=Quota(keep=dead.keep, max_bytes=dead.max_bytes),
            retention=build_retention(section.retention),
            launchers=self._launchers,
            notifiers=self._channels.build(section),
            notify=self._channels.told_in_general(section),
            models=build_models(section, form["models"]),
            version=version_of({key: value for key, value in form.items() if key not in OF_ONE_REPLICA}),
            normal_form=form,
            warnings=tuple(self._findings.warnings()),
            tree=self._findings.root,
        )

    def _where_store_is(self, section: ConfigSection) -> StoreAddress:
        address = self._store or self._default_store(section.state_dir)
        return replace(address, on_network=section.store is not None and bool(section.store.on_network))

    def _names(self, path: Steps) -> list[str]:
        found = self._findings.value(path)
        return list(found) if isinstance(found, Map) else []

    # ---- plugins

    def _plugin(self, kind: plugins.Kind, name: Any, path: Steps) -> Any:
        """Return a plugin's class; None when there is none, with the problem noted."""
        if not isinstance(name, str) or not name:
            return None  # the shape is wrong, which was noted
        if (kind, name) not in self._classes:
            try:
                self._classes[kind, name] = plugins.load(kind, name)
            except PluginError as error:
                self._classes[kind, name] = None
                self._failures[kind, name] = error
        if failure := self._failures.get((kind, name)):
            self._findings.add(path, failure.message, failure.hint)
        return self._classes[kind, name]

    def _options(
        self, options_class: type[BaseModel], path: Steps, shared: Collection[str], *, templates: bool = False
    ) -> Any:
        """Return the plugin's options among the keys at `path`; None when they are refused."""
        values = self._findings.value(path)
        if not isinstance(values, Map | None):
            return None
        own = {key: value for key, value in (values or {}).items() if key not in shared}
        text = json.dumps(own)
        if (known := self._read_before.get((options_class, text))) is not None:
            return known
        problems_before = len(self._findings.problems)
        options = _read_options(
            options_class, own, self._findings, path, base=self._base, also_known=shared, templates=templates
        )
        for steps, secret in _secrets(options, path):
            self._check_secret(secret, steps)
        if len(self._findings.problems) == problems_before:
            self._read_before[options_class, text] = options
        return options

    def _check_source(self, name: str) -> None:
        path: Steps = ("sources", name)
        type_name = self._findings.value((*path, "type"))
        plugin = self._plugin("sources", type_name, (*path, "type"))
        if plugin is not None:
            options = self._options(plugin.Options, path, tuple(SourceSection.model_fields))
            shared = self._shared_source_keys(path)
            self._sources[name] = SourceSpec(name=name, type=type_name, options=options, **shared)

    def _shared_source_keys(self, path: Steps) -> dict[str, Any]:
        """Return the keys that every source has; what is wrong with them was noted with the shape."""
        domain, every = (self._findings.value((*path, key)) for key in ("dedup_domain", "expect_every"))
        try:
            expected = None if every is None else read_duration(every)
        except PydanticCustomError:
            expected = None
        return {"dedup_domain": domain if isinstance(domain, str) else None, "expect_every": expected}

    def _check_settings(self, launcher: str, mentioned_at: Steps) -> None:
        if launcher in self._launchers:
            return
        plugin = self._plugin("launchers", launcher, mentioned_at)
        if plugin is not None:
            self._launchers[launcher] = self._options(plugin.Settings, ("launchers", launcher), ())

    # ---- models

    def _check_model(self, name: str) -> None:
        path: Steps = ("models", name)
        if not isinstance(self._findings.value(path), Map):
            return
        self._check_training((*path, "train"))
        self._check_promoters((*path, "promote"))
        self._channels.check_notify((*path, "notify"))
        self._check_policies((*path, "policies"))
        for policy in self._names((*path, "policies")):
            self._check_budget(name, (*path, "policies", policy, "budget"))
        self._check_calendars((*path, "hold_promotion"))
        self._check_sources_named((*path, "watch"))
        candidates = self._names((*path, "train", "candidates"))
        gate = self._findings.value((*path, "gate"))
        if len(candidates) > 1 and not (isinstance(gate, Map) and {"objective", "select"} & set(gate)):
            self._findings.add(
                (*path, "gate"),
                f"{len(candidates)} candidates compete, but nothing says how to choose",
                "add `objective: {metric: …}` or `select: {metric: …}`",
                at_key=True,
            )

    def _check_training(self, path: Steps) -> None:
        launcher = self._findings.value((*path, "launcher")) or DEFAULT_LAUNCHER
        plugin = self._plugin("launchers", launcher, (*path, "launcher"))
        if plugin is not None:
            self._check_settings(launcher, (*path, "launcher"))
            self._options(plugin.Options, path, tuple(TrainSection.model_fields), templates=True)
        for steps, text in texts(self._findings.value(path), path):
            if "{{" in text:
                try:
                    list(template.expressions(text))
                except ExpressionError as error:
                    where = "" if text in error.message else f" in {text!r}"
                    self._findings.add(steps, f"{error.message}{where}", error.hint)
        self._check_words((*path, "params"))
        for candidate in self._names((*path, "candidates")):
            self._check_words((*path, "candidates", candidate, "params"))

    def _check_words(self, path: Steps) -> None:
        """Parameters have no types, so a word that somebody may take for another value is pointed out."""
        for steps, value in texts(self._findings.value(path), path):
            if not isinstance(value, Word):
                continue
            if value[0].isalpha():
                meant = "true" if value.lower() in ("yes", "on") else "false"
                self._findings.add(
                    steps,
                    f"{str(value)!r} is a word here, not a boolean",
                    f"write {meant}, or quote it",
                    severity="warning",
                )
            else:
                self._findings.add(
                    steps,
                    f"{str(value)!r} is read differently by YAML 1.1 and 1.2",
                    "quote it, or write plain decimal digits",
                )

    def _check_promoters(self, path: Steps) -> None:
        promoters = self._findings.value(path)
        for position, promoter in enumerate(promoters if isinstance(promoters, Seq) else ()):
            at: Steps = (*path, position)
            type_name = promoter.get("type") if isinstance(promoter, Map) else None
            plugin = self._plugin("promoters", type_name, (*at, "type"))
            if plugin is not None:
                self._options(plugin.Options, at, ("type",))

    def _check_policies(self, path: Steps) -> None:
        policies = self._findings.value(path)
        if not isinstance(policies, Map):
            return
        for name, policy in policies.items():
            if id(policy) in self._looked_at:
                continue  # shared, as it is, with a model before this one
            self._looked_at.add(id(policy))
            self._check_sources_named((*path, name))
            self._check_calendars((*path, name))

    def _check_sources_named(self, path: Steps) -> None:
        """Refuse the names of sources that nobody wrote."""
        known = self._known_sources
        for steps, source in _sources_named(self._findings.value(path), path):
            if source not in known and source not in (API_ORIGIN, CONTROLLER_ORIGIN):
                self._findings.add(steps, f"there is no source {source!r}", nearest_or_known(source, known))

    def _check_calendars(self, path: Steps) -> None:
        """Refuse the names of calendars that nobody wrote, and calendars that leave no day open together."""
        names = self._findings.value((*path, "calendars"))
        if not isinstance(names, Seq):
            return
        known = self._names(("calendars",))
        found = []
        for position, name in enumerate(names):
            if isinstance(name, str) and name not in known:
                at: Steps = (*path, "calendars", position)
                self._findings.add(at, f"there is no calendar {name!r}", nearest_or_known(name, known))
            elif isinstance(name, str):
                found.append(_calendar(name, self._findings.value(("calendars", name))))
        if len(found) > 1 and never_open(found):
            self._findings.add((*path, "calendars"), "together they leave no day open", "take one out")

    def _check_budget(self, model: str, path: Steps) -> None:
        """Refuse a budget that no retraining of the model fits into, and one that is shared by a label that the model lacks."""
        scope, limit = self._findings.value((*path, "scope")), self._findings.value((*path, "cost"))
        cost = self._findings.value(("models", model, "train", "cost"))
        cost = DEFAULT_COST if cost is None else cost
        if _is_number(limit) and _is_number(cost) and cost > limit:
            self._findings.add(
                (*path, "cost"),
                f"a retraining of {model!r} costs {cost:g}, and the budget is {limit:g}: it would never start",
                "see `train: {cost: …}`",
            )
        label = scope.removeprefix("label:") if isinstance(scope, str) and scope.startswith("label:") else None
        labels = self._findings.value(("models", model, "labels"))
        if label and label not in (labels if isinstance(labels, Map) else ()):
            self._findings.add(
                (*path, "scope"),
                f"model {model!r} has no label {label!r}",
                nearest_or_known(label, labels if isinstance(labels, Map) else ()),
            )

    # ---- store and secrets

    def _default_store(self, state_dir: str) -> StoreAddress:
        return StoreAddress(url=f"{SQLITE}{state_dir}/retrain.db", password=None, base=self._base)

    def _check_store(self) -> None:
        written = self._findings.value(("store",))
        path: Steps = ("store", "url") if isinstance(written, Map) else ("store",)
        url = self._findings.value(path)
        password = self._secret(written.get("password")) if isinstance(written, Map) else None
        if password is not None:
            self._check_secret(password, ("store", "password"))
        if not isinstance(url, str) or not url:
            return
        if not url.startswith(("env:", "file:")):
            if complaint := _complaint_about_url(url, with_password=password is not None):
                self._findings.add(path, *complaint)
            self._store = StoreAddress(url=url, password=password, base=self._base)
            return
        secret = self._secret(url)
        if secret is None:
            self._findings.add(path, "a secret is given by reference: env:NAME or file:PATH")
            return
        revealed = self._check_secret(secret, path)
        if revealed is not None and (
            complaint := _complaint_about_url(revealed.strip(), with_password=password is not None, secret=True)
        ):
            self._findings.add(path, f"what {url} holds is refused: {complaint[0]}", complaint[1])
        self._store = StoreAddress(url=secret, password=password, base=self._base)

    def _secret(self, reference: Any) -> Secret | None:
        try:
            return Secret(reference, base=self._base) if isinstance(reference, str) else None
        except ValueError:
            return None  # its shape is wrong, which was noted

    def _check_secret(self, secret: Secret, path: Steps) -> str | None:
        """Return the secret's value; None, with the problem noted, when there is none."""
        try:
            value = secret.reveal()
        except RetryLater as error:
            self._findings.add(path, error.message, error.hint)
            return None
        if secret.readable_by_all():
            self._findings.add(
                path,
                f"secret {secret.reference} can be read by every user of this machine",
                "chmod 600",
                severity="warning",
            )
        return value


def _sources_named(value: Any, path: Steps) -> Iterator[tuple[Steps, str]]:
    """Yield every source that a policy names, with its path: in `on`, in a leaf of its tree, in a stage that has a leaf."""
    if isinstance(value, Map):
        for key, item in value.items():
            if key == "source" and isinstance(item, str):
                yield (*path, key), item
            elif isinstance(item, Map | Seq):
                yield from _sources_named(item, (*path, key))
    elif isinstance(value, Seq):
        for position, item in enumerate(value):
            if isinstance(item, Map | Seq):
                yield from _sources_named(item, (*path, position))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _calendar(name: str, written: Any) -> Calendar:
    """Return a calendar as far as it can be read; what is wrong with it was noted with the shape."""
    dates, days = (written.get(key) if isinstance(written, Map) else None for key in ("dates", "days"))
    return Calendar(name=name, dates=_readable(dates, check_date), days=_readable(days, lambda day: parse_days((day,))))


def _readable(values: Any, check: Callable[[str], object]) -> tuple[str, ...]:
    found = []
    for value in values if isinstance(values, Seq) else ():
        try:
            check(value)
        except (ValueError, TypeError, AttributeError):
            continue
        found.append(value)
    return tuple(found)


def _complaint_about_url(url: str, *, with_password: bool, secret: bool = False) -> tuple[str, str] | None:
    """Return what is wrong with a store's URL, without showing anything that may be a password."""
    scheme = url.partition("://")[0] if "://" in url else ""
    known = "write sqlite:///state/retrain.db or postgresql://user@host/db"
    if scheme == "sqlite":
        return _complaint_about_sqlite(url, with_password=with_password)
    if scheme not in ("postgresql", "postgres"):
        shown = (
            f"{scheme!r} is not a database the controller knows"
            if re.fullmatch(r"[A-Za-z0-9+.-]+", scheme)
            else "it is not a database URL"
        )
        return f"{shown}; {known}", ""
    try:
        parts = urlsplit(url)
        has_password = parts.password is not None
        host_given, _ = bool(parts.hostname), parts.port
    except ValueError:
        return f"it is not a valid URL; {known}", ""
    queried = any(key.lower() in _PASSWORD_KEYS for key, _ in parse_qsl(parts.query))
    if (has_password or queried) and not secret:
        return (
            "the password stands in the file; give it by reference",
            "store: {url: 'postgresql://user@host/db', password: 'env:PGPASSWORD'}, or the whole URL as env:NAME",
        )
    if with_password and (has_password or queried):
        return "the URL has a password already", "take one of the two out"
    if with_password and not (host_given and parts.username):
        return "a password needs a user and a host in the URL", known
    return None


def _complaint_about_sqlite(url: str, *, with_password: bool) -> tuple[str, str] | None:
    path = url.removeprefix(SQLITE)
    if not url.startswith(SQLITE) or not path or ":memory:" in path or "?" in path:
        return f"{url!r} names no file; write sqlite:///state/retrain.db", ""
    if with_password:
        return "SQLite has no password", "take `password` out"
    return None


def _secrets(value: Any, path: Steps) -> Iterator[tuple[Steps, Secret]]:
    """Yield every secret in a plugin's options with its path."""
    if isinstance(value, Secret):
        yield path, value
    elif isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            yield from _secrets(getattr(value, name), (*path, info.alias or name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _secrets(item, (*path, key))
    elif isinstance(value, list | tuple | set | frozenset):
        for position, item in enumerate(value):
            yield from _secrets(item, (*path, position))
