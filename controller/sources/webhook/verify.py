"""Whether a caller is who it should be: bearer token, basic authentication, or a signature over the raw bytes.

Of several verifiers one proof is enough. Every verifier and every secret is tried each time, a missing proof costs the same work as a wrong
one, and digests are compared in constant time; whoever is refused learns nothing else. The reason is for our own log and notes.
Secrets are read anew every two seconds at most, so that a rotated file counts soon and a burst of requests is no burst of reads.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from controller.errors import RetryLater, Unauthorized
from controller.ports import Request, SourceContext
from controller.secret import Secret
from controller.sources.webhook.dialects import Dialect
from controller.sources.webhook.formats import FORMATS
from controller.sources.webhook.options import BasicOptions, HmacOptions, VerifierOptions, WebhookOptions

#: A secret that was read is trusted for so long.
TRUST_SECONDS = 2.0
#: More signatures in one header than this are not looked at.
_MAX_SIGNATURES = 8
_MAX_HEADER = 4096
_TIMESTAMP = re.compile(r"[0-9]{1,12}")

_T = TypeVar("_T")


class Unverified(Unauthorized):
    """The caller did not prove who it is. `reason` is for us; `challenges` become WWW-Authenticate."""

    def __init__(self, reason: str, challenges: Sequence[str]) -> None:
        super().__init__("this hook does not know its caller")
        self.reason = reason
        self.challenges = tuple(challenges)


@dataclass(frozen=True, slots=True)
class Proof:
    """What one verifier says of a request."""

    #: Empty when the caller proved who it is, else why not.
    reason: str
    #: Seconds by which the caller's clock is ahead of ours, by a signature that is right.
    skew_seconds: float | None = None


class _Check(Protocol):
    """One verifier."""

    #: What it is, in a word.
    name: str
    #: What it is called in a note, which people are shown with what looks secret masked.
    noted_as: str
    #: What WWW-Authenticate says; empty for a proof that HTTP has no word for.
    challenge: str

    def check(self, request: Request) -> Proof: ...


class _Keys(Generic[_T]):
    """The secrets of one verifier, each made ready by `prepare`, read again when they were not read for a while."""

    def __init__(
        self, secrets: Sequence[Secret], prepare: Callable[[str], _T], *, name: str, context: SourceContext
    ) -> None:
        self._secrets = secrets
        self._prepare = prepare
        self._complaint = f"secret {name}"
        self._context = context
        self._ready: tuple[_T, ...] = ()
        self._read_at: float | None = None

    def get(self) -> tuple[_T, ...]:
        """Return what can be read now; raises `RetryLater` when that is nothing, so that nobody is turned away for our own fault."""
        now = self._context.clock.monotonic()
        if self._read_at is None or now - self._read_at >= TRUST_SECONDS:
            self._ready = self._read()
            self._read_at = now
        if not self._ready:
            raise RetryLater("this hook cannot verify its callers now")
        return self._ready

    def _read(self) -> tuple[_T, ...]:
        ready: list[_T] = []
        problems: list[str] = []
        for secret in self._secrets:
            try:
                ready.append(self._prepare(secret.reveal()))
            except RetryLater as error:
                problems.append(error.message)
            except ValueError as error:  # without the value: it is the secret
                problems.append(f"secret {secret.reference} is malformed: {error}")
        self._context.complain(self._complaint, "; ".join(problems) or None)
        return tuple(ready)


class _Bearer:
    name = "bearer"
    noted_as = "bearer scheme"  # `bearer: …` would be taken for a secret, and masked
    challenge = 'Bearer realm="retrain"'

    def __init__(self, secrets: Sequence[Secret], *, name: str, context: SourceContext) -> None:
        self._keys = _Keys(secrets, _of_secret, name=name, context=context)

    def check(self, request: Request) -> Proof:
        given = _credentials(request, "bearer")
        return _compare(self._keys.get(), _of_header(given or ""), "token", given is None)


class _Basic:
    name = noted_as = "basic"
    challenge = 'Basic realm="retrain", charset="UTF-8"'

    def __init__(self, options: BasicOptions, *, name: str, context: SourceContext) -> None:
        username = options.username
        self._keys = _Keys(
            options.password, lambda password: _of_secret(f"{username}:{password}"), name=name, context=context
        )

    def check(self, request: Request) -> Proof:
        given = _credentials(request, "basic")
        try:
            pair = base64.b64decode(given or "", validate=True)
        except (binascii.Error, ValueError):
            pair = b""
        return _compare(self._keys.get(), hashlib.sha256(pair).digest(), "password", given is None)


class _Hmac:
    name = noted_as = "hmac"
    challenge = ""

    def __init__(self, options: HmacOptions, dialect: Dialect, *, name: str, context: SourceContext) -> None:
        self._dialect = dialect
        self._tolerance = options.tolerance.total_seconds()
        self._size = hashlib.new(dialect.algorithm).digest_size
        self._nothing = bytes(self._size)
        self._keys = _Keys(options.secret, self._prepare, name=name, context=context)

    def _prepare(self, secret: str) -> Any:
        return hmac.new(self._dialect.key(secret), digestmod=self._dialect.algorithm)

    def check(self, request: Request) -> Proof:
        dialect = self._dialect
        header = _single(request, dialect.header)
        written = (header or "").split(dialect.between) if dialect.between else [header or ""]
        signatures = [
            found
            for text in written[:_MAX_SIGNATURES]
            if (found := dialect.decoded(text.strip(), size=self._size)) is not None
        ]
        timestamp = self._timestamp(request, written)
        identity = _single(request, dialect.id_header) if dialect.id_header is not None else ""
        before = dialect.before(timestamp=_raw(timestamp or ""), identity=_raw(identity or ""))
        right = self._matches(before, request.body, signatures)
        if header is None:
            return Proof(f"the header {dialect.header} is missing or there twice")
        if not signatures:
            return Proof(f"the header {dialect.header} has no well-formed signature")
        if timestamp is None or identity is None:
            return Proof("the timestamp or the id that is signed is missing or malformed")
        if not right:
            return Proof("the signature does not match")
        return self._judge_time(request, timestamp)

    def _matches(self, before: bytes, body: bytes, signatures: Sequence[bytes]) -> bool:
        right = False
        for key in self._keys.get():
            made = key.copy()
            if before:
                made.update(before)
            made.update(body)
            digest = made.digest()
            for signature in signatures or (self._nothing,):
                right |= hmac.compare_digest(digest, signature)
        return right

    def _timestamp(self, request: Request, written: Sequence[str]) -> str | None:
        """Return the signed seconds as they are written; empty when none are signed, None when they are missing or malformed."""
        dialect = self._dialect
        if not dialect.has_timestamp:
            return ""
        if dialect.timestamp_header is not None:
            text = _single(request, dialect.timestamp_header)
        else:
            mark = dialect.timestamp_prefix
            found = [each.strip()[len(mark) :] for each in written if each.strip().startswith(mark)]
            text = found[0] if len(found) == 1 else None
        return text if text is not None and _TIMESTAMP.fullmatch(text) else None

    def _judge_time(self, request: Request, timestamp: str) -> Proof:
        if not timestamp:
            return Proof("")
        skew = int(timestamp) - request.received_at.timestamp()
        if abs(skew) > self._tolerance:
            return Proof(f"timestamp outside tolerance (skew ≈ {skew:+.0f} s)", skew)
        return Proof("", skew)


class Verifier:
    """All verifiers of a webhook."""

    def __init__(self, options: WebhookOptions, context: SourceContext) -> None:
        self._context = context
        self._checks = [
            _build(each, options, name=str(number), context=context)
            for number, each in enumerate(options.verify or (), 1)
        ]
        self._challenges = tuple(dict.fromkeys(check.challenge for check in self._checks if check.challenge))

    def verify(self, request: Request) -> None:
        """Return for a caller that proved who it is, or where nobody has to; raises `Unverified`.

        Raises `RetryLater` when a verifier can read none of its secrets and no other one is satisfied.
        """
        note = self._context.note
        if not self._checks:
            note("signature", "not verified (insecure: true)")
            return
        proofs: list[tuple[_Check, Proof]] = []
        unable: RetryLater | None = None
        for check in self._checks:
            try:
                proofs.append((check, check.check(request)))
            except RetryLater as error:
                unable = error
        good = next((check for check, proof in proofs if not proof.reason), None)
        for _, proof in proofs:
            if proof.skew_seconds is not None:
                note("skew", round(proof.skew_seconds, 1))
        if good is not None:
            note("signature", f"valid at {request.received_at.isoformat()} ({good.noted_as})")
            return
        nothing = "no secret can be read"
        noted = "; ".join(f"{check.noted_as}: {proof.reason}" for check, proof in proofs)
        note("signature", f"refused: {noted or nothing}")
        if unable is not None:
            raise unable
        reason = "; ".join(f"{check.name}: {proof.reason}" for check, proof in proofs)
        raise Unverified(reason or nothing, self._challenges)


def _build(each: VerifierOptions, options: WebhookOptions, *, name: str, context: SourceContext) -> _Check:
    if each.bearer is not None:
        return _Bearer(each.bearer, name=name, context=context)
    if each.basic is not None:
        return _Basic(each.basic, name=name, context=context)
    if each.hmac is None:  # the options see to it
        raise ValueError("a verifier without a kind")
    return _Hmac(each.hmac, each.hmac.resolved(FORMATS[options.format].dialect), name=name, context=context)


def _single(request: Request, name: str | None) -> str | None:
    """Return the one header of this name; None when it is missing, there twice, or longer than any signature."""
    found = [value for key, value in request.headers if key == name]
    return found[0] if len(found) == 1 and len(found[0]) <= _MAX_HEADER else None


def _credentials(request: Request, scheme: str) -> str | None:
    header = _single(request, "authorization")
    if header is None:
        return None
    said, _, credentials = header.partition(" ")
    return credentials.strip() if said.lower() == scheme and credentials.strip() else None


def _of_secret(text: str) -> bytes:
    """Return a secret's digest, so that what is compared has one length."""
    return hashlib.sha256(text.encode()).digest()


def _of_header(text: str) -> bytes:
    """Return the digest of what a header says: its bytes, whatever they mean."""
    return hashlib.sha256(_raw(text)).digest()


def _raw(text: str) -> bytes:
    """Return the bytes of a header, which come to us as Latin-1."""
    return text.encode("latin-1", "replace")


def _compare(known: Sequence[bytes], given: bytes, what: str, missing: bool) -> Proof:
    right = False
    for each in known:
        right |= hmac.compare_digest(each, given)
    if missing:
        return Proof(f"there is no {what}")
    return Proof("" if right else f"the {what} is wrong")
