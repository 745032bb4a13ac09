"""A story of what goes wrong and is mended by people, for the crash points that the nominal flow never reaches.

Bodies that a webhook does not understand; a command that is not there; a promoter that asks for time, then gives up, so that the others
go back; a person who retries, rejects, overrides, pauses and resumes; a configuration that changes a mapping, so that one dead letter is
read and the other stays dead and is dropped; a message that nobody takes at first; an alert that nobody resolves; tokens, tests, and looks
at a log and at a source.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from controller.store import schema
from tests.acceptance.facts import facts, finish, press, send, wait_for_promotion, wrong_in_itself
from tests.acceptance.harness import Installation

_BEARER = "a-token-of-the-crash-tests"
_JOB = r"""
echo "$RETRAIN_JOB_ID $RETRAIN_ATTEMPT" >>"$STARTS"
echo "$RETRAIN_JOB_ID" >"$RETRAIN_ARTIFACT_DIR/model"
echo '{"metrics": {"auc": 0.8}, "champion_metrics": {"auc": 0.7}, "artifact": "model"}' >"$RETRAIN_RESULT.partial"
mv "$RETRAIN_RESULT.partial" "$RETRAIN_RESULT"
"""
#: Asks for time once (75), and then refuses until it is mended.
_PROMOTE = r"""
serving=serving.$RETRAIN_MODEL
[ "$RETRAIN_ACTION" != current ] || { cat "$serving" 2>/dev/null; exit 0; }
[ -e asked-for-time ] || { : >asked-for-time; exit 75; }
[ -e promoter-mended ] || exit 1
echo "$RETRAIN_VERSION_ID" >"$serving.new"
mv "$serving.new" "$serving"
"""
#: Another place that is told what serves; it goes back to nothing, too.
_COPY = r"""
copied=copied.$RETRAIN_MODEL
[ "$RETRAIN_ACTION" != current ] || { cat "$copied" 2>/dev/null; exit 0; }
echo "$RETRAIN_VERSION_ID" >"$copied.new"
mv "$copied.new" "$copied"
"""
#: Is away for a moment once, and takes no message of a failure until it is mended.
_PAGER = r"""
[ -e paged ] || { : >paged; exit 75; }
[ "$RETRAIN_NOTIFICATION_KIND" != failed ] || [ -e pager-mended ] || exit 1
"""
#: Final states of runs, in the order of the story.
EXPECTED_RUNS = (
    ("brittle", "manual", "FAILED"),
    ("shaky", "manual", "FAILED"),
    ("shaky", "manual", "PROMOTED"),
    ("shaky", "manual", "REJECTED"),
    ("shaky", "skew", "REJECTED"),
)


def install(folder: Path, database: str | None = None) -> Installation:
    """Write the scripts and the first configuration."""
    there = Installation(folder, database)
    for name, text in (("job.sh", _JOB), ("promote.sh", _PROMOTE), ("copy.sh", _COPY), ("pager.sh", _PAGER)):
        (folder / name).write_text(text)
    (folder / "bearer").write_text(_BEARER)
    (folder / "bearer").chmod(0o600)
    there.configure(_config(there, mended=False))
    return there


def play(there: Installation) -> dict[str, Any]:
    """Play the story to its end, whatever kills the daemon meanwhile; return what must be the same each time."""
    there.begin("start")
    there.wait_ready()
    _not_understood(there)
    _not_promoted(there)
    there.begin("reload")
    there.configure(_config(there, mended=True))
    there.insist("POST", "/v1/reload", unless=lambda: there.acts("reload") and _is_mended(there))
    _dead_letters(there)
    _rejected(there)
    there.begin("override")
    rejected = there.runs()[3].id
    override = {"target": rejected, "reason": "a test"}
    there.insist("POST", "/v1/promote", override, unless=lambda: there.acts("promote") == 1)
    wait_for_promotion(there, "shaky", "override")
    _paused(there)
    _tokens_and_tests(there)
    _unresolved(there)
    finish(there)
    return facts(there)


def problems(found: dict[str, Any]) -> list[str]:
    """What is wrong with facts in themselves, whatever others look like."""
    runs = tuple(run[:3] for run in found["runs"])
    wrong = [] if runs == EXPECTED_RUNS else [f"runs: {found['runs']}"]
    return wrong + wrong_in_itself(found)


# ----------------------------------------------------------------------------------------------------- the steps


def _not_understood(there: Installation) -> None:
    there.begin("hook")
    for number in (1, 2):
        _hook(there, "odd", {"number": number, "name": "churn"} if number == 1 else {"number": number})
    there.begin("launch")
    press(there, "brittle", "any")
    there.wait_run(1, "FAILED")


def _not_promoted(there: Installation) -> None:
    there.begin("promotion")
    press(there, "shaky", "first")
    failed = there.wait_run(2, "FAILED")
    there.begin("retry")
    (there.folder / "promoter-mended").touch()
    there.insist("POST", f"/v1/runs/{failed.id}/retry", {"reason": "a test"}, Idempotency_Key="retry")
    there.wait_run(3, "PROMOTED")


def _dead_letters(there: Installation) -> None:
    """The mapping is mended for one of the two letters; the other is dead for another reason now, and is dropped."""
    understood, hopeless = _letters(there)
    there.begin("replay")
    for letter in (understood, hopeless):
        there.insist(
            "POST",
            f"/v1/dead/{letter.id}/replay",
            {"reason": "a test"},
            unless=lambda letter=letter: _letter_moved(there, letter),
        )
    there.begin("drop")
    there.insist(
        "POST", f"/v1/dead/{hopeless.id}/drop", {"reason": "a test"}, unless=lambda: there.acts("dead.drop") == 1
    )


def _rejected(there: Installation) -> None:
    """A person rejects; the message of the failure before, which its channel refused, is sent again when that is mended."""
    there.begin("reject")
    press(there, "shaky", "second")
    asked = there.wait_run(4, "AWAITING_APPROVAL")
    _reject(there, asked.id, times=1)
    there.begin("message")
    message = schema.notification.c
    refused = sa.select(message.id).where(message.channel == "pager", message.kind == "failed", message.state == "DEAD")
    there.wait(lambda: there.keep_running() or there.rows(refused), what="the refused message")
    (there.folder / "pager-mended").touch()
    there.insist(
        "POST",
        f"/v1/notifications/{there.rows(refused)[0].id}/retry",
        {"reason": "a test"},
        unless=lambda: there.acts("notification.retry") == 1,
    )


def _paused(there: Installation) -> None:
    """What comes during a pause is held, and goes on after it."""
    there.begin("pause")
    there.insist("POST", "/v1/pause", {"target": "shaky", "reason": "a test"}, unless=lambda: there.acts("pause") == 1)
    send(there, "e-1", "skew")
    held = sa.select(schema.policy_state.c.stage).where(schema.policy_state.c.held_count > 0)
    there.wait(lambda: there.keep_running() or there.rows(held), what="a held decision")
    there.begin("resume")
    there.insist(
        "POST", "/v1/resume", {"target": "shaky", "reason": "a test"}, unless=lambda: there.acts("resume") == 1
    )
    asked = there.wait_run(5, "AWAITING_APPROVAL")
    _reject(there, asked.id, times=2)


def _tokens_and_tests(there: Installation) -> None:
    there.begin("tokens")
    there.insist("POST", "/v1/tokens", {"name": "phone"}, unless=lambda: there.acts("token.create") == 1)
    there.insist("DELETE", "/v1/tokens/phone", unless=lambda: there.acts("token.revoke") == 1)
    there.begin("tests")
    there.insist("POST", "/v1/sources/odd/test", unless=lambda: there.acts("test"))
    there.insist("POST", "/v1/notifiers/pager/test", unless=lambda: there.acts("notify.test"))
    there.begin("looks")
    there.insist("GET", f"/v1/runs/{there.runs()[2].id}/log")
    there.insist("GET", "/v1/sources/share")


def _unresolved(there: Installation) -> None:
    """An alert that says nothing for a second counts as over."""
    there.begin("episode")
    alert = {"status": "firing", "labels": {"alertname": "Drift"}, "annotations": {}, "fingerprint": f"{1:016x}"}
    times = {"startsAt": "2026-01-01T00:00:00Z", "endsAt": "0001-01-01T00:00:00Z", "generatorURL": ""}
    group = {
        "groupKey": "{}",
        "truncatedAlerts": 0,
        "receiver": "retrain",
        "groupLabels": {},
        "externalURL": "http://a",
    }
    common = {"commonLabels": {}, "commonAnnotations": {}, "version": "4", "status": "firing"}
    _hook(there, "alerts", {**group, **common, "alerts": [{**alert, **times}]})
    over = sa.select(schema.episode.c.id).where(schema.episode.c.state == "EXPIRED")
    there.wait(lambda: there.keep_running() or there.rows(over), what="the end of the episode")


# ----------------------------------------------------------------------------------------------------- the moves


def _hook(there: Installation, source: str, body: Any) -> None:
    there.insist("POST", f"/hooks/{source}", body, Authorization=f"Bearer {_BEARER}")


def _reject(there: Installation, run_id: str, *, times: int) -> None:
    there.insist(
        "POST", f"/v1/runs/{run_id}/reject", {"reason": "a test"}, unless=lambda: there.acts("reject") == times
    )


def _letters(there: Installation) -> list[Any]:
    return there.rows(sa.select(schema.dead_letter).order_by(schema.dead_letter.c.id))


def _letter_moved(there: Installation, letter: Any) -> bool:
    return any(
        each.id == letter.id and (each.state, each.error) != (letter.state, letter.error) for each in _letters(there)
    )


def _is_mended(there: Installation) -> bool:
    """Whether the daemon that answers now runs with the second configuration: it also reads changed files by itself."""
    return len(there.rows(sa.select(schema.config_version))) == 2


def _command_promoter(script: str, **more: Any) -> dict[str, Any]:
    return {"type": "command", "promote": ["/bin/sh", script], "current": ["/bin/sh", script], **more}


def _config(there: Installation, *, mended: bool) -> dict[str, Any]:
    verify = {"bearer": "file:bearer"}
    mapping = {"type": "'told.' + body.name", "subject": "body.name"} if mended else {"type": "body.kind"}
    training = {
        "command": ["/bin/sh", str(there.folder / "job.sh")],
        "env": {"STARTS": str(there.folder / "starts")},
        "retries": {"attempts": 1},
    }
    shaky = {
        "policies": {"skew": {"on": {"type": "skew"}}},
        "train": training,
        "gate": {"objective": {"metric": "auc"}},
        "promote": [
            {"type": "alias", "path": "models/shaky"},
            _command_promoter("copy.sh", rollback=["/bin/sh", "copy.sh"]),
            _command_promoter("promote.sh"),
        ],
        "approve": {"required": mended},
        "notify": ["pager"],
    }
    brittle = {
        "policies": {"never": {"on": {"type": "never"}}},
        "train": {**training, "command": ["./not-there"]},
        "notify": ["log"],
    }
    return {
        "sources": {
            "odd": {"type": "webhook", "format": "generic", "verify": verify, "mapping": mapping},
            "alerts": {"type": "webhook", "format": "alertmanager", "verify": verify, "expire": "1s"},
            "share": {"type": "command", "command": ["echo", "0.5"], "every": "1h"},
        },
        "notifiers": {
            "pager": {"type": "command", "command": ["/bin/sh", "pager.sh"], "group": {"wait": "0s", "repeat": "0s"}}
        },
        "models": {"brittle": brittle, "shaky": shaky},
    }
