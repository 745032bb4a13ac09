"""Plugins are found by name, imported only when named, and guarded by crash points."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from controller import crash, plugins
from controller.errors import PluginError


@pytest.fixture(autouse=True)
def fresh_index():
    plugins._found.cache_clear()
    yield
    plugins._found.cache_clear()
    crash.disarm()


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs a distribution with plugins of its own."""

    def install(name: str, group: str, entries: dict[str, str], code: str = "") -> None:
        info = tmp_path / f"{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = "".join(f"{key} = {value}\n" for key, value in entries.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")
        (tmp_path / f"{name}_plugin.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        plugins._found.cache_clear()

    return install


@pytest.mark.parametrize(
    "kind,expected",
    [
        ("sources", {"files", "cron"}),
        ("launchers", {"process"}),
        ("promoters", {"alias", "command"}),
        ("notifiers", {"command", "log", "webhook"}),
    ],
)
def test_our_own_plugins_are_declared_like_anybody_s(kind: plugins.Kind, expected: set[str]) -> None:
    assert expected <= set(plugins.names(kind))
    assert all(plugins.load(kind, name).Options for name in expected)


def test_listing_names_imports_no_plugin() -> None:
    code = (
        "import sys; from controller import plugins; plugins.names('sources'); "
        "print([m for m in sys.modules if m.startswith('controller.sources')])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_refused_with_the_near_miss_and_the_choice() -> None:
    with pytest.raises(PluginError) as refusal:
        plugins.load("sources", "file")

    assert refusal.value.message == "unknown source 'file'"
    assert refusal.value.hint.startswith("did you mean 'files'? known: ")
    assert {"cron", "files", "kafka", "webhook"} <= set(refusal.value.hint.partition("known: ")[2].split(", "))


def test_a_stranger_s_plugin_is_found(stranger) -> None:
    stranger("acme", "controller.sources", {"acme": "acme_plugin:Acme"}, "class Acme:\n    pass\n")

    assert plugins.load("sources", "acme").__name__ == "Acme"
    assert plugins.origin("sources", "acme") == "acme 1.2"


def test_a_plugin_that_cannot_be_imported_names_its_distribution_and_cause(stranger) -> None:
    stranger("broken", "controller.sources", {"broken": "broken_plugin:X"}, "import a_module_that_is_not_there\n")

    with pytest.raises(PluginError) as refusal:
        plugins.load("sources", "broken")

    assert refusal.value.message == (
        "source 'broken' (broken 1.2) cannot be imported: "
        "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"
    )


def test_two_distributions_with_one_name_are_refused(stranger) -> None:
    stranger("one", "controller.sources", {"same": "one_plugin:X"})
    stranger("two", "controller.sources", {"same": "two_plugin:X"})

    with pytest.raises(PluginError, match="source 'same' is provided by several distributions: one, two"):
        plugins.load("sources", "same")


def test_nothing_installed_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_found", lambda kind: {})

    with pytest.raises(PluginError) as refusal:
        plugins.load("sources", "files")

    assert "pip install" in refusal.value.hint


class Counter:
    """A plugin for the guard."""

    class Options:
        pass

    label = "counter"

    def __init__(self) -> None:
        self.calls: list[object] = []

    def call(self, value: object, *, again: bool = False) -> tuple[object, bool]:
        self.calls.append(value)
        if value == "bad":
            raise RuntimeError(value)
        return value, again


def test_a_guarded_plugin_passes_crash_points_around_each_call() -> None:
    reached: list[str] = []
    crash.trace(reached.append)
    guarded = plugins.guarded(Counter(), "promoter.alias")

    assert guarded.call(1, again=True) == (1, True)
    with pytest.raises(RuntimeError):
        guarded.call("bad")

    assert reached == [
        "plugin.promoter.alias.call.before",
        "plugin.promoter.alias.call.after",
        "plugin.promoter.alias.call.before",
    ]


def test_a_crash_before_a_call_keeps_it_from_happening() -> None:
    plugin = Counter()
    guarded = plugins.guarded(plugin, "x")

    def stop(name: str) -> None:
        raise KeyboardInterrupt(name)

    crash.arm("plugin.x.call.before", stop)
    with pytest.raises(KeyboardInterrupt):
        guarded.call(1)
    crash.arm("plugin.x.call.after", stop)
    with pytest.raises(KeyboardInterrupt):
        guarded.call(2)

    assert plugin.calls == [2]


def test_a_guard_passes_attributes_and_classes_through() -> None:
    guarded = plugins.guarded(Counter(), "x")

    assert guarded.label == "counter"
    assert guarded.Options is Counter.Options
    with pytest.raises(AttributeError):
        guarded.missing  # noqa: B018 - the look is the test
