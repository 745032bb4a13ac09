"""What is said of what is wrong: each mistake with its place and what to write, all at once, and never a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.config.texts import BASE, ON, on, problems

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
        on(ON + "\n        shadow: yes"),
        [
            f"retrain.yaml:9:9: {POLICY}.shadow: unknown key 'shadow' (known: ready, debounce, cooldown, quiet_hours, "
            "calendars, max_chain, own_output, breaker, budget, mode, priority, jitter, on)"
        ],
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
        [
            "retrain.yaml:10:14: models.churn.notify[0]: unknown notifier 'lgo' (did you mean 'log'? known: command, log, webhook)"
        ],
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
            "gate, approve, promote, notify, keep_artifacts, after_rollback, watch, hold_promotion, policies)"
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
