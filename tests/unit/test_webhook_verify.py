"""Who may call a webhook: every scheme, right and wrong."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.errors import RetryLater, Unauthorized
from controller.ports import Request
from controller.sources.webhook import WebhookSource
from controller.testing import ManualClock, MemoryInbox
from tests.factories import NOON, at
from tests.webhooks import JSON, mac, make_request, make_source, payload, standard_headers

BODY = payload("github/push")
SECRET, OLD = "It's a Secret to Everybody", "the secret before that"
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = base64.b64decode(WHSEC.removeprefix("whsec_"))

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Scheme:
    """A way of signing, with a sender of its own."""

    hmac: dict[str, Any]
    sign: Callable[[str, bytes, int], Headers]
    has_time: bool = False


def github(secret: str, body: bytes, at_: int) -> Headers:
    return [("x-hub-signature-256", f"sha256={mac(secret, body).hex()}")]


def grafana(secret: str, body: bytes, at_: int) -> Headers:
    return [("x-grafana-alerting-signature", mac(secret, body).hex())]


def grafana_timed(secret: str, body: bytes, at_: int) -> Headers:
    signature = mac(secret, f"{at_}:".encode(), body).hex()
    return [("x-grafana-alerting-signature", signature), ("x-time", str(at_))]


def standard(secret: str, body: bytes, at_: int) -> Headers:
    signature = base64.b64encode(mac(secret, f"msg_1.{at_}.".encode(), body)).decode()
    return [("webhook-id", "msg_1"), ("webhook-timestamp", str(at_)), ("webhook-signature", f"v1,{signature}")]


def mlflow(secret: str, body: bytes, at_: int) -> Headers:
    signature = base64.b64encode(mac(secret, f"d-1.{at_}.".encode(), body)).decode()
    return [
        ("x-mlflow-delivery-id", "d-1"),
        ("x-mlflow-timestamp", str(at_)),
        ("x-mlflow-signature", f"v1,{signature}"),
    ]


def slack(secret: str, body: bytes, at_: int) -> Headers:
    signature = mac(secret, f"v0:{at_}:".encode(), body).hex()
    return [("x-slack-signature", f"v0={signature}"), ("x-slack-request-timestamp", str(at_))]


def stripe(secret: str, body: bytes, at_: int) -> Headers:
    signature = mac(secret, f"{at_}.".encode(), body).hex()
    return [("stripe-signature", f"t={at_},v0=00,v1={signature}")]


def custom(secret: str, body: bytes, at_: int) -> Headers:
    signature = base64.b64encode(mac(secret, body, algorithm="sha512")).decode()
    return [("x-sig", f"s={signature}")]


SCHEMES = {
    "github": Scheme({"dialect": "github"}, github),
    "grafana": Scheme({"dialect": "grafana"}, grafana),
    "grafana with a time": Scheme({"dialect": "grafana", "timestamp_header": "X-Time"}, grafana_timed, True),
    "standard-webhooks": Scheme({"dialect": "standard-webhooks"}, standard, True),
    "mlflow": Scheme({"dialect": "mlflow"}, mlflow, True),
    "slack": Scheme({"dialect": "slack"}, slack, True),
    "stripe": Scheme({"dialect": "stripe"}, stripe, True),
    "custom": Scheme(
        {"dialect": "custom", "header": "X-Sig", "algorithm": "sha512", "encoding": "base64", "prefix": "s="}, custom
    ),
}
every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
timed_schemes = pytest.mark.parametrize(
    "scheme", [s for s in SCHEMES.values() if s.has_time], ids=[n for n, s in SCHEMES.items() if s.has_time]
)
SECONDS = int(NOON.timestamp())


@pytest.fixture
def inbox() -> MemoryInbox:
    return MemoryInbox(clock=ManualClock(NOON))


def build(inbox: MemoryInbox, folder: Path, scheme: Scheme, **more: Any) -> WebhookSource:
    """Return a hook that takes anything that is signed, by the secret in the file `secret`."""
    (folder / "secret").write_text(SECRET)
    verify = {"hmac": {"secret": "file:secret", **scheme.hmac, **more}}
    return make_source(inbox, folder, format="generic", verify=verify, mapping={"type": "'x'"})


def signed(headers: Headers, body: bytes = BODY) -> Request:
    return make_request(body, *headers, token=None)


def refusal(source: WebhookSource, request: Request) -> Unauthorized:
    with pytest.raises(Unauthorized) as caught:
        source.take(request)
    return caught.value


@every_scheme
def test_a_right_signature_is_taken(inbox: MemoryInbox, tmp_path: Path, scheme: Scheme) -> None:
    """What is signed over the raw bytes is taken, and the doctor hears of it."""
    taken = build(inbox, tmp_path, scheme).take(signed(scheme.sign(SECRET, BODY, SECONDS)))

    assert len(taken.batch.events) == 1
    assert str(inbox.notes["signature"]).startswith("valid at 2024-03-05T12:00:00")
    assert inbox.notes["payload"] == BODY[:4096]


def without(headers: Headers) -> Headers:
    """Drop the signature, which is in the header of that name."""
    return [(name, value) for name, value in headers if "sig" not in name]


def truncated(headers: Headers) -> Headers:
    return [(name, value[:-4] if "sig" in name else value) for name, value in headers]


def twice(headers: Headers) -> Headers:
    return [*headers, *headers]


def garbled(headers: Headers) -> Headers:
    return [(name, "sha256=zz" if "sig" in name else value) for name, value in headers]


def empty(headers: Headers) -> Headers:
    return [(name, "" if "sig" in name else value) for name, value in headers]


def endless(headers: Headers) -> Headers:
    return [(name, value + "a" * 10_000 if "sig" in name else value) for name, value in headers]


@every_scheme
@pytest.mark.parametrize("spoil", [without, truncated, twice, garbled, empty, endless])
def test_a_wrong_signature_is_refused(
    inbox: MemoryInbox, tmp_path: Path, scheme: Scheme, spoil: Callable[[Headers], Headers]
) -> None:
    """Missing, truncated, repeated, malformed, empty or endless: one and the same answer, and a reason for our log."""
    error = refusal(build(inbox, tmp_path, scheme), signed(spoil(scheme.sign(SECRET, BODY, SECONDS))))

    assert error.message == "this hook does not know its caller"
    assert str(inbox.notes["signature"]).startswith("refused: hmac: ")
    assert "payload" not in inbox.notes


@every_scheme
def test_another_secret_is_refused(inbox: MemoryInbox, tmp_path: Path, scheme: Scheme) -> None:
    """A signature of somebody else does not match, and is answered as a missing one is."""
    error = refusal(build(inbox, tmp_path, scheme), signed(scheme.sign(OLD, BODY, SECONDS)))

    assert error.message == "this hook does not know its caller"
    assert inbox.notes["signature"] == "refused: hmac: the signature does not match"


@every_scheme
def test_a_body_changed_by_a_byte_is_refused(inbox: MemoryInbox, tmp_path: Path, scheme: Scheme) -> None:
    """The bytes as they came are what is signed: a space more, or the same JSON written anew, is another body."""
    source, headers = build(inbox, tmp_path, scheme), scheme.sign(SECRET, BODY, SECONDS)
    for body in (BODY + b" ", BODY.replace(b": ", b":"), BODY[:-2], BODY[:50] + b"X" + BODY[51:]):
        refusal(source, signed(headers, body))

    assert inbox.notes["signature"] == "refused: hmac: the signature does not match"


@every_scheme
def test_another_algorithm_is_refused(inbox: MemoryInbox, tmp_path: Path, scheme: Scheme) -> None:
    """A signature by another hash has another length, or matches nothing."""
    other = "sha256" if scheme.hmac.get("algorithm") == "sha512" else "sha512"

    refusal(build(inbox, tmp_path, scheme, algorithm=other), signed(scheme.sign(SECRET, BODY, SECONDS)))


@timed_schemes
@pytest.mark.parametrize("seconds", [-300, -10, 0, 10, 300])
def test_a_replay_within_the_tolerance_is_taken(
    inbox: MemoryInbox, tmp_path: Path, scheme: Scheme, seconds: int
) -> None:
    """Clocks differ, both ways; a repetition is the same event. The difference is noted."""
    request = signed(scheme.sign(SECRET, BODY, SECONDS + seconds))
    source = build(inbox, tmp_path, scheme)

    first, second = source.take(request).batch, source.take(request).batch

    assert [receipt.duplicate for receipt in [*inbox.emit(first), *inbox.emit(second)]] == [False, True]
    assert inbox.notes["skew"] == seconds


@timed_schemes
@pytest.mark.parametrize("seconds", [-301, 301, 900, -86_400])
def test_a_replay_outside_the_tolerance_is_refused(
    inbox: MemoryInbox, tmp_path: Path, scheme: Scheme, seconds: int
) -> None:
    """The doctor hears how far the clocks are apart; the caller hears what every other one does."""
    error = refusal(build(inbox, tmp_path, scheme), signed(scheme.sign(SECRET, BODY, SECONDS + seconds)))

    assert error.message == "this hook does not know its caller"
    assert f"timestamp outside tolerance (skew ≈ {seconds:+d} s)" in str(inbox.notes["signature"])
    assert inbox.notes["skew"] == seconds


@timed_schemes
def test_the_tolerance_can_be_set(inbox: MemoryInbox, tmp_path: Path, scheme: Scheme) -> None:
    """Ten seconds are ten seconds."""
    source = build(inbox, tmp_path, scheme, tolerance="10s")
    source.take(signed(scheme.sign(SECRET, BODY, SECONDS - 10)))

    refusal(source, signed(scheme.sign(SECRET, BODY, SECONDS - 11)))


@timed_schemes
def test_a_time_that_is_not_the_signed_one_is_refused(inbox: MemoryInbox, tmp_path: Path, scheme: Scheme) -> None:
    """An old request does not become young by another header; and who cannot sign does not move the noted clock."""
    old = scheme.sign(SECRET, BODY, SECONDS - 86_400)
    young = [(name, value.replace(str(SECONDS - 86_400), str(SECONDS))) for name, value in old]

    refusal(build(inbox, tmp_path, scheme), signed(young))

    assert "skew" not in inbox.notes


@timed_schemes
@pytest.mark.parametrize("written", ["", "soon", "-5", "1e9", "٣", "9" * 40])
def test_a_time_that_is_none_is_refused(inbox: MemoryInbox, tmp_path: Path, scheme: Scheme, written: str) -> None:
    """Seconds are digits."""
    headers = [(name, value.replace(str(SECONDS), written)) for name, value in scheme.sign(SECRET, BODY, SECONDS)]

    refusal(build(inbox, tmp_path, scheme), signed(headers))


def test_a_signature_without_its_prefix_is_refused(inbox: MemoryInbox, tmp_path: Path) -> None:
    """Grafana signs bare, GitHub does not: neither takes the other's form."""
    bare, prefixed = mac(SECRET, BODY).hex(), f"sha256={mac(SECRET, BODY).hex()}"

    refusal(build(inbox, tmp_path, SCHEMES["github"]), signed([("x-hub-signature-256", bare)]))
    refusal(build(inbox, tmp_path, SCHEMES["grafana"]), signed([("x-grafana-alerting-signature", prefixed)]))


def test_githubs_own_vector(inbox: MemoryInbox, tmp_path: Path) -> None:
    """The example of GitHub's documentation, "Validating webhook deliveries", is right."""
    body = b"Hello, World!"
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    source = build(inbox, tmp_path, SCHEMES["github"])

    taken = source.take(signed([("x-hub-signature-256", signature)], body))

    assert len(taken.batch.dead) == 1  # it is signed, and no JSON


def test_a_key_behind_whsec_is_base64(inbox: MemoryInbox, tmp_path: Path) -> None:
    """Standard Webhooks writes keys as whsec_ and base64; signatures of several keys may share the header."""
    (tmp_path / "secret").write_text(WHSEC)
    source = make_source(inbox, tmp_path, format="standard-webhooks", verify={"hmac": {"secret": "file:secret"}})
    body = payload("standard-webhooks/event")
    headers = dict(standard_headers(KEY, body))
    headers["webhook-signature"] = f"v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw== v1,AAAA {headers['webhook-signature']}"

    taken = source.take(signed(list(headers.items()), body))

    assert [event.source_id for event in taken.batch.events] == ["msg_1"]


def test_the_signed_id_cannot_be_exchanged(inbox: MemoryInbox, tmp_path: Path) -> None:
    """Another webhook-id would make an old request a new event."""
    (tmp_path / "secret").write_text(WHSEC)
    source = make_source(inbox, tmp_path, format="standard-webhooks", verify={"hmac": {"secret": "file:secret"}})
    body = payload("standard-webhooks/event")
    headers = {**dict(standard_headers(KEY, body)), "webhook-id": "msg_2"}

    refusal(source, signed(list(headers.items()), body))


# ------------------------------------------------------------------------------------------------ tokens, passwords


def basic(username: str, password: str) -> tuple[str, str]:
    return ("authorization", f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}")


@pytest.fixture
def door(inbox: MemoryInbox, tmp_path: Path) -> WebhookSource:
    """A hook with a token and, beside it, a user; both secrets have signs that are not ASCII."""
    (tmp_path / "token").write_text("tökèn-of-some-length\n")
    (tmp_path / "password").write_text("pässword: with a colon")
    verify = [{"bearer": "file:token"}, {"basic": {"username": "am", "password": "file:password"}}]
    return make_source(inbox, tmp_path, format="alertmanager", verify=verify)


ALERT = payload("alertmanager/firing")


def latin(text: str) -> str:
    """Return text as a server sees it whose clients write UTF-8 into headers."""
    return text.encode().decode("latin-1")


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", latin("Bearer tökèn-of-some-length")),
        ("authorization", latin("bearer tökèn-of-some-length")),
        basic("am", "pässword: with a colon"),
    ],
    ids=["token", "scheme in lower case", "password"],
)
def test_one_proof_of_several_is_enough(door: WebhookSource, header: tuple[str, str]) -> None:
    """A caller proves who it is by the token or by the password."""
    assert door.take(make_request(ALERT, header, token=None)).batch.events


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer tok")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", latin("Basic tökèn-of-some-length"))],
        [("authorization", latin("Bearer tökèn-of-some-length"))] * 2,
        [("x-authorization", latin("Bearer tökèn-of-some-length"))],
        [basic("am", "wrong")],
        [basic("AM", "pässword: with a colon")],
        [("authorization", "Basic !!!")],
        [("authorization", "Basic " + "a" * 9_000)],
    ],
)
def test_wrong_tokens_and_passwords_are_refused(
    inbox: MemoryInbox, door: WebhookSource, headers: list[tuple[str, str]]
) -> None:
    """The answer says which proofs are asked for, and nothing of what was wrong."""
    error = refusal(door, make_request(ALERT, *headers, token=None))

    assert error.message == "this hook does not know its caller"
    assert error.challenges == ('Bearer realm="retrain"', 'Basic realm="retrain", charset="UTF-8"')  # type: ignore[attr-defined]
    assert str(inbox.notes["signature"]).startswith("refused: bearer scheme: ")


def test_a_token_in_the_query_is_no_proof(door: WebhookSource) -> None:
    """Addresses end up in logs."""
    refusal(door, make_request(ALERT, query="token=t%C3%B6k%C3%A8n-of-some-length", token=None))


def test_an_insecure_hook_takes_anybody(inbox: MemoryInbox, tmp_path: Path) -> None:
    """And says so in the notes."""
    source = make_source(inbox, tmp_path, format="alertmanager", insecure=True)

    assert source.take(make_request(ALERT, token=None)).batch.events
    assert inbox.notes["signature"] == "not verified (insecure: true)"


# ------------------------------------------------------------------------------------------------ rotation


@every_scheme
def test_two_secrets_count_during_a_rotation(inbox: MemoryInbox, tmp_path: Path, scheme: Scheme) -> None:
    """The new one and the old one are both taken; a third is not."""
    (tmp_path / "old").write_text(OLD)
    source = build(inbox, tmp_path, scheme, secret=["file:secret", "file:old"])
    for secret in (SECRET, OLD):
        assert source.take(signed(scheme.sign(secret, BODY, SECONDS))).batch.events

    refusal(source, signed(scheme.sign("another", BODY, SECONDS)))


def test_a_rotated_file_counts_within_five_seconds(inbox: MemoryInbox, tmp_path: Path) -> None:
    """What stands in the file now is the secret; what stood there is worth nothing any more."""
    clock, scheme = inbox.clock, SCHEMES["github"]
    assert isinstance(clock, ManualClock)
    source = build(inbox, tmp_path, scheme)
    old, new = signed(github(SECRET, BODY, 0)), signed(github("the next secret", BODY, 0))
    source.take(old)
    (tmp_path / "secret").write_text("the next secret\n")

    clock.advance(timedelta(seconds=4.9))

    assert source.take(new).batch.events
    refusal(source, old)


def test_a_burst_of_requests_is_no_burst_of_reads(inbox: MemoryInbox, tmp_path: Path) -> None:
    """A secret that was read is trusted for a moment: without time passing, the file is not looked at again."""
    source = build(inbox, tmp_path, SCHEMES["github"])
    request = signed(github(SECRET, BODY, 0))
    source.take(request)
    (tmp_path / "secret").unlink()

    assert source.take(request).batch.events


def test_without_any_secret_callers_are_told_to_come_again(inbox: MemoryInbox, tmp_path: Path) -> None:
    """A lost secret is our fault: nobody is let in, nobody is turned away for good, and somebody is told."""
    clock = inbox.clock
    assert isinstance(clock, ManualClock)
    source = build(inbox, tmp_path, SCHEMES["github"])
    request = signed(github(SECRET, BODY, 0))
    source.take(request)
    (tmp_path / "secret").unlink()
    clock.advance(3)

    with pytest.raises(RetryLater) as caught:
        source.take(request)

    assert "secret" not in caught.value.message
    assert "cannot be read" in inbox.complaints["secret 1"]
    (tmp_path / "secret").write_text(SECRET)
    clock.advance(3)
    assert source.take(request).batch.events
    assert inbox.complaints == {}


def test_one_secret_of_two_is_enough(inbox: MemoryInbox, tmp_path: Path) -> None:
    """That the old one is gone is complained of, and keeps nobody out who has the new one."""
    source = build(inbox, tmp_path, SCHEMES["github"], secret=["file:secret", "file:gone"])

    assert source.take(signed(github(SECRET, BODY, 0))).batch.events
    assert "file:gone" in inbox.complaints["secret 1"]
    refusal(source, signed(github(OLD, BODY, 0)))


@pytest.mark.parametrize("written", ["whsec_", "whsec_!!!"])
def test_a_malformed_key_is_complained_of(inbox: MemoryInbox, tmp_path: Path, written: str) -> None:
    """An empty key would let anybody sign."""
    (tmp_path / "secret").write_text(written)
    source = make_source(inbox, tmp_path, format="standard-webhooks", verify={"hmac": {"secret": "file:secret"}})
    body = payload("standard-webhooks/event")

    with pytest.raises(RetryLater):
        source.take(signed(standard_headers(b"", body), body))

    assert "not base64" in inbox.complaints["secret 1"]


def test_what_is_kept_has_no_proof_in_it(inbox: MemoryInbox, tmp_path: Path) -> None:
    """A dead letter, which people read, has neither the token nor a cookie."""
    source = make_source(inbox, tmp_path, format="alertmanager")
    request = make_request(b"{", ("cookie", "session=1"), ("x-trace", "7"))

    letter = source.take(request).batch.dead[0]

    assert [name for name, _ in letter.meta["headers"]] == ["content-type", "x-trace"]


def test_the_path_below_a_hook_is_nobodys(inbox: MemoryInbox, tmp_path: Path) -> None:
    """Who proved nothing is refused there too; who did learns that there is nothing."""
    from controller.errors import NotFound

    source = make_source(inbox, tmp_path, format="alertmanager")
    request = make_request(ALERT, path="/below")

    refusal(source, replace(request, headers=[JSON]))
    with pytest.raises(NotFound):
        source.take(request)
    assert source.take(replace(request, path="/")).batch.events


def test_times_are_judged_by_when_the_request_came(inbox: MemoryInbox, tmp_path: Path) -> None:
    """Not by when it is read: a request that waited is not older for it."""
    source = build(inbox, tmp_path, SCHEMES["slack"])
    headers = slack(SECRET, BODY, SECONDS)

    assert source.take(replace(signed(headers), received_at=at(minutes=5))).batch.events
    refusal(source, replace(signed(headers), received_at=at(minutes=5, seconds=1)))
