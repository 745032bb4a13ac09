"""The chain over history, as pure functions: whatever is done to rows or links shows, and at the row it was done to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core import sealfile
from controller.core.seal import (
    ACT,
    ACT_MACHINE,
    CHAIN_MACHINE,
    MARK,
    ROW,
    ActsBefore,
    Before,
    Entry,
    Item,
    Link,
    Raw,
    Tail,
    Verdict,
    act_digest,
    canonical,
    examine,
    lay,
    parse_head,
    sealed,
)
from controller.errors import InvalidInput

Row = tuple[Raw, ...]
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
VALUE = st.one_of(TEXT, st.integers(), st.none(), st.binary(max_size=8), st.floats(allow_nan=False))


def row(seq: int, entity: str = "run-1", **fields: Raw) -> Row:
    values = {"seq": seq, "machine": "run", "entity": entity, "origin": "", "target": "QUEUED", "cause": "decided"}
    values |= {"reason": "", "actor": "controller", "term": 1, "at": 1_700_000_000_000_000 + seq, "after_seq": seq}
    return tuple((values | {"digest": None} | fields)[name] for name in ROW)


def act(number: int, **fields: Raw) -> Row:
    values: dict[str, Raw] = {"id": f"act-{number:04d}", "at": 5, "actor": "ann", "verb": "cancel", "target": "run-1"}
    values |= {"reason": "noise", "details": "{}", "idempotency_key": None, "request_digest": "", "response": "{}"}
    return tuple((values | {"after_seq": 1} | fields)[name] for name in ACT)


def row_of(seq: int, done: Row) -> Row:
    return row(seq, str(done[0]), machine=ACT_MACHINE, digest=act_digest(done))


@dataclass
class History:
    """A history with its chain, to be tampered with."""

    rows: list[Row]
    links: list[Link]
    acts: dict[Raw, Row]
    before: list[Row]

    def items(self) -> Iterator[Item]:
        """The chain as the store gives it."""
        yield from map(Before, self.before)
        last = -1
        for link in self.links:
            yield link
            yield from self._entries(last, link.last_seq)
            last = max(last, link.last_seq)
        yield Tail()
        yield from self._entries(last, 1 << 62)

    def _entries(self, after: int, upto: int) -> Iterator[Entry]:
        for each in sorted(self.rows, key=lambda row: row[0]):
            if after < each[0] <= upto:
                yield Entry(each, self.acts.get(each[2]) if each[1] == ACT_MACHINE else None)

    def examine(self, **options: Any) -> Verdict:
        """What an auditor is told."""
        return examine(self.items(), **options)

    def first(self, **options: Any) -> tuple[str, int | None, int | None]:
        """The first thing that is wrong: its kind, link and row."""
        finding = self.examine(**options).findings[0]
        return finding.kind, finding.link, finding.seq


def sealed_history(rows: Sequence[Row], sizes: Sequence[int], acts: Sequence[Row] = ()) -> History:
    links: list[Link] = []
    start = 0
    for number, size in enumerate(sizes):
        batch = rows[start : start + size]
        links.append(lay(links[-1] if links else None, sealed(batch), term=1 + number // 3, at=1000 + number))
        start += size
    return History(list(rows), links, {each[0]: each for each in acts}, [])


def plain(*sizes: int, tail: int = 0) -> History:
    return sealed_history([row(10 + 2 * n, f"run-{n}") for n in range(sum(sizes) + tail)], sizes)


@st.composite
def histories(draw: st.DrawFn) -> History:
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    tail = draw(st.integers(0, 3))
    seq = 0
    rows: list[Row] = []
    for _ in range(sum(sizes) + tail):
        seq += draw(st.integers(2, 4))
        fields = {name: draw(TEXT) for name in ("machine", "entity", "reason", "actor") if draw(st.booleans())}
        # These two machines stand for something else, which has tests of its own.
        fields = {name: value for name, value in fields.items() if value not in (ACT_MACHINE, CHAIN_MACHINE)}
        rows.append(row(seq, **fields) if "entity" not in fields else row(seq, **{"machine": "run"} | fields))
    return sealed_history(rows, sizes)


# ----------------------------------------------------------------------------------------------------- the digests


@given(st.lists(VALUE, max_size=4), st.lists(VALUE, max_size=4))
def test_G13_other_values_are_other_bytes(one: list[Raw], other: list[Raw]) -> None:
    """No two lists of values are hashed as the same bytes: neither by joining nor by kind."""
    same = [(type(value), repr(value)) for value in one] == [(type(value), repr(value)) for value in other]

    assert (canonical(one) == canonical(other)) == same


def test_G13_a_stranger_computes_the_same_digest_from_the_documentation() -> None:
    """The digests can be made by the recipe of docs/audit.md, without this program."""

    def text(value: str) -> bytes:
        return b"t%d:%s;" % (len(value.encode()), value.encode())

    content = b"".join([text("run"), text("run-ü"), text(""), text("QUEUED"), text("decided"), text(""), text("ann")])
    content += b"i1;i1700000000000007;n;n;"
    row_digest = hashlib.sha256(b"retrain-row-1;" + content).digest()
    header = text("") + b"i1;i7;i1;i3;i42;"
    expected = hashlib.sha256(b"retrain-link-1;" + header + b"i7;" + row_digest).hexdigest()

    link = lay(None, sealed([row(7, "run-ü", actor="ann", after_seq=None)]), term=3, at=42)

    assert link.digest == expected
    assert link.marks == (7).to_bytes(8, "big") + row_digest[:8]
    assert link.head == f"1:{expected}"


def test_a_link_follows_the_one_before_it() -> None:
    """The same rows under another link before them make another digest."""
    rows = sealed([row(1)])
    first = lay(None, rows, term=1, at=1)

    assert lay(first, rows, term=1, at=1).number == 2
    assert lay(first, rows, term=1, at=1).digest != lay(replace(first, digest="0" * 64), rows, term=1, at=1).digest


@pytest.mark.parametrize("text", ["", "7", "7:abc", "x:" + "0" * 64, "7:" + "G" * 64, "-1:" + "0" * 64])
def test_a_head_that_is_none_is_refused(text: str) -> None:
    """What is noted elsewhere is a number and a whole digest."""
    with pytest.raises(ValueError, match="no head"):
        parse_head(text)


# ----------------------------------------------------------------------------------------------- whatever is done


@given(histories())
def test_G13_an_untouched_history_is_whole(history: History) -> None:
    """Whatever it holds; and it is counted."""
    verdict = history.examine(expect=parse_head(history.links[0].head))

    assert verdict.findings == ()
    assert (verdict.links, verdict.rows + verdict.unsealed) == (len(history.links), len(history.rows))
    assert verdict.head == history.links[-1].head


@given(histories(), st.data())
def test_G13_a_changed_row_is_named(history: History, data: st.DataObject) -> None:
    """Whichever column of whichever sealed row takes whatever other value."""
    place = data.draw(st.integers(0, sum(link.count for link in history.links) - 1))
    column = data.draw(st.integers(1, len(ROW) - 1))
    old = history.rows[place]
    value = data.draw(VALUE.filter(lambda value: canonical([value]) != canonical([old[column]])))
    history.rows[place] = (*old[:column], value, *old[column + 1 :])

    kind, _, seq = history.first()
    assert (kind in ("changed", "moved"), seq) == (True, old[0])


@given(histories(), st.data())
def test_G13_a_missing_row_is_named(history: History, data: st.DataObject) -> None:
    """Whichever sealed row is taken away."""
    place = data.draw(st.integers(0, sum(link.count for link in history.links) - 1))
    gone = history.rows.pop(place)

    kind, _, seq = history.first()
    assert (kind, seq) == ("missing", gone[0])


@given(histories(), st.data())
def test_G13_an_added_row_is_named(history: History, data: st.DataObject) -> None:
    """Whichever free number before the end of the chain it takes, and whatever it holds."""
    last = history.links[-1].last_seq
    taken = {each[0] for each in history.rows}
    seq = data.draw(st.sampled_from([number for number in range(last) if number not in taken]))
    history.rows.append(row(seq, "nobody-was-here"))

    kind, _, found = history.first()
    assert (kind, found) == ("added", seq)


@given(histories(), st.data())
def test_G13_rows_in_another_order_are_named(history: History, data: st.DataObject) -> None:
    """Two sealed rows that change places show at the first of the two."""
    count = sum(link.count for link in history.links)
    one, other = sorted(data.draw(st.lists(st.integers(0, count - 1), min_size=2, max_size=2)))
    first, second = history.rows[one], history.rows[other]
    if first[1:] == second[1:]:
        return
    history.rows[one], history.rows[other] = (first[0], *second[1:]), (second[0], *first[1:])

    kind, _, seq = history.first()
    assert (kind in ("moved", "changed"), seq) == (True, first[0])


@given(histories(), st.data())
def test_G13_a_changed_link_is_named(history: History, data: st.DataObject) -> None:
    """Whichever field of whichever link is changed, that link is the first that is wrong, or the one that follows it."""
    place = data.draw(st.integers(0, len(history.links) - 1))
    link = history.links[place]
    name = data.draw(st.sampled_from(["last_seq", "count", "term", "at", "digest", "marks"]))
    change: dict[str, Any] = {
        "digest": hashlib.sha256(b"another").hexdigest(),
        "marks": bytes([link.marks[0] ^ 1]) + link.marks[1:],
    }
    history.links[place] = replace(
        link, **{name: change.get(name, getattr(link, name) + 1 if name not in change else None)}
    )

    kind, number, _ = history.first()
    assert (kind, number) == ("link", link.number)


@given(histories(), st.data())
def test_G13_a_missing_link_is_named(history: History, data: st.DataObject) -> None:
    """Whichever but the last is taken away; the last shows against a head that was noted."""
    place = data.draw(st.integers(0, len(history.links) - 1))
    head = history.links[-1].head
    gone = history.links.pop(place)

    assert history.examine(expect=parse_head(head)).findings[0].link == gone.number


@given(histories(), st.data())
def test_G13_a_chain_laid_anew_shows_against_a_noted_head(history: History, data: st.DataObject) -> None:
    """Whoever changes a row and lays every link after it again is found out only by what was noted elsewhere."""
    place = data.draw(st.integers(0, sum(link.count for link in history.links) - 1))
    head = history.links[-1].head
    old = history.rows[place]
    history.rows[place] = (*old[:6], f"{old[6]}!", *old[7:])
    anew = sealed_history(history.rows, [link.count for link in history.links])

    assert anew.examine().is_whole
    assert not anew.examine(expect=parse_head(head)).is_whole


# ---------------------------------------------------------------------------------------------- what it says of it


def test_G13_a_row_that_stands_elsewhere_says_where_it_was() -> None:
    """A row under another number is known again."""
    history = plain(3)
    history.rows[1] = (13, *history.rows[1][1:])

    assert [finding.text for finding in history.examine().findings] == [
        "link 1: row 12 is missing",
        "link 1: row 13 holds what was sealed as row 12",
    ]


def test_G13_one_bad_row_does_not_hide_the_next() -> None:
    """The chain is examined to its end, whatever is found on the way."""
    history = plain(2, 2, 2)
    history.rows[0] = row(10, "x")
    del history.rows[4]

    assert [(finding.kind, finding.link, finding.seq) for finding in history.examine().findings] == [
        ("changed", 1, 10),
        ("missing", 3, 18),
    ]


def test_G13_rows_of_a_missing_link_are_not_called_added() -> None:
    """One missing link is one thing that is wrong."""
    history = plain(2, 2, 2)
    del history.links[1]
    verdict = history.examine()

    assert [finding.text for finding in verdict.findings] == ["link 2 is missing"]


def test_G13_a_link_that_was_laid_anew_alone_does_not_fit_the_next() -> None:
    """A row changed together with its own link breaks the link behind it."""
    history = plain(2, 2)
    history.rows[0] = row(10, "x")
    history.links[0] = lay(None, sealed(history.rows[:2]), term=1, at=1000)

    assert history.first() == ("link", 2, None)


def test_G13_of_very_much_only_the_first_is_told() -> None:
    """A history that is gone altogether is not a report without end, and all of it is counted."""
    history = plain(*[50] * 10)
    history.rows.clear()
    verdict = history.examine()

    assert len(verdict.findings) == 100
    assert verdict.wrong == 200


def test_what_is_not_sealed_yet_is_said() -> None:
    """Rows behind the last link are counted, and nothing is said to be wrong with them."""
    history = plain(2, tail=3)
    history.rows[-1] = row(99, "changed")

    assert (history.examine().unsealed, history.examine().is_whole) == (3, True)


# --------------------------------------------------------------------------------------------------------- acts


def with_acts() -> History:
    acts = [act(1), act(2, verb="pause")]
    return sealed_history([row_of(1, acts[0]), row(2), row_of(3, acts[1])], [3], acts)


@pytest.mark.parametrize("column", ACT)
def test_G13_a_changed_act_is_named(column: str) -> None:
    """Whatever of an act is changed shows at its row in history, though that row is as it was."""
    history = with_acts()
    place = ACT.index(column)
    old = history.acts["act-0002"]
    history.acts["act-0002"] = (*old[:place], "other", *old[place + 1 :])

    assert history.first() == ("act", 1, 3)


def test_G13_a_missing_act_is_named() -> None:
    """An act that was taken away is missed at its row in history."""
    history = with_acts()
    del history.acts["act-0001"]
    finding = history.examine().findings[0]

    assert (finding.seq, finding.text) == (1, "link 1: row 1: the act 'act-0001' is missing")


def test_G13_an_act_without_a_row_shows() -> None:
    """The acts from before the chain are counted and digested at its beginning, so that none can be put in later."""
    old = [act(90), act(91)]
    before = ActsBefore()
    for each in old:
        before.add(each)
    begun = row(3, CHAIN_MACHINE, machine=CHAIN_MACHINE, reason=str(before.count), digest=before.digest)
    history = sealed_history([row(1), row(2), begun], [2, 1])
    history.before = list(old)

    assert history.examine().is_whole
    assert history.examine().before == 2
    for tampered in ([*old, act(92)], old[:1], [act(90, reason="x"), act(91)]):
        history.before = list(tampered)
        assert history.first() == ("act", 2, 3)


def test_G13_a_chain_that_was_begun_twice_shows() -> None:
    """Who takes every link away and lets the leader begin anew leaves two beginnings, or a beginning without a chain."""
    begun = {"machine": CHAIN_MACHINE, "reason": "0", "digest": ActsBefore().digest}
    history = sealed_history([row(1), row(2, "a", **begun), row(3, "b", **begun)], [3])
    without = History(history.rows[:2], [], {}, [])

    assert history.first() == ("link", 1, 3)
    assert without.first() == ("link", 1, None)


# --------------------------------------------------------------------------------------------------------- files


@given(histories())
def test_G13_a_file_holds_the_chain(history: History) -> None:
    """What was exported is examined like what it was exported from."""
    lines = [line.encode() for line in sealfile.to_lines(history.items())]

    assert examine(sealfile.from_lines(lines, name="f")) == history.examine()


def test_G13_a_tampered_database_is_exported_as_it_is() -> None:
    """Values that we never write come through, so that the file says the same as the database."""
    history = with_acts()
    history.rows[1] = row(2, reason=b"\xff\x00", term=1.5)
    history.before = [act(7, reason=b"\xfe")]
    lines = [line.encode() for line in sealfile.to_lines(history.items())]

    assert list(sealfile.from_lines(lines, name="f")) == list(history.items())
    assert examine(sealfile.from_lines(lines, name="f")).findings == history.examine().findings != ()


@given(st.data())
def test_G13_any_change_to_a_file_shows(data: st.DataObject) -> None:
    """Take away, double or swap any lines of an export: it is refused, or found not to be whole."""
    lines = [line.encode() for line in sealfile.to_lines(with_acts().items())]
    places = [number for number, line in enumerate(lines) if line != b'{"unsealed":true}']  # nothing follows it here
    place, other = data.draw(st.lists(st.sampled_from(places), min_size=2, max_size=2, unique=True))
    how = data.draw(st.sampled_from(["take", "double", "swap", "cut"]))
    if how == "take":
        del lines[place]
    elif how == "double":
        lines.insert(place, lines[place])
    elif how == "cut":
        lines = [*lines[:place], lines[place][: len(lines[place]) // 2]]
    else:
        lines[place], lines[other] = lines[other], lines[place]
    try:
        is_whole = examine(sealfile.from_lines(lines, name="f")).is_whole
    except InvalidInput:
        is_whole = False

    assert not is_whole


@pytest.mark.parametrize(
    "line, said",
    [
        ("nonsense", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "neither a row nor a link"),
        ('{"row": {"seq": 1}}', "it should have"),
        ('{"row": 7}', "it should have"),
        ('{"link": {}}', "it should have"),
        (json.dumps({"row": dict(zip(ROW, row(1), strict=True)) | {"term": True}}), "neither text nor a number"),
        (json.dumps({"row": dict(zip(ROW, row(1), strict=True)) | {"term": {"hex": "x"}}}), "not hexadecimal"),
        (json.dumps({"row": dict(zip(ROW, row(1), strict=True)) | {"term": {}}}), "neither text nor a number"),
        ('{"end": {"links": 5, "rows": 0}}', "the file should have"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused(line: str, said: str) -> None:
    """With its place."""
    with pytest.raises(InvalidInput, match="f:2") as refused:
        list(sealfile.from_lines([b'{"format":"retrain-audit-1"}', line.encode()], name="f"))

    assert said in refused.value.message


def test_a_file_of_another_kind_is_refused() -> None:
    """So is one that goes on after its end, and one that ends before it."""
    for lines in ([b"{}"], [], [b'{"format":"retrain-audit-1"}']):
        with pytest.raises(InvalidInput):
            list(sealfile.from_lines(lines, name="f"))
    end = b'{"end":{"links":0,"rows":0}}'
    with pytest.raises(InvalidInput, match="more after the end"):
        list(sealfile.from_lines([b'{"format":"retrain-audit-1"}', end, end], name="f"))


def test_a_mark_is_sixteen_bytes() -> None:
    """What a link keeps of a row grows with nothing but the rows."""
    assert len(plain(3).links[0].marks) == 3 * MARK
