"""The notifiers against real receivers: an HTTP server, with and without TLS, and real programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controller.clock import SystemClock
from controller.errors import GiveUp, RetryLater, Unauthorized
from controller.notifiers.command import CommandNotifier, CommandOptions
from controller.notifiers.webhook import WebhookNotifier, WebhookOptions
from controller.ports import NotifierContext, Request
from controller.sources.webhook import WebhookSource
from controller.sources.webhook.options import WebhookOptions as SourceOptions
from controller.testing import MemoryInbox, RecordingLog, wait_until
from controller.testing.notifiers import make_notification
from tests.integration.test_probe_http import self_signed
from tests.receivers import Receiver, Sent

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def context(base: Path) -> NotifierContext:
    return NotifierContext(name="test", base=base, clock=SystemClock(), log=RecordingLog())


def webhook(base: Path, url: str, *more: Any, **options: Any) -> WebhookNotifier:
    told = WebhookOptions.model_validate({"url": url, **options}, context={"base": base})
    return WebhookNotifier(told, context(base), *more)


def command(base: Path, script: str, **options: Any) -> CommandNotifier:
    told = CommandOptions.model_validate({"command": ["sh", "-c", script], **options}, context={"base": base})
    return CommandNotifier(told, context(base))


# ------------------------------------------------------------------------------------------------ signatures


def heard_by(base: Path, request: Sent, secret: str) -> Any:
    """Let our own webhook source judge a request that we sent."""
    inbox = MemoryInbox(name="hook", clock=SystemClock())
    verify = {"hmac": {"dialect": "standard-webhooks", "secret": secret}}
    options = SourceOptions.model_validate({"format": "cloudevents", "verify": verify}, context={"base": base})
    source = WebhookSource(options, inbox.context(base))
    return source.take(
        Request(
            method="POST",
            path="",
            query="",
            headers=tuple(request.headers.items()),
            body=request.body,
            received_at=datetime.now(UTC),
        )
    )


def test_signed_in_the_dialect_of_standard_webhooks(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own source verifies what we sign, with each key of a rotation and with no other; the id is the message's."""
    for name, secret in (("NEW", WHSEC), ("OLD", "plain old secret"), ("OTHER", "whsec_b3RoZXI=")):
        monkeypatch.setenv(name, secret)
    notifier = webhook(tmp_path, f"{receiver.url}/in", secret=["env:NEW", "env:OLD"], template="cloudevents")
    notifier.send(make_notification())
    (request,) = receiver.requests

    assert request.headers["webhook-id"] == "not-1"
    assert len(request.headers["webhook-signature"].split()) == 2
    for reference in ("env:NEW", "env:OLD"):
        (event,) = heard_by(tmp_path, request, reference).batch.events
        assert (event.source_id, event.type) == ("not-1", "retrain.notification.promoted")
    with pytest.raises(Unauthorized):
        heard_by(tmp_path, request, "env:OTHER")


def test_a_secret_is_read_when_it_is_needed(receiver: Receiver, tmp_path: Path) -> None:
    """A rotated file counts at once, and one that is missing is for later."""
    key = tmp_path / "key"
    key.write_text("one")
    notifier = webhook(tmp_path, f"{receiver.url}/in", secret="file:key")
    notifier.send(make_notification())
    key.write_text("two")
    notifier.send(make_notification())
    key.unlink()

    with pytest.raises(RetryLater, match="secret file:key"):
        notifier.send(make_notification())
    assert len({request.headers["webhook-signature"] for request in receiver.requests}) == 2


# --------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
def test_later(receiver: Receiver, tmp_path: Path, status: int) -> None:
    """An answer that says "not now" is for later, with what it says of when."""
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    receiver.answers = [
        (status, {"Retry-After": "17"}, b"busy"),
        (status, {"Retry-After": soon}, b""),
        (status, {}, b""),
    ]
    notifier = webhook(tmp_path, f"{receiver.url}/in")
    after = []
    for _ in range(3):
        with pytest.raises(RetryLater, match=str(status)) as caught:
            notifier.send(make_notification())
        after.append(caught.value.after_seconds)

    assert after[0] == 17
    assert 50 < after[1] <= 60
    assert after[2] is None


@pytest.mark.parametrize("status", [304, 400, 401, 403, 404, 410, 413])
def test_for_good(receiver: Receiver, tmp_path: Path, status: int) -> None:
    """Any other answer gives up, with its text."""
    receiver.answers = [(status, {}, b"" if status == 304 else b"invalid_payload")]

    with pytest.raises(GiveUp, match="304" if status == 304 else f"{status}: invalid_payload"):
        webhook(tmp_path, f"{receiver.url}/in").send(make_notification())


@pytest.mark.parametrize(
    "headers, body",
    [({}, b"x" * 1_000_000), ({"Content-Encoding": "gzip"}, b"\x1f\x8b rubbish")],
    ids=["a long one", "a packed one"],
)
def test_taken_is_taken(receiver: Receiver, tmp_path: Path, headers: dict[str, str], body: bytes) -> None:
    """Whatever the body of a good answer is, the message was delivered, and is not sent again."""
    receiver.answers = [(202, headers, body)]

    webhook(tmp_path, f"{receiver.url}/in").send(make_notification())

    assert len(receiver.requests) == 1


def test_no_redirect_is_followed(receiver: Receiver, tmp_path: Path) -> None:
    """What a server redirects to is not told anything."""
    receiver.answers = [(307, {"Location": "/elsewhere"}, b"")]

    with pytest.raises(GiveUp, match="redirects to"):
        webhook(tmp_path, f"{receiver.url}/in").send(make_notification())
    assert [request.path for request in receiver.requests] == ["/in"]


def test_a_deadline(receiver: Receiver, tmp_path: Path) -> None:
    """A receiver that does not answer costs no more than the time-out."""
    receiver.open.clear()

    with pytest.raises(RetryLater, match="did not answer in time"):
        webhook(tmp_path, f"{receiver.url}/in", timeout="200ms").send(make_notification())


def test_nobody_there(tmp_path: Path) -> None:
    """A refused connection, and a name that nobody has, are for later."""
    with Receiver() as gone:
        url = gone.url
    for each in (url, "http://nowhere.invalid/in"):
        with pytest.raises(RetryLater, match=r"cannot be (reached|resolved)"):
            webhook(tmp_path, each).send(make_notification())


# ---------------------------------------------------------------------------------------------- guard and TLS


def test_the_guard(tmp_path: Path) -> None:
    """A name that leads to a cloud's metadata service is refused when it is resolved, an address when it is written."""
    with pytest.raises(GiveUp, match="link-local"):
        webhook(tmp_path, "http://hooks.example/in", lambda host, port: ["169.254.169.254"]).send(make_notification())
    with pytest.raises(ValidationError, match="link-local"):
        webhook(tmp_path, "http://169.254.169.254/latest")


def test_certificates(receiver: Receiver, tmp_path: Path) -> None:
    """One that nobody vouches for is refused before anything is said, unless its authority is named; the name must fit."""
    certificate, key = self_signed("hooks.example", tmp_path)
    (tmp_path / "server.pem").write_bytes(key.read_bytes() + certificate.read_bytes())
    receiver.secure(tmp_path / "server.pem")
    port = receiver.url.rpartition(":")[2]

    def local(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    url, trusted = f"https://hooks.example:{port}/in", {"tls": {"ca": certificate.name}}
    with pytest.raises(RetryLater, match=r"certificate .* is not trusted"):
        webhook(tmp_path, url, local).send(make_notification())
    with pytest.raises(RetryLater, match=r"certificate .* is not trusted"):
        webhook(tmp_path, url.replace("hooks.", "other."), local, **trusted).send(make_notification())
    assert receiver.requests == []
    webhook(tmp_path, url, local, **trusted).send(make_notification())

    assert [request.headers["host"] for request in receiver.requests] == [f"hooks.example:{port}"]


# ---------------------------------------------------------------------------------------------------- secrets


def test_G14_no_secret_is_shown(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a secret URL, keys and headers are in no error, also when the server repeats them or redirects to them."""
    path = "/services/T000/B000/geheimgeheim"
    monkeypatch.setenv("URL", f"{receiver.url}{path}?sig=queryquery")
    monkeypatch.setenv("TOKEN", "tokentoken")
    monkeypatch.setenv("KEY", "keykeykey")
    told = f"no {path}?sig=queryquery for tokentoken, keykeykey".encode()
    receiver.answers = [
        (404, {}, told),
        (500, {}, told),
        (302, {"Location": f"http://127.0.0.1:1{path}"}, b""),
        (302, {"Location": f"http://[{path}"}, b""),
    ]
    notifier = webhook(tmp_path, "env:URL", secret="env:KEY", headers={"Authorization": "env:TOKEN"})
    errors = []
    for _ in range(4):
        with pytest.raises((GiveUp, RetryLater)) as caught:
            notifier.send(make_notification())
        errors.append(caught.value)
    receiver.open.clear()
    monkeypatch.setenv("URL", f"gopher://x{path}")
    with pytest.raises(GiveUp) as refused:
        notifier.send(make_notification())

    assert receiver.requests[0].path == f"{path}?sig=queryquery"
    assert receiver.requests[0].headers["authorization"] == "tokentoken"
    for error in (*errors, refused.value):
        assert error.__cause__ is None
        for secret in ("geheim", "queryquery", "tokentoken", "keykeykey"):
            assert secret not in str(error)


@pytest.mark.parametrize(
    "url, said",
    [
        ("https://hooks.slack.com/services/T0/B0/x", "it is a secret"),
        ("https://prod-1.westeurope.logic.azure.com/workflows/x", "it is a secret"),
        ("https://example.org/in?sig=x", "it is a secret"),
        ("ftp://example.org/in", "scheme"),
        ("https://me:secret@example.org/in", "user name"),
    ],
)
def test_urls_that_are_refused(tmp_path: Path, url: str, said: str) -> None:
    """What is a secret is given by reference, and what cannot be posted to is refused at load."""
    with pytest.raises(ValidationError, match=said):
        webhook(tmp_path, url)


# ---------------------------------------------------------------------------------------------------- programs


def test_a_program_is_told_on_standard_input(tmp_path: Path) -> None:
    """All of it as JSON, the main parts in the environment, nothing as an argument."""
    script = 'cat > told.json; printf "%s" "$RETRAIN_NOTIFICATION_KIND $RETRAIN_NOTIFICATION_COUNT $# $SECRET" > said'
    (tmp_path / "secret").write_text("geheim")
    command(tmp_path, script, env={"SECRET": "file:secret"}).send(make_notification(gathered=3))

    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["id"], told["count"], [each["id"] for each in told["messages"]]) == (
        "not-1",
        3,
        ["not-1-0", "not-1-1", "not-1-2"],
    )
    assert (tmp_path / "said").read_text() == "promoted 3 0 geheim"


def test_a_program_that_reads_nothing_and_prints_much(tmp_path: Path) -> None:
    """Neither a large message nor a large output keeps it from ending; the end of what it printed is the reason."""
    message = make_notification(title="x" * 1_000_000)
    with pytest.raises(GiveUp, match=r"failed \(exit code 4\): ") as caught:
        command(tmp_path, "head -c 3000000 /dev/zero | tr '\\0' 'y'; echo the end; exit 4").send(message)

    assert caught.value.message.endswith("yyythe end")
    assert len(caught.value.message) < 2200


@pytest.mark.parametrize(
    "script, error, said",
    [
        ("exit 75", RetryLater, "asked to be run again"),
        ("echo bad address >&2; exit 1", GiveUp, "exit code 1.*bad address"),
        ("kill -9 $$", GiveUp, "killed by signal 9"),
        ("echo $SECRET; exit 1", GiveUp, r"\*\*\*"),
    ],
)
def test_exit_codes(tmp_path: Path, script: str, error: type[Exception], said: str) -> None:
    """75 is for later; anything but 0 gives up, with what the program said, without secrets."""
    (tmp_path / "secret").write_text("geheim")
    with pytest.raises(error, match=said) as caught:
        command(tmp_path, script, env={"SECRET": "file:secret"}).send(make_notification())

    assert "geheim" not in str(caught.value)


def test_G14_no_secret_of_a_program_is_shown(tmp_path: Path) -> None:
    """A secret of several lines is masked whole, and one that another begins with does not leave the other's rest."""
    (tmp_path / "lines").write_text("first line\nsecond line")
    (tmp_path / "short").write_text("geheim")
    (tmp_path / "long").write_text("geheimnisvoll")
    secrets = {"SHORT": "file:short", "LONG": "file:long", "LINES": "file:lines"}
    with pytest.raises(GiveUp, match=r"\*\*\*") as caught:
        command(tmp_path, 'echo "$LONG $LINES"; exit 1', env=secrets).send(make_notification())

    for part in ("geheim", "nisvoll", "first line", "second line"):
        assert part not in str(caught.value)


def test_a_program_that_does_not_end(tmp_path: Path) -> None:
    """At the deadline all that it started is killed; that is for later, with what it had said."""
    script = "echo working; sleep 600 & echo $! > child; wait"
    with pytest.raises(RetryLater, match=r"took longer than 0\.3 s: working"):
        command(tmp_path, script, timeout="300ms").send(make_notification())

    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not is_running(child))


def test_what_a_program_leaves_running_is_ended(tmp_path: Path) -> None:
    """A program that has ended leaves nothing behind, and what it left does not keep us."""
    command(tmp_path, "sleep 600 & echo $! > child").send(make_notification())

    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not is_running(child))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    """No time will bring it."""
    told = CommandOptions(command=("./nobody",))
    with pytest.raises(GiveUp, match=r"cannot run '\./nobody'"):
        CommandNotifier(told, context(tmp_path)).send(make_notification())
