"""Checks the channels to people, and makes their records: `notifiers`, and every `notify` that names them.

It works for the loader (`load.py`), which reads plugins and their options and notes what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError

from controller import plugins
from controller.config.nearest import nearest_or_known
from controller.config.problems import Findings
from controller.config.problems import Path as Steps
from controller.config.records import NotifierSpec
from controller.config.schema import ConfigSection, NotifierGroupSection, NotifierSection
from controller.config.yaml12 import Map, Seq
from controller.core.notices import Bundling

#: Where nothing is said.
DEFAULT_CHANNEL = "log"


class Channels:
    """The channels of one configuration."""

    def __init__(
        self,
        findings: Findings,
        plugin: Callable[[plugins.Kind, Any, Steps], Any],
        options: Callable[[type[BaseModel], Steps, tuple[str, ...]], Any],
    ) -> None:
        """`plugin` returns a plugin's class, `options` the options at a path; both note what is wrong and return None then."""
        self._findings = findings
        self._plugin = plugin
        self._read_options = options
        self._classes: dict[str, Any] = {}
        self._options: dict[str, Any] = {}

    def check(self) -> None:
        """Note what is wrong with `notifiers`, and with the `notify` of the installation."""
        for name in self._names():
            path: Steps = ("notifiers", name)
            plugin = self._plugin("notifiers", self._findings.value((*path, "type")), (*path, "type"))
            if plugin is not None:
                self._classes[name] = plugin
                self._options[name] = self._read_options(plugin.Options, path, tuple(NotifierSection.model_fields))
        self.check_notify(("notify",))

    def check_notify(self, path: Steps) -> None:
        """Refuse names that are neither channels nor notifiers that need no options; `log` stands in where nothing is said."""
        channels, notify = self._names(), self._findings.value(path)
        for position, name in enumerate(notify if isinstance(notify, Seq) else [DEFAULT_CHANNEL]):
            if name not in channels:
                self._check_plain((*path, position), name, channels)

    def _check_plain(self, at: Steps, name: Any, channels: list[str]) -> None:
        if channels and isinstance(name, str) and name not in plugins.names("notifiers"):
            known = sorted({*channels, DEFAULT_CHANNEL})
            self._findings.add(at, f"there is no channel {name!r}", nearest_or_known(name, known))
            return
        plugin = self._plugin("notifiers", name, at)
        if plugin is not None and not _needs_nothing(plugin.Options):
            self._findings.add(
                at,
                f"the notifier {name!r} must be told more",
                f"write `notifiers: {{my-{name}: {{type: {name}, …}}}}`, and the name of it here",
            )

    def build(self, section: ConfigSection) -> dict[str, NotifierSpec]:
        """Return the channels by name; only after `check` found no error."""
        return {
            name: NotifierSpec(
                name=name,
                type=each.type,
                options=self._options[name],
                only=None if each.only is None else frozenset(each.only),
                grouping=_bundling(each, self._classes[name]),
            )
            for name, each in (section.notifiers or {}).items()
        }

    def told_in_general(self, section: ConfigSection) -> tuple[str, ...]:
        """Return the channels that are told what concerns no single model."""
        if section.notify is not None:
            return tuple(section.notify)
        shared = self._findings.value(("defaults", "notify"))
        return tuple(shared) if isinstance(shared, Seq) else (DEFAULT_CHANNEL,)

    def _names(self) -> list[str]:
        found = self._findings.value(("notifiers",))
        return list(found) if isinstance(found, Map) else []


def _needs_nothing(options_class: type[BaseModel]) -> bool:
    try:
        options_class.model_validate({})
    except ValidationError:
        return False
    return True


def _bundling(section: NotifierSection, notifier: Any) -> Bundling | None:
    """Return how messages come together: as written, or as it suits people, unless the notifier says that it disturbs nobody."""
    if section.group is None and not getattr(notifier, "disturbs", True):
        return None
    group = section.group or NotifierGroupSection()
    return Bundling(wait=group.wait, repeat=group.repeat)
