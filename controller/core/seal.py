"""The chain over history: what is hashed, how a link follows the one before it, and what a broken one says.

Problem: whoever may write to the database may also change what it says happened.
Idea: the leader lays links over the rows of `history`, in their order. A link is a SHA-256 over the link before it and over each row, so
that no row can be changed, taken away, put in or moved without every later link showing it. Beside its digest a link keeps 16 bytes for
each row (its number and the beginning of its digest), so that a broken link names the row, not only the thousand among which it is.

What it does not do: it hinders nobody. Whoever can write to the database can lay the whole chain anew, or cut off its end; that shows only
against a head (`NUMBER:DIGEST`) that was noted elsewhere. `docs/audit.md` describes every byte, so that a stranger can check the chain
without this program. Values are taken as the database holds them: instants as microseconds since 1970, JSON as text.

`engine/sealer.py` lays the links, `store/seals.py` reads them, `retrainctl audit verify` examines them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

#: As the database holds it. Bytes and floats are never written by us; who put them there is told of a row that was changed.
Raw = str | int | float | bytes | None
#: The columns of a history row, in the order in which they are hashed; the first is its number.
ROW = ("seq", "machine", "entity", "origin", "target", "cause", "reason", "actor", "term", "at", "after_seq", "digest")
#: The columns of an act, in the order in which they are hashed.
ACT = (
    "id", "at", "actor", "verb", "target", "reason", "details", "idempotency_key", "request_digest", "response", "after_seq",
)  # fmt: skip
#: Every act leaves a row in history under this name, with the digest of the act.
ACT_MACHINE = "act"
#: Under this name history says what there was before the first link: how many acts, and the digest over them.
CHAIN_MACHINE = "chain"
#: The digest that the first link follows.
NOTHING = ""
#: Bytes that a link keeps for each row: 8 of its number, 8 of its digest.
MARK = 16
_TAG = 8

Kind = Literal["changed", "missing", "added", "moved", "act", "link"]


def canonical(values: Iterable[Raw]) -> bytes:
    """Return values as bytes that no other values have: each with its kind, text with its length before it."""
    return b"".join([_canonical(value) for value in values])


def _canonical(value: Raw) -> bytes:
    match value:
        case str():
            text = value.encode("utf-8", "surrogatepass")
            return b"t%d:%b;" % (len(text), text)
        case None:
            return b"n;"
        case int():
            return b"i%d;" % value
        case bytes():
            return b"b%d:%b;" % (len(value), value)
        case float():
            return b"f%b;" % repr(value).encode()


def row_digest(row: Sequence[Raw]) -> bytes:
    """Return the digest of a history row, given as `ROW`, without its number: a row that was moved is known again."""
    return hashlib.sha256(b"retrain-row-1;" + canonical(row[1:])).digest()


def act_digest(act: Sequence[Raw]) -> str:
    """Return the digest of an act, given as `ACT`, as its row in history keeps it."""
    return hashlib.sha256(b"retrain-act-1;" + canonical(act)).hexdigest()


class ActsBefore:
    """The acts from before the chain began, which have no row in history: how many, and one digest over them."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = hashlib.sha256(b"retrain-acts-1;")

    def add(self, act: Sequence[Raw]) -> None:
        """Take the next one, in the order of their ids."""
        self.count += 1
        self._hash.update(bytes.fromhex(act_digest(act)))

    @property
    def digest(self) -> str:
        """The digest over all of them."""
        return self._hash.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A link of the chain; its values too are as the database holds them."""

    #: From 1, without gaps.
    number: int
    #: The number of the last row under it. It covers the rows up to there that no link before it covers.
    last_seq: int
    #: How many rows those are.
    count: int
    #: The term of the leader that laid it.
    term: int
    #: When it was laid, in microseconds since 1970.
    at: int
    #: SHA-256 over the digest before it, the fields above and the rows, in hexadecimal.
    digest: str
    #: For each row 8 bytes of its number and the first 8 of its digest; from this a broken link says which row broke it.
    marks: bytes = field(repr=False)

    @property
    def head(self) -> str:
        """What is noted elsewhere, so that a chain that was cut off or laid anew shows."""
        return f"{self.number}:{self.digest}"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A row and its digest, ready to be put under a link."""

    seq: int
    digest: bytes

    @property
    def mark(self) -> bytes:
        """Return what a link keeps of it."""
        return self.seq.to_bytes(8, "big", signed=True) + self.digest[:_TAG]


def sealed(rows: Iterable[Sequence[Raw]]) -> list[Sealed]:
    """Return rows as they go under a link; the slow part of laying one."""
    return [Sealed(_whole(row[0]), row_digest(row)) for row in rows]


def lay(previous: Link | None, rows: Sequence[Sealed], *, term: int, at: int) -> Link:
    """Return the link over these rows (at least one, in their order) that follows `previous`."""
    number = 1 if previous is None else previous.number + 1
    digest = _LinkHash(
        NOTHING if previous is None else previous.digest,
        number=number,
        last_seq=rows[-1].seq,
        count=len(rows),
        term=term,
        at=at,
    )
    for row in rows:
        digest.add(row.seq, row.digest)
    return Link(
        number=number,
        last_seq=rows[-1].seq,
        count=len(rows),
        term=term,
        at=at,
        digest=digest.hexdigest(),
        marks=b"".join(row.mark for row in rows),
    )


class _LinkHash:
    """The digest of a link, row by row."""

    def __init__(self, previous: str, *, number: int, last_seq: int, count: int, term: int, at: int) -> None:
        head = canonical((previous, number, last_seq, count, term, at))
        self._hash = hashlib.sha256(b"retrain-link-1;" + head)

    def add(self, seq: int, digest: bytes) -> None:
        self._hash.update(b"i%d;%b" % (seq, digest))

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _whole(value: Raw) -> int:
    if not isinstance(value, int):
        raise TypeError(f"a row's number is {value!r}, not a whole number")
    return value


# ------------------------------------------------------------------------------------------------------- examining


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of history, and the act that it stands for, if it does and the act is there."""

    row: Sequence[Raw]
    act: Sequence[Raw] | None = None


@dataclass(frozen=True, slots=True)
class Before:
    """An act without a row in history."""

    act: Sequence[Raw]


@dataclass(frozen=True, slots=True)
class Tail:
    """From here on rows are not sealed."""


#: A chain as it is read, from the database or from a file: first the acts without a row, then each link before its rows, then the rest.
Item = Before | Link | Entry | Tail


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that is not as it was sealed."""

    kind: Kind
    #: The link that says so; None for what no link covers.
    link: int | None
    #: The row; None when no single one can be named.
    seq: int | None
    #: What is wrong, for people.
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What examining a chain came to."""

    links: int
    rows: int
    acts: int
    #: Rows that no link covers yet.
    unsealed: int
    #: Acts from before the chain began.
    before: int
    #: The last link, `NUMBER:DIGEST`; empty without one.
    head: str
    #: The first things that are wrong, in order.
    findings: tuple[Finding, ...]
    #: How many there are in all.
    wrong: int

    @property
    def is_whole(self) -> bool:
        """Whether everything is as it was sealed."""
        return self.wrong == 0


class Examiner:
    """Examines a chain item by item, in memory that does not grow with it."""

    def __init__(self, *, expect: tuple[int, str] | None = None, most: int = 100) -> None:
        """`expect` is a head that was noted elsewhere, as (number, digest); of what is wrong the first `most` are told."""
        self._expect = expect
        self._most = most
        self._findings: list[Finding] = []
        self._wrong = 0
        self._links = self._rows = self._acts = self._unsealed = 0
        self._before = ActsBefore()
        self._last_before = ""
        #: What history said of the acts before the chain, (link, row); the first to say so counts.
        self._begun: tuple[int | None, Sequence[Raw]] | None = None
        self._previous: Link | None = None
        self._open: _OpenLink | None = None
        self._is_expected_seen = False

    def take(self, item: Item) -> None:
        """Examine the next item."""
        match item:
            case Before():
                self._before.add(item.act)
                self._last_before = str(item.act[0])
            case Link():
                self._close()
                self._begin(item)
            case Entry():
                self._take(item)
            case Tail():
                self._close()

    def verdict(self) -> Verdict:
        """Return what it came to, after the last item."""
        self._close()
        self._examine_acts_before()
        self._examine_expected()
        return Verdict(
            links=self._links,
            rows=self._rows,
            acts=self._acts,
            unsealed=self._unsealed,
            before=self._before.count,
            head="" if self._previous is None else self._previous.head,
            findings=tuple(self._findings),
            wrong=self._wrong,
        )

    def _begin(self, link: Link) -> None:
        before, expected = self._previous, 1 if self._previous is None else self._previous.number + 1
        if link.number != expected:
            self._say("link", expected, None, _gap(expected, link.number))
        self._links += 1
        if self._expect is not None and link.number == self._expect[0]:
            self._is_expected_seen = True
            if link.digest != self._expect[1]:
                self._say("link", link.number, None, f"link {link.number} is not the one that was noted: {link.digest}")
        is_next = link.number == expected
        previous = (NOTHING if before is None else before.digest) if is_next else None
        self._open = _OpenLink(link, previous, follows_on=is_next and (before is None or _agrees(before)))
        self._previous = link

    def _take(self, entry: Entry) -> None:
        link = self._open
        if link is None:
            self._unsealed += 1
        else:
            self._rows += 1
            link.take(entry.row)
        number = None if link is None else link.link.number
        if entry.row[1] == ACT_MACHINE:
            self._acts += 1
            self._examine_act(number, entry)
        elif entry.row[1] == CHAIN_MACHINE:
            self._examine_beginning(number, entry.row)

    def _close(self) -> None:
        if self._open is not None:
            for finding in self._open.close():
                self._tell(finding)
            self._open = None

    def _examine_act(self, link: int | None, entry: Entry) -> None:
        seq, act_id = _seq(entry.row), entry.row[2]
        place = f"row {seq}" if link is None else f"link {link}: row {seq}"
        if entry.act is None:
            self._say("act", link, seq, f"{place}: the act {act_id!r} is missing")
        elif act_digest(entry.act) != entry.row[11]:
            self._say("act", link, seq, f"{place}: the act {act_id!r} was changed")

    def _examine_beginning(self, link: int | None, row: Sequence[Raw]) -> None:
        if self._begun is None:
            self._begun = (link, row)
        else:
            said = f"row {_seq(row)}: the chain was begun anew, so links from before were taken away"
            self._say("link", link, _seq(row), said)

    def _examine_acts_before(self) -> None:
        if self._begun is None:
            return
        link, row = self._begun
        if self._links == 0:
            self._say("link", 1, None, f"row {_seq(row)} says that the chain was begun, and there is no link")
        if row[11] == self._before.digest:
            return
        said = f"row {_seq(row)}: of the acts without a row in history, "
        said += f"{row[6]!r} when the chain began and {self._before.count} now, one was changed, taken away or put in"
        self._say("act", link, _seq(row), said + (f" (the newest is {self._last_before})" if self._last_before else ""))

    def _examine_expected(self) -> None:
        if self._expect is not None and not self._is_expected_seen:
            last = 0 if self._previous is None else self._previous.number
            said = f"link {self._expect[0]}, which was noted, is not there; the last one is {last}"
            self._say("link", self._expect[0], None, said)

    def _say(self, kind: Kind, link: int | None, seq: int | None, text: str) -> None:
        self._tell(Finding(kind=kind, link=link, seq=seq, text=text))

    def _tell(self, finding: Finding) -> None:
        self._wrong += 1
        if len(self._findings) < self._most:
            self._findings.append(finding)


class _OpenLink:
    """A link whose rows are coming; both they and its marks are in the order of their numbers."""

    #: Of one link no more is told.
    MOST = 20

    def __init__(self, link: Link, previous: str | None, *, follows_on: bool) -> None:
        """`previous` is the digest of the link before; None when that one is missing.

        Unless it `follows_on`, rows before its own may be those of a link that is missing or was changed, and are passed over.
        """
        self.link = link
        self._previous = previous
        self._passes_over = not follows_on
        self._hash = _LinkHash(
            previous or NOTHING,
            number=link.number,
            last_seq=link.last_seq,
            count=link.count,
            term=link.term,
            at=link.at,
        )
        self._marks = _marks(link.marks)
        self._next = next(self._marks, None)
        self._places: Mapping[bytes, int] | None = None
        self._findings: list[Finding] = []

    def take(self, row: Sequence[Raw]) -> None:
        seq, digest = _seq(row), row_digest(row)
        if self._passes_over and self._next is not None and seq < self._next[0]:
            return
        self._passes_over = False
        self._hash.add(seq, digest)
        while self._next is not None and self._next[0] < seq:
            self._missing(self._next[0])
            self._next = next(self._marks, None)
        if self._next is None or self._next[0] != seq:
            self._strange(seq, digest, "added", "was put in")
            return
        if self._next[1] != digest[:_TAG]:
            self._strange(seq, digest, "changed", "was changed")
        self._next = next(self._marks, None)

    def close(self) -> Sequence[Finding]:
        """Return what is wrong, after the last row."""
        while self._next is not None:
            self._missing(self._next[0])
            self._next = next(self._marks, None)
        number = self.link.number
        if not _agrees(self.link):
            return [_about_link(number, f"link {number} was changed: it does not agree with its own list of rows")]
        if self._previous is None:
            return self._findings  # its digest hangs on a link that is gone; its rows are as its marks say, or not
        if self._hash.hexdigest() == self.link.digest:
            if not self._findings:
                return ()
            return [
                _about_link(number, f"link {number}: its list of rows was changed; the rows are as they were sealed")
            ]
        if self._findings:
            return self._findings
        said = "it, or the one before it, was changed; the rows are as it lists them"
        return [_about_link(number, f"link {number} does not fit the link before it and its rows: {said}")]

    def _strange(self, seq: int, digest: bytes, kind: Kind, what: str) -> None:
        if self._places is None:
            self._places = {tag: place for place, tag in _marks(self.link.marks)}
        place = self._places.get(digest[:_TAG])
        if place is not None and place != seq:
            self._say("moved", seq, f"row {seq} holds what was sealed as row {place}")
        else:
            self._say(kind, seq, f"row {seq} {what} after it was sealed" if kind == "changed" else f"row {seq} {what}")

    def _missing(self, seq: int) -> None:
        self._say("missing", seq, f"row {seq} is missing")

    def _say(self, kind: Kind, seq: int, text: str) -> None:
        if len(self._findings) < self.MOST:
            said = f"link {self.link.number}: {text}"
            self._findings.append(Finding(kind=kind, link=self.link.number, seq=seq, text=said))


def _agrees(link: Link) -> bool:
    """Say whether a link agrees with its own list of rows."""
    last = int.from_bytes(link.marks[-MARK : -MARK + 8], "big", signed=True)
    return len(link.marks) == MARK * link.count and last == link.last_seq


def _gap(expected: int, found: int) -> str:
    if found == expected + 1:
        return f"link {expected} is missing"
    if found > expected:
        return f"links {expected} to {found - 1} are missing"
    return f"link {found} stands where link {expected} belongs"


def _about_link(number: int, text: str) -> Finding:
    return Finding(kind="link", link=number, seq=None, text=text)


def _marks(marks: bytes) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(marks) - MARK + 1, MARK):
        yield int.from_bytes(marks[start : start + 8], "big", signed=True), marks[start + 8 : start + MARK]


def _seq(row: Sequence[Raw]) -> int:
    return row[0] if isinstance(row[0], int) else -1


def examine(items: Iterable[Item], *, expect: tuple[int, str] | None = None) -> Verdict:
    """Examine a whole chain; see `Examiner`."""
    examiner = Examiner(expect=expect)
    for item in items:
        examiner.take(item)
    return examiner.verdict()


def parse_head(text: str) -> tuple[int, str]:
    """Return a noted head, `NUMBER:DIGEST`; raises `ValueError`."""
    number, _, digest = text.strip().partition(":")
    if not number.isdecimal() or len(digest) != 64 or not all(letter in "0123456789abcdef" for letter in digest):
        raise ValueError(f"{text!r} is no head of a chain")
    return int(number), digest
