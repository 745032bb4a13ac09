"""Loading a configuration: what comes out, and what is said of what is wrong."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.config import (
    Config,
    load_config,
    models_from_normal_form,
    plugin_options,
    policy_from_normal_form,
    reload_config,
    write_initial,
)
from controller.config.files import MAX_BYTES
from controller.config.init import initial_files
from controller.config.schema import iso_duration
from controller.core.duration import parse_duration
from controller.core.policy import Leaf, MaxAge
from controller.errors import ConfigError, InvalidInput, PluginError

REPOSITORY = Path(__file__).resolve().parents[2]

BASE = """\
version: 1
sources:
  landing: {type: files, path: landing}
models:
  churn:
    policies:
      drift:
        on: {type: "drift.*"}
    train: {command: [python3, train.py]}
"""
ON = 'on: {type: "drift.*"}'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, name: str = "retrain.yaml"):
    Path(name).write_text(text)
    return load_config(name)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refusal:
        load(text)
    return [str(problem) for problem in refusal.value.problems]


# --------------------------------------------------------------------------------------------------- what comes out


def test_the_smallest_configuration_has_every_default_filled_in(folder: Path) -> None:
    config = load(BASE)

    model = config.models["churn"]
    assert config.base == folder
    assert config.state_dir == folder / "state"
    assert config.http.listen is None
    assert config.http.socket == folder / "state" / "retrain.sock"
    assert config.store.reveal() == f"sqlite:///{folder}/state/retrain.db"
    assert config.sources["landing"].type == "files"
    assert [candidate.name for candidate in model.training.candidates] == ["default"]
    assert model.training.launcher == "process"
    assert model.training.options == {"command": ["python3", "train.py"]}
    assert model.notify == ("log",)
    assert model.policies["drift"].on == Leaf(type=model.policies["drift"].on.type)
    assert set(config.launchers) == {"process"}
    assert config.warnings == ()


def test_everything_of_the_shape_is_read(folder: Path) -> None:
    config = load("""\
version: 1
store: {url: "postgresql://me@db.example/retrain", password: env:HOME}
state_dir: /var/lib/retrain
http: {listen: "127.0.0.1:0", socket: run/x.sock}
sources:
  landing: {type: files, path: landing, include: ["*.csv"], settle: 2s}
  nightly: {type: cron, schedule: "0 3 * * *", timezone: America/New_York, catch_up: last}
launchers: {process: {slots: 3}}
defaults:
  labels: {team: travel}
  train: {timeout: 1h, retries: {attempts: 5, backoff: 1m}, params: {seed: 7, depth: 2}}
  notify: []
models:
  flight-delay:
    labels: {tier: gold}
    policies:
      drift:
        on: {type: "drift.*", subject: "f*", when: event.data.share > 0.3, count: 3, within: 1h, by: event.subject}
        debounce: {quiet: 5s, max_wait: 1m}
        cooldown: {after: promotion, period: 6h, after_failure: 1h}
        quiet_hours: {between: "22:00-06:00", timezone: America/New_York, days: [mon, tue]}
      stale: {on: {max_age: 30d}}
    train:
      command: [python3, train.py, "{{ params.depth }}", 1e-3, 7]
      candidates: {boosting: {params: {depth: 6}}, linear: }
      concurrency: replace
      retries: {attempts: 2}
    gate:
      select: {metric: auc_valid}
      objective: {metric: auc, goal: maximize, min_gain: 0.002}
      require: [candidate.metrics.auc > 0.6, "champion == null || candidate.metrics.rows >= 10"]
      champion_metrics: stored
      candidates_needed: all
    approve: {required: true, timeout: 2d}
    promote: [{type: alias, path: models/x}]
    keep_artifacts: 9
    after_rollback: resume
""")

    model = config.models["flight-delay"]
    assert config.http.listen == ("127.0.0.1", 0)
    assert config.http.socket == folder / "run" / "x.sock"
    assert str(config.state_dir) == "/var/lib/retrain"
    assert config.launchers["process"].slots == 3
    assert model.labels == {"team": "travel", "tier": "gold"}
    assert model.training.timeout == timedelta(hours=1)
    assert (model.training.retries.attempts, model.training.retries.backoff) == (2, timedelta(minutes=1))
    assert {c.name: c.params for c in model.training.candidates} == {
        "boosting": {"seed": 7, "depth": 6},
        "linear": {"seed": 7, "depth": 2},
    }
    assert model.policies["stale"].on == MaxAge(age=timedelta(days=30), again_after=timedelta(days=3))
    assert model.policies["drift"].concurrency == "replace"
    assert model.policies["drift"].quiet_hours.days == ("mon", "tue")
    assert model.gate.require[0].source == "candidate.metrics.auc > 0.6"
    assert model.approval.required
    assert model.promoters[0].options == {"path": "models/x"}
    assert model.notify == ()
    assert model.after_rollback is None
    assert models_from_normal_form(json.loads(json.dumps(config.normal_form))) == config.models


# ------------------------------------------------------------------------------------------------------- messages


def on(text: str) -> str:
    return BASE.replace(ON, text)


P = "retrain.yaml:8:"
POLICY = "models.churn.policies.drift"
MESSAGES = {
    "duration": (
        on(ON + "\n        cooldown: {period: 5 minuts}"),
        [f"retrain.yaml:9:28: {POLICY}.cooldown.period: '5 minuts' is not a duration; write 5m or PT5M"],
    ),
    "number without unit": (
        on(ON + "\n        cooldown: {period: 60}"),
        [f"retrain.yaml:9:28: {POLICY}.cooldown.period: 60 has no unit (write 60s for seconds, 60m for minutes)"],
    ),
    "scalar for a mapping": (
        on(ON + "\n        cooldown: 5m"),
        [
            f"retrain.yaml:9:19: {POLICY}.cooldown: '5m' is not a mapping of keys to values "
            "(its keys: period, after, after_failure)"
        ],
    ),
    "misspelt key": (
        on(ON + "\n        cooldwon: {period: 5m}"),
        [f"retrain.yaml:9:9: {POLICY}.cooldwon: unknown key 'cooldwon' (did you mean 'cooldown'?)"],
    ),
    "key of another day": (
        on(ON + "\n        mode: observe"),
        [f"retrain.yaml:9:9: {POLICY}.mode: unknown key 'mode' (known: on, debounce, cooldown, quiet_hours)"],
    ),
    "missing key": (
        on("debounce: {quiet: 5s}"),
        [f"retrain.yaml:7:7: {POLICY}: 'on' is missing (What makes an occasion)"],
    ),
    "launcher's key": (
        BASE.replace("command:", "comand:"),
        [
            "retrain.yaml:9:5: models.churn.train: 'command' is missing (Program and arguments, never a shell)",
            "retrain.yaml:9:13: models.churn.train.comand: unknown key 'comand' (did you mean 'command'?)",
        ],
    ),
    "defaults are named where they stand": (
        BASE + "defaults: {train: {timeoot: 5m, retries: {attempts: 0}}}",
        [
            "retrain.yaml:10:20: defaults.train.timeoot: unknown key 'timeoot' (did you mean 'timeout'?)",
            "retrain.yaml:10:53: defaults.train.retries.attempts: 0 is not at least 1",
        ],
    ),
    "unknown source type": (
        BASE.replace("type: files", "type: fiels"),
        [
            "retrain.yaml:3:19: sources.landing.type: unknown source 'fiels' "
            "(did you mean 'files'? known: bucket, command, cron, files, http, kafka, prometheus, sql, webhook)"
        ],
    ),
    "source's options": (
        BASE.replace("path: landing", "pth: landing"),
        [
            "retrain.yaml:3:3: sources.landing: 'path' is missing (The folder)",
            "retrain.yaml:3:26: sources.landing.pth: unknown key 'pth' (did you mean 'path'?)",
        ],
    ),
    "unknown variable": (
        on("on: {type: a, when: evnt.data.x > 1}"),
        [f"{P}29: {POLICY}.on.when: unknown variable 'evnt' in 'evnt.data.x > 1' (did you mean 'event'?)"],
    ),
    "unknown function": (
        on("on: {type: a, by: sise(event.data)}"),
        [f"{P}27: {POLICY}.on.by: unknown function 'sise' in 'sise(event.data)' (did you mean 'size'?)"],
    ),
    "syntax of CEL": (
        on("on: {when: event.data.x >}"),
        [f"{P}20: {POLICY}.on.when: 'event.data.x >' is not CEL: something is missing at its end (column 15)"],
    ),
    "count without a window": (
        on("on: {type: a, count: 3}"),
        [f"{P}13: {POLICY}.on: count 3 needs a window (add `within: 1h`)"],
    ),
    "ambiguous number": (
        on("on: {type: a, count: 010, within: 1h}"),
        [
            f"{P}30: {POLICY}.on.count: '010' is not a whole number "
            "(YAML 1.1 and 1.2 read it differently; write the number in plain decimal digits)"
        ],
    ),
    "max_age with company": (
        on("on: {max_age: 30d, type: a}"),
        [f"{P}13: {POLICY}.on: max_age stands alone, without type (make it a policy of its own)"],
    ),
    "an empty on": (
        on("on: {}"),
        [
            f"{P}13: {POLICY}.on: it would match every event "
            "(name a source, a type, a subject or a `when`, or give max_age)"
        ],
    ),
    "quiet hours": (
        on(ON + "\n        quiet_hours: {between: 22-6, timezone: Europe/Pariss, days: [Tue]}"),
        [
            f"retrain.yaml:9:32: {POLICY}.quiet_hours.between: '22-6' is not a window of hours; write 22:00-06:00",
            f"retrain.yaml:9:48: {POLICY}.quiet_hours.timezone: 'Europe/Pariss' is not a time zone; "
            "write an IANA name such as Europe/Berlin or UTC (did you mean 'Europe/Paris'?)",
            f"retrain.yaml:9:70: {POLICY}.quiet_hours.days[0]: "
            "'Tue' is not 'mon', 'tue', 'wed', 'thu', 'fri', 'sat' or 'sun'",
        ],
    ),
    "always quiet": (
        on(ON + '\n        quiet_hours: {between: "00:00-24:00"}'),
        [
            f"retrain.yaml:9:22: {POLICY}.quiet_hours: '00:00-24:00' leaves no time at all "
            "(make the window shorter, or name days)"
        ],
    ),
    "unknown source": (
        on("on: {source: landin}"),
        [f"{P}22: {POLICY}.on.source: there is no source 'landin' (did you mean 'landing'?)"],
    ),
    "a name": (
        BASE.replace("churn", "Churn Model"),
        [
            "retrain.yaml:5:3: models.Churn Model: 'Churn Model' is not a name; "
            "use a-z, 0-9, '.', '_' and '-', at most 63 characters (write 'churn-model')"
        ],
    ),
    "names that differ in case": (
        BASE + "  CHURN: {train: {command: [x]}}",
        [
            "retrain.yaml:10:3: models.CHURN: 'CHURN' and 'churn' differ only in case or Unicode form; "
            "the other is at retrain.yaml:5:3"
        ],
    ),
    "names that differ in Unicode form": (
        BASE + "  ｃhurn: {train: {command: [x]}}",
        [
            "retrain.yaml:10:3: models.ｃhurn: 'ｃhurn' and 'churn' differ only in case or Unicode form; "
            "the other is at retrain.yaml:5:3"
        ],
    ),
    "reserved names": (
        BASE.replace("landing:", "person:").replace("drift:", "manual:"),
        [
            "retrain.yaml:3:3: sources.person: 'person' is reserved (choose another name)",
            "retrain.yaml:7:7: models.churn.policies.manual: 'manual' is reserved (choose another name)",
        ],
    ),
    "types": (
        BASE
        + """\
    approve: {required: yes}
    keep_artifacts: '3'
    labels: {zip: 1234, gold: true}
    notify: log
    after_rollback: never
""",
        [
            "retrain.yaml:10:25: models.churn.approve.required: 'yes' is not true or false "
            "('yes' is a word in YAML 1.2; write true)",
            "retrain.yaml:11:21: models.churn.keep_artifacts: '3' is not a whole number (take the quotes off)",
            "retrain.yaml:12:19: models.churn.labels.zip: 1234 is not text (quote it: '1234')",
            "retrain.yaml:12:31: models.churn.labels.gold: true is not text (quote it: 'true')",
            "retrain.yaml:13:13: models.churn.notify: 'log' is not a list (write [log])",
            "retrain.yaml:14:21: models.churn.after_rollback: 'never' is not a duration; write 5m or PT5M",
        ],
    ),
    "no version": (
        BASE.replace("version: 1\n", ""),
        ["retrain.yaml:1:1: 'version' is missing (Version of this format: 1)"],
    ),
    "another version": (
        BASE.replace("version: 1", "version: 2"),
        ["retrain.yaml:1:10: version: 2 is not a version this program reads (write version: 1)"],
    ),
    "an unknown section": (
        BASE + "modles: {}",
        ["retrain.yaml:10:1: modles: unknown key 'modles' (did you mean 'models'?)"],
    ),
    "password in the file": (
        BASE + "store: postgresql://me:hunter2@db/x",
        [
            "retrain.yaml:10:8: store: the password stands in the file; give it by reference "
            "(store: {url: 'postgresql://user@host/db', password: 'env:PGPASSWORD'}, or the whole URL as env:NAME)"
        ],
    ),
    "password as password": (
        BASE + "store: {url: 'postgresql://me@db/x', password: hunter2}",
        ["retrain.yaml:10:48: store.password: a secret is given by reference: env:NAME or file:PATH"],
    ),
    "another database": (
        BASE + "store: mysql://me:hunter2@db/x",
        [
            "retrain.yaml:10:8: store: 'mysql' is not a database the controller knows; "
            "write sqlite:///state/retrain.db or postgresql://user@host/db"
        ],
    ),
    "a secret that is not set": (
        BASE + "store: env:RETRAIN_TEST_NOT_SET",
        ["retrain.yaml:10:8: store: secret env:RETRAIN_TEST_NOT_SET is not set (set the variable)"],
    ),
    "SQLite in memory": (
        BASE + "store: 'sqlite:///:memory:'",
        ["retrain.yaml:10:8: store: 'sqlite:///:memory:' names no file; write sqlite:///state/retrain.db"],
    ),
    "listen": (
        BASE + "http: {listen: 8080}",
        ["retrain.yaml:10:16: http.listen: '8080' is not host:port; write 127.0.0.1:8080"],
    ),
    "gate": (
        BASE + "    gate: {objective: {metric: auc, gole: minimize, min_gain: x}, require: [candidat.x]}",
        [
            "retrain.yaml:10:37: models.churn.gate.objective.gole: unknown key 'gole' (did you mean 'goal'?)",
            "retrain.yaml:10:63: models.churn.gate.objective.min_gain: 'x' is not a number",
            "retrain.yaml:10:77: models.churn.gate.require[0]: unknown variable 'candidat' in 'candidat.x' "
            "(did you mean 'candidate'?)",
        ],
    ),
    "candidates without a choice": (
        BASE.replace("train.py]", "train.py], candidates: {a: , b: }"),
        [
            "retrain.yaml:5:3: models.churn.gate: 2 candidates compete, but nothing says how to choose "
            "(add `objective: {metric: …}` or `select: {metric: …}`)"
        ],
    ),
    "parameters": (
        BASE.replace("train.py]", "train.py], params: {x: 010, y: '{{ evnt.x }}'}"),
        [
            "retrain.yaml:9:55: models.churn.train.params.x: '010' is read differently by YAML 1.1 and 1.2 "
            "(quote it, or write plain decimal digits)",
            "retrain.yaml:9:63: models.churn.train.params.y: unknown variable 'evnt' in '{{ evnt.x }}' "
            "(did you mean 'event'?)",
        ],
    ),
    "a template in the middle": (
        BASE.replace("train.py]", "'x{{ event.x }}']"),
        [
            "retrain.yaml:9:32: models.churn.train.command[1]: 'x{{ event.x }}' has '{{' in the middle "
            "(a template fills a whole value: write it as an item of its own)"
        ],
    ),
    "promoters": (
        BASE + "    promote: [{type: alais}, {type: alias}, {path: x}]",
        [
            "retrain.yaml:10:22: models.churn.promote[0].type: unknown promoter 'alais' "
            "(did you mean 'alias'? known: alias, command)",
            "retrain.yaml:10:30: models.churn.promote[1]: 'path' is missing "
            "(The model's folder, relative to the configuration's)",
            "retrain.yaml:10:45: models.churn.promote[2]: 'type' is missing (Which promoter)",
        ],
    ),
    "an unknown notifier": (
        BASE + "    notify: [lgo]",
        ["retrain.yaml:10:14: models.churn.notify[0]: unknown notifier 'lgo' (did you mean 'log'? known: log)"],
    ),
    "launchers": (
        BASE + "launchers: {process: {slots: 0, nise: 3}, docker: {}}",
        [
            "retrain.yaml:10:30: launchers.process.slots: 0 is not at least 1",
            "retrain.yaml:10:33: launchers.process.nise: unknown key 'nise' (did you mean 'nice'?)",
            "retrain.yaml:10:51: launchers.docker: unknown launcher 'docker' (known: process)",
        ],
    ),
    "a command that is not a list": (
        BASE.replace("[python3, train.py]", "python3 train.py"),
        ["retrain.yaml:9:22: models.churn.train.command: 'python3 train.py' is not a list (write [python3 train.py])"],
    ),
    "a model that is nothing": (
        "version: 1\nmodels:\n  churn:\n",
        [
            "retrain.yaml:3:9: models.churn: nothing is not a mapping of keys to values (its keys: labels, train, "
            "gate, approve, promote, notify, keep_artifacts, after_rollback, policies)"
        ],
    ),
    "a key twice": (
        BASE + "    train: {}",
        ["retrain.yaml:10:5: models.churn.train: key 'train' is given twice; first at retrain.yaml:9:5"],
    ),
    "broken YAML": (
        BASE + "  x: [1",
        [
            "retrain.yaml:11:1: not YAML: did not find expected ',' or ']' while parsing a flow sequence "
            "(a bracket or a comma is missing before this place)"
        ],
    ),
}


@pytest.mark.parametrize("text,expected", list(MESSAGES.values()), ids=list(MESSAGES))
def test_each_mistake_is_named_with_its_place_and_what_to_write(folder: Path, text: str, expected: list[str]) -> None:
    assert problems(text) == expected


def test_all_mistakes_are_reported_at_once_sorted_by_place(folder: Path) -> None:
    text = on("on: {type: a, wen: x}").replace("path:", "pth:").replace("command:", "comand:") + "store: mysql://x"

    places = [(problem.split(":")[1]) for problem in problems(text)]

    assert places == ["3", "3", "8", "9", "9", "10"]


@pytest.mark.parametrize("name", ["password as password", "password in the file", "another database"])
def test_a_password_is_never_repeated(folder: Path, name: str) -> None:
    assert "hunter2" not in "\n".join(problems(MESSAGES[name][0]))


# ----------------------------------------------------------------------------------------------- files and folders


def test_a_folder_is_read_as_one_configuration(folder: Path) -> None:
    Path("conf").mkdir()
    Path("conf/10-base.yaml").write_text("version: 1\nsources: {landing: {type: files, path: landing}}\n")
    Path("conf/20-churn.yml").write_text(
        "version: 1\nmodels: {churn: {policies: {a: {on: {source: landing}}}, train: {command: [x]}}}\n"
    )
    Path("conf/30-fraud.yaml").write_text("models: {fraud: {train: {command: [x]}}}\n")
    Path("conf/.hidden.yaml").write_text("broken: [")
    Path("conf/notes.txt").write_text("not yaml: [")

    config = load_config("conf")

    assert set(config.models) == {"churn", "fraud"}
    assert config.base == folder / "conf"
    assert [file.name for file in config.files] == ["10-base.yaml", "20-churn.yml", "30-fraud.yaml"]


def test_a_name_in_two_files_is_refused_with_both_places(folder: Path) -> None:
    Path("conf").mkdir()
    Path("conf/a.yaml").write_text("version: 1\nstate_dir: x\nmodels:\n  churn: {train: {command: [x]}}\n")
    Path("conf/b.yaml").write_text("state_dir: y\nmodels:\n  churn: {train: {command: [x]}}\n")

    with pytest.raises(ConfigError) as refusal:
        load_config("conf")

    assert [str(problem) for problem in refusal.value.problems] == [
        "conf/b.yaml:1:1: state_dir: 'state_dir' is given twice; first at conf/a.yaml:2:1",
        "conf/b.yaml:3:3: models.churn: 'churn' is given twice; first at conf/a.yaml:4:3",
    ]


def test_problems_in_a_folder_name_the_right_file(folder: Path) -> None:
    Path("conf").mkdir()
    Path("conf/a.yaml").write_text("version: 1\ndefaults:\n  train: {timeout: 1x}\n")
    Path("conf/b.yaml").write_text("models:\n  churn: {train: {command: [x], retries: {attempts: 0}}}\n")

    with pytest.raises(ConfigError) as refusal:
        load_config("conf")

    assert [str(problem).split(": ")[0] for problem in refusal.value.problems] == [
        "conf/a.yaml:3:20",
        "conf/b.yaml:2:53",
    ]


def test_a_mounted_config_map_is_read_through_its_links(folder: Path) -> None:
    Path("conf/..2026_01").mkdir(parents=True)
    Path("conf/..2026_01/retrain.yaml").write_text(BASE)
    Path("conf/..data").symlink_to("..2026_01")
    Path("conf/retrain.yaml").symlink_to("..data/retrain.yaml")

    config = load_config("conf")

    assert [str(file) for file in config.files] == ["conf/retrain.yaml"]
    assert config.base == folder / "conf"


@pytest.mark.parametrize(
    "path,message",
    [
        (
            "nowhere.yaml",
            "nowhere.yaml:1:1: there is no such file (`retrainctl init` writes a configuration that runs)",
        ),
        ("empty", "empty:1:1: the folder holds no *.yaml file (`retrainctl init` writes a configuration that runs)"),
        ("big.yaml", f"big.yaml:1:1: the configuration is larger than {MAX_BYTES // 2**20} MiB"),
    ],
)
def test_files_that_cannot_be_read_are_named(folder: Path, path: str, message: str) -> None:
    Path("empty").mkdir()
    with Path("big.yaml").open("wb") as stream:
        stream.truncate(50 * 2**20)

    with pytest.raises(ConfigError) as refusal:
        load_config(path)

    assert str(refusal.value) == message


# ------------------------------------------------------------------------------------------------------- versions


def test_the_version_does_not_depend_on_how_it_is_written(folder: Path) -> None:
    one = load(BASE + "    approve: {timeout: 2d, required: false}\n")
    two = load(
        "models:\n  churn: {train: {command: [python3, train.py], timeout: 1440m}, approve: {timeout: PT48H},"
        " policies: {drift: {on: {count: 1, type: 'drift.*'}}}}\n"
        "sources: {landing: {path: landing, type: files}}\nversion: 1\n"
    )

    assert one.version == two.version
    assert len(one.version) == 16


def test_a_policy_s_versions_change_with_what_it_decides(folder: Path) -> None:
    plain = load(BASE).models["churn"].policies["drift"]
    cooled = load(on(ON + "\n        cooldown: {period: 5m}")).models["churn"].policies["drift"]
    other = load(on("on: {type: other}")).models["churn"].policies["drift"]
    replacing = load(BASE.replace("train.py]", "train.py], concurrency: replace")).models["churn"].policies["drift"]
    unrelated = load(BASE + "    keep_artifacts: 1").models["churn"].policies["drift"]

    assert plain.version == unrelated.version
    assert len({plain.version, cooled.version, other.version, replacing.version}) == 4
    assert plain.on_hash == cooled.on_hash == replacing.on_hash != other.on_hash


def test_hashes_stay_the_same_between_releases(folder: Path) -> None:
    """State in the database is keyed by these: a release that changes them resets every policy."""
    policy = load(BASE).models["churn"].policies["drift"]

    assert (policy.on_hash, policy.version) == ("a36c499bd8ec53c2", "228f3128312e487a")


def test_an_old_model_is_rebuilt_from_the_normal_form_alone(folder: Path) -> None:
    config = load(BASE.replace("train.py]", "train.py], params: {none: null, nested: {a: null}}"))
    stored = json.loads(json.dumps(config.normal_form))
    Path("retrain.yaml").unlink()

    assert models_from_normal_form(stored) == config.models
    assert models_from_normal_form(stored, only=["churn"]) == config.models
    assert models_from_normal_form(stored, only=[]) == {}
    assert policy_from_normal_form("churn", "drift", stored) == config.models["churn"].policies["drift"]
    with pytest.raises(KeyError):
        policy_from_normal_form("churn", "gone", stored)


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=3660)))
def test_a_duration_in_a_normal_form_reads_back(length: timedelta) -> None:
    assert parse_duration(iso_duration(length)) == length


def test_ten_thousand_policies_load(folder: Path) -> None:
    """Each with an expression of its own; the time-out of a test is the bound, the report of the benchmark has the time."""
    policies = "".join(
        f"  m{model}:\n    train: {{command: [sh]}}\n    policies:\n"
        + "".join(
            f"      p{policy}: {{on: {{source: landing, when: event.data.n > {model * 20 + policy}}}, cooldown: {{period: 6h}}}}\n"
            for policy in range(20)
        )
        for model in range(500)
    )

    config = load("version: 1\nsources: {landing: {type: files, path: landing}}\nmodels:\n" + policies)

    assert sum(len(model.policies) for model in config.models.values()) == 10_000


# -------------------------------------------------------------------------------------------------------- secrets


def test_a_store_by_reference_is_read_late_and_shown_nowhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_TEST_URL", "postgresql://me:hunter2@db/x")
    monkeypatch.setenv("RETRAIN_TEST_PASSWORD", "p@ss/w:rd")

    whole = load(BASE + "store: env:RETRAIN_TEST_URL")
    split = load(BASE + "store: {url: 'postgresql://me@db:5432/x', password: env:RETRAIN_TEST_PASSWORD}")

    assert whole.store.reveal() == "postgresql://me:hunter2@db/x"
    assert split.store.reveal() == "postgresql://me:p%40ss%2Fw%3Ard@db:5432/x"
    for config in (whole, split):
        shown = repr(config) + json.dumps(config.normal_form)
        assert "hunter2" not in shown
        assert "p@ss" not in shown
    assert whole.normal_form["store"] == {"url": "env:RETRAIN_TEST_URL"}
    assert repr(split.store) == "StoreAddress('postgresql://me:***@db:5432/x')"


def test_what_a_secret_holds_is_checked_without_showing_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_TEST_URL", "hunter2")

    assert problems(BASE + "store: env:RETRAIN_TEST_URL") == [
        "retrain.yaml:10:8: store: what env:RETRAIN_TEST_URL holds is refused: it is not a database URL; "
        "write sqlite:///state/retrain.db or postgresql://user@host/db"
    ]


def test_a_secret_file_that_everybody_can_read_is_a_warning(folder: Path) -> None:
    Path("password").write_text("x")
    Path("password").chmod(0o644)

    config = load(BASE + "store: {url: 'postgresql://me@db/x', password: file:password}")

    assert [str(warning) for warning in config.warnings] == [
        "retrain.yaml:10:48: store.password: secret file:password can be read by every user of this machine (chmod 600)"
    ]


def test_words_that_were_booleans_once_are_pointed_out(folder: Path) -> None:
    config = load(BASE.replace("train.py]", "train.py], params: {shuffle: no}"))

    assert config.models["churn"].training.candidates[0].params == {"shuffle": "no"}
    assert [str(warning) for warning in config.warnings] == [
        "retrain.yaml:9:61: models.churn.train.params.shuffle: 'no' is a word here, not a boolean "
        "(write false, or quote it)"
    ]


# --------------------------------------------------------------------------------------- plugins' options, reload


def test_options_are_read_again_once_templates_are_filled(folder: Path) -> None:
    options = plugin_options("launchers", "process", {"command": ["a", 4.0, "b"]}, base=folder)

    assert options.command == ["a", "4", "b"]
    with pytest.raises(PluginError, match="launcher 'process' refuses its options: command: 5 is not a list"):
        plugin_options("launchers", "process", {"command": 5}, base=folder)


def test_a_reload_takes_the_new_configuration_as_a_whole(folder: Path) -> None:
    old = load(BASE)
    Path("retrain.yaml").write_text(BASE.replace("drift.*", "other.*"))

    new = reload_config(old)

    assert new.version != old.version


def test_a_broken_reload_leaves_the_old_one_alone(folder: Path) -> None:
    old = load(BASE)
    Path("retrain.yaml").write_text(BASE + "nonsense")

    with pytest.raises(ConfigError):
        reload_config(old)

    assert old.models["churn"].policies


def test_what_needs_a_restart_is_refused_by_a_reload(folder: Path) -> None:
    old = load(BASE)
    Path("retrain.yaml").write_text(BASE + "store: sqlite:///other.db\nstate_dir: elsewhere\nhttp: {listen: 'a:1'}\n")

    with pytest.raises(ConfigError) as refusal:
        reload_config(old)

    assert [str(problem) for problem in refusal.value.problems] == [
        "retrain.yaml:10:1: store: store has changed, which needs a restart (restart the daemon, or change it back)",
        "retrain.yaml:11:1: state_dir: state_dir has changed, which needs a restart "
        "(restart the daemon, or change it back)",
        "retrain.yaml:12:1: http: http has changed, which needs a restart (restart the daemon, or change it back)",
    ]


# ----------------------------------------------------------------------------------------------------------- init


def test_init_writes_a_configuration_without_problems(folder: Path) -> None:
    written = write_initial("here")

    config = load_config("here")
    assert {file.name for file in written} == {"retrain.yaml", "train.py", "example.csv"}
    assert config.warnings == ()


def test_init_never_overwrites(folder: Path) -> None:
    Path("train.py").write_text("mine")

    with pytest.raises(InvalidInput, match=r"train\.py exists already; nothing was written"):
        write_initial(".")

    assert [file.name for file in folder.iterdir()] == ["train.py"]
    assert Path("train.py").read_text() == "mine"


def test_the_repository_s_configs_are_what_init_writes() -> None:
    shipped = {name: (REPOSITORY / "configs" / name).read_bytes() for name in initial_files()}

    assert shipped == initial_files()


# ----------------------------------------------------------------------------------------------------------- fuzz


def loaded_or_refused(name: str) -> Config | ConfigError:
    try:
        return load_config(name)
    except ConfigError as refusal:
        return refusal


KEYS = [
    "on",
    "type",
    "source",
    "when",
    "count",
    "within",
    "by",
    "max_age",
    "debounce",
    "quiet",
    "cooldown",
    "period",
    "train",
    "command",
    "candidates",
    "params",
    "launcher",
    "retries",
    "attempts",
    "policies",
    "gate",
    "objective",
    "metric",
    "require",
    "promote",
    "path",
    "url",
    "password",
    "a",
    "A",
]
yaml_values = st.recursive(
    st.sampled_from(
        ["1", "no", "010", "5m", "~", "x", "'{{ event.x }}'", "env:HOME", "files", "process", "''", "-1", "1.5"]
    ),
    lambda children: (
        st.lists(children, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(
            st.sampled_from(KEYS),
            children,
            max_size=4,
        ).map(lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}")
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sections=st.dictionaries(
        st.sampled_from(["sources", "models", "defaults", "launchers", "store", "http", "state_dir", "version"]),
        yaml_values,
    ),
    model=yaml_values,
)
def test_any_shape_is_loaded_or_refused_with_places(folder: Path, sections: dict[str, str], model: str) -> None:
    text = "".join(f"{key}: {value}\n" for key, value in {"version": "1", **sections}.items())
    if "models" not in sections:
        text += f"models: {{churn: {model}}}\n"
    Path("retrain.yaml").write_text(text)

    outcome = loaded_or_refused("retrain.yaml")

    if isinstance(outcome, ConfigError):
        assert outcome.problems
        assert all(problem.line and problem.column and problem.message for problem in outcome.problems)
    else:
        assert models_from_normal_form(json.loads(json.dumps(outcome.normal_form))) == outcome.models


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, len(BASE)), junk=st.text("{}[]:,-'\"#&*!|>% \n\tabc019.~", max_size=6))
def test_any_slip_of_the_pen_is_loaded_or_refused(folder: Path, position: int, junk: str) -> None:
    Path("retrain.yaml").write_text(BASE[:position] + junk + BASE[position:])

    outcome = loaded_or_refused("retrain.yaml")

    assert not isinstance(outcome, ConfigError) or outcome.problems
