"""Every crash point that the code has by name, read from the code, and which test covers one that no story of the matrix reaches.

A transaction is named where it is begun, a plugin's call by the plugin and the method of its protocol. A name that is computed must be one
of few, or be listed here with what it comes to.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

from controller import ports

ROOT = Path(__file__).resolve().parents[2]
#: Where in the code the name of a transaction is computed. The verbs of acts are found by themselves.
COMPUTED: dict[tuple[str, str], tuple[str, ...]] = {
    ("controller/engine/acts.py", "f\"act_{verb.replace('.', '_')}\""): (),
    ("controller/engine/watcher.py", "name"): ("watch", "watch_rollback"),
    ("controller/engine/lease.py", "name"): ("give_back", "leave"),
}
_DOCTOR = "tests/integration/test_sources_cli.py::test_the_doctor_finds_nothing_wrong"
_RESTARTED = "controller/testing/sources.py::test_a_restart_repeats_nothing"
#: What no story of the matrix reaches, and the test that shows it can be repeated or that nothing is lost.
ELSEWHERE = {
    "plugin.notifier.webhook.send": "tests/engine/test_outbox.py::test_a_daemon_that_dies_after_the_send_sends_it_again_under_its_id",
    "plugin.source.bucket.poll": "tests/integration/test_bucket_listings.py::test_a_restart_in_the_middle_of_a_listing_repeats_nothing",
    "plugin.source.bucket.report": _DOCTOR,
    "plugin.source.http.poll": _RESTARTED,
    "plugin.source.http.report": _DOCTOR,
    "plugin.source.kafka.read_again": "tests/integration/test_kafka_source.py::test_a_dead_letter_is_read_again_with_other_options",
    "plugin.source.kafka.report": _DOCTOR,
    "plugin.source.kafka.run": "tests/acceptance/test_kafka.py::test_G01_kill_9_between_the_database_and_the_broker",
    "plugin.source.kafka.seek": "tests/integration/test_kafka_positions.py::test_a_seek_wins_over_our_position",
    "plugin.source.prometheus.poll": _RESTARTED,
    "plugin.source.prometheus.report": _DOCTOR,
    "plugin.source.sql.poll": _RESTARTED,
    "plugin.source.sql.report": _DOCTOR,
    "transaction.act_refused": "tests/integration/test_audit.py::test_the_same_refusal_is_recorded_once",
    "transaction.act_resolve": "tests/engine/test_dispatcher.py::test_what_cannot_be_searched_is_unknown",
    "transaction.act_seek": "tests/integration/test_sources_cli.py::test_seek",
    "transaction.bury": "tests/engine/test_evaluator.py::test_G10_a_poison_event_is_a_dead_letter_and_the_others_go_on",
    "transaction.cancel_launch": "tests/engine/test_dispatcher.py::test_a_run_cancelled_before_its_unclear_launch_is_cleared_up",
    "transaction.drop_state": "tests/engine/test_evaluator.py::test_a_poison_timer_buries_no_event",
    "transaction.found": "tests/engine/test_lost_answers.py::test_what_cannot_be_looked_up_for_long_is_unknown_until_a_late_answer",
    "transaction.late_answer": "tests/engine/test_lost_answers.py::test_an_answer_that_comes_when_others_have_given_up_hope",
    "transaction.launch_unknown": "tests/engine/test_dispatcher.py::test_an_answer_lost_by_a_launcher_that_cannot_be_searched",
    "transaction.note_backup": "tests/unit/test_cli_db.py::test_backup_makes_a_database_and_is_remembered",
    "transaction.probe": "tests/engine/test_inbox.py::test_the_complaint_goes_without_new_events",
    "transaction.prune": "tests/engine/test_pruning.py::test_CP18_a_crash_at_any_batch_loses_nothing_that_is_kept",
    "transaction.replay": "tests/engine/test_replay.py::test_G04_each_policy_is_replayed",
    "transaction.silence": "tests/engine/test_doctor.py::test_a_crash_while_it_is_said",
    "transaction.tame": "tests/engine/test_lost_answers.py::test_a_message_postponed_by_a_clock_that_was_ahead",
    "transaction.trouble": "tests/engine/test_doctor.py::test_a_source_that_goes_on_complaining_is_failing",
}
#: What a plugin of each kind may be asked, by protocol.
_ASKED = {
    "launchers": (ports.Launcher,),
    "promoters": (ports.Promoter,),
    "notifiers": (ports.Notifier,),
    "sources": (ports.StreamSource, ports.TimedSource, ports.PushSource, ports.Rereads, ports.Seekable, ports.Reports),
}


def transactions() -> dict[str, str]:
    """Return the name of every transaction in the code, with the file that begins it."""
    found = {"migrate": "controller/store/store.py"}
    for path, tree in _sources():
        for call in _calls(tree, "transaction", "transacting"):
            for name in _names(call.args[0] if call.args else None, path):
                found[name] = path
    found |= dict.fromkeys((f"act_{verb.replace('.', '_')}" for verb in verbs()), "controller/engine/acts.py")
    return found


def verbs() -> set[str]:
    """Return every verb of an act: the second argument of whoever carries one out."""
    found = set()
    for _, tree in _sources("engine"):
        for call in _calls(tree, "once", "_act"):
            if len(call.args) > 1 and isinstance(call.args[1], ast.Constant):
                found.add(str(call.args[1].value))
    return found


def plugin_calls() -> set[str]:
    """Return every call that may be made to one of our plugins, as `source.kafka.run`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    found = set()
    for kind, protocols in _ASKED.items():
        asked = {name for protocol in protocols for name in vars(protocol) if _is_call(protocol, name)}
        for plugin, place in project[f"controller.{kind}"].items():
            module, _, name = place.partition(":")
            cls = getattr(import_module(module), name)
            found |= {f"{kind.removesuffix('s')}.{plugin}.{method}" for method in asked if hasattr(cls, method)}
    return found


def points() -> set[str]:
    """Return every crash point."""
    around = {f"transaction.{name}.{when}" for name in transactions() for when in ("before_commit", "after_commit")}
    around |= {f"plugin.{call}.{when}" for call in plugin_calls() for when in ("before", "after")}
    return around - {"transaction.migrate.before_commit"} | {
        f"migrate.{version}.before_commit" for version in _migrations()
    }


def _migrations() -> list[str]:
    """Return the number of each: its own point is where the schema is about to be committed with it."""
    return [path.name[:4] for path in (ROOT / "controller" / "store" / "migrations" / "versions").glob("[0-9]*.py")]


def stem(point: str) -> str:
    """Return what a point is before or after of."""
    return point.rpartition(".")[0]


def _is_call(protocol: type, name: str) -> bool:
    return not name.startswith("_") and callable(vars(protocol)[name])


@cache
def _sources(folder: str = "") -> tuple[tuple[str, ast.Module], ...]:
    paths = sorted((ROOT / "controller" / folder).rglob("*.py"))
    return tuple(
        (str(path.relative_to(ROOT)), ast.parse(path.read_text())) for path in paths if "testing" not in path.parts
    )


def _calls(tree: ast.Module, *names: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names:
            yield node


def _names(argument: ast.expr | None, path: str) -> list[str]:
    if isinstance(argument, ast.Constant):
        return [str(argument.value)]
    if isinstance(argument, ast.IfExp):
        return [*_names(argument.body, path), *_names(argument.orelse, path)]
    if argument is not None and (path, ast.unparse(argument)) in COMPUTED:
        return list(COMPUTED[path, ast.unparse(argument)])
    raise AssertionError(
        f"{path} computes the name of a transaction ({ast.unparse(argument) if argument else 'none'}): list it in COMPUTED"
    )
