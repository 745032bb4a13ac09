"""What people do with dead letters: look at them, have them read or decided again, or give them up.

What a source did not understand is read again by that source as it is configured now; its events and the letter's end are one transaction,
so a crash leaves either a dead letter or its events, and identity makes a repetition harmless.
What makes no sense still stays dead, with the reason of now. An event that could not be decided goes back to the evaluator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from controller.core.letter_shapes import BulkShape, Kind, LetterPage, LetterShape, ReplayShape, Wanted
from controller.core.model import Json, NewEvent
from controller.core.shapes import StandingShape
from controller.engine.acts import Acts
from controller.engine.episodes import domain_of
from controller.engine.runtime import Runtime
from controller.errors import Conflict, ControllerError, InvalidInput, NotFound, StoreError
from controller.store import Transaction
from controller.store.letter_views import LetterViews, find_letter, newest_id, standing_ids
from controller.store.letters import LEFT_OUT, Letter

#: So many events are named in the reason of a replay; the act has them all.
_NAMED = 10


class Letters:
    """Dead letters, as people see and steer them. Safe to use from several threads."""

    def __init__(self, runtime: Runtime, source: Callable[[str], Any]) -> None:
        """`source` returns a running source's plugin by name, and raises `NotFound`."""
        self._runtime = runtime
        self._source = source
        self._acts = Acts(runtime)
        self._views = LetterViews(runtime.store.asking())

    # ------------------------------------------------------------------------------------------- looking

    def letters(self, *, source: str | None, state: Wanted, limit: int, before: str | None) -> LetterPage:
        """Return dead letters, the newest first."""
        return self._views.letters(source=source, state=state, limit=limit, before=before)

    def letter(self, name: str) -> LetterShape:
        """Return everything about a dead letter; raises `NotFound` and `Conflict`."""
        return self._views.letter(name)

    def body(self, name: str) -> tuple[str, bytes]:
        """Return a dead letter's id and its bytes as they came; raises `NotFound` and `Conflict`."""
        return self._views.body(name)

    def standing(self) -> list[StandingShape]:
        """Return how many dead letters of each source wait for a person."""
        return self._views.standing()

    def measure(self) -> None:
        """Set the gauges anew; what moves them afterwards is counted where it happens."""
        gauge = self._runtime.metrics.dead_letters
        now: dict[tuple[str, str], int] = {}
        for each in self.standing():
            now |= {(each["source"], "raw"): each["raw"], (each["source"], "event"): each["events"]}
        before = {
            (sample.labels["source"], sample.labels["kind"]) for found in gauge.collect() for sample in found.samples
        }
        for labels in {*before, *now}:
            gauge.labels(*labels).set(now.get(labels, 0))

    # ------------------------------------------------------------------------------------------- one

    def replay(self, name: str, *, who: str, reason: str, key: str | None = None) -> ReplayShape:
        """Have a dead letter read, or decided, again; its state in the answer is DEAD when it still makes no sense.

        Raises `NotFound`, and `Conflict` for one that is not DEAD or cannot be read again.
        """
        kind, id_ = self._find(name)
        known = self._acts.answered("dead.replay", id_, reason=reason, details={}, key=key)
        if known is not None:
            return _shape(known)
        if kind == "event":
            return self._replay_event(id_, who=who, reason=reason, key=key)
        return self._replay_letter(id_, who=who, reason=reason, key=key)

    def drop(self, name: str, *, who: str, reason: str, key: str | None = None) -> ReplayShape:
        """Give a dead letter up; raises `InvalidInput` without a reason, `NotFound`, and `Conflict` for one that is not DEAD."""
        _check_reason(reason)
        _, id_ = self._find(name)

        def act(tx: Transaction) -> dict[str, Json]:
            return dict(self._drop(tx, id_, who=who, reason=reason))

        done = self._acts.once(act, "dead.drop", id_, who=who, reason=reason, details={}, key=key, ring=())
        self.measure()
        return _shape(done)

    # ------------------------------------------------------------------------------------------- many

    def replay_all(
        self, source: str | None, *, after: str | None, until: str | None, limit: int, who: str, reason: str
    ) -> BulkShape:
        """Replay the dead letters of a source (None: of every source), the oldest first, at most `limit` of them."""
        ids, until = self._some(source, after=after, until=until, limit=limit)
        failed = []
        for id_ in ids:
            try:
                done = self.replay(id_, who=who, reason=reason)
            except (Conflict, NotFound) as error:
                done = _failed(id_, error.message.removeprefix(f"{id_} "))
            if done["state"] == "DEAD":
                failed.append(done)
        return {
            "done": len(ids) - len(failed),
            "failed": failed,
            "next": ids[-1] if len(ids) == limit else None,
            "until": until,
        }

    def drop_all(
        self, source: str, *, after: str | None, until: str | None, limit: int, who: str, reason: str
    ) -> BulkShape:
        """Give the dead letters of a source up, the oldest first, at most `limit` of them, in one transaction."""
        _check_reason(reason)
        ids, until = self._some(source, after=after, until=until, limit=limit)

        def act(tx: Transaction) -> dict[str, Json]:
            for id_ in ids:
                self._drop(tx, id_, who=who, reason=reason)
            return {"dropped": len(ids)}

        if ids:
            about = {"count": len(ids), "first": ids[0], "last": ids[-1]}
            self._acts.once(act, "dead.drop", source, who=who, reason=reason, details=about, key=None, ring=())
            self.measure()
        return {"done": len(ids), "failed": [], "next": ids[-1] if len(ids) == limit else None, "until": until}

    def _some(
        self, source: str | None, *, after: str | None, until: str | None, limit: int
    ) -> tuple[list[str], str | None]:
        with self._runtime.store.reading() as tx:
            until = until or newest_id(tx, source)
            return [] if until is None else standing_ids(tx, source, after=after, until=until, limit=limit), until

    # ------------------------------------------------------------------------------------------- how

    def _find(self, name: str) -> tuple[Kind, str]:
        with self._runtime.store.reading() as tx:
            return find_letter(tx, name)

    def _replay_event(self, id_: str, *, who: str, reason: str, key: str | None) -> ReplayShape:
        def act(tx: Transaction) -> dict[str, Json]:
            event = tx.events.get(id_)
            if event is None or event.state != "DEAD":
                raise Conflict(f"event {id_} is {'gone' if event is None else event.state}, not DEAD")
            why = _because(f"replayed by {who}", reason)
            tx.letters.replay_event(id_, reason=why, actor=who)
            return dict(_done(id_, "event", "PENDING", why, [id_]))

        done = self._acts.once(
            act, "dead.replay", id_, who=who, reason=reason, details={}, key=key, ring=("evaluator",)
        )
        self.measure()
        return _shape(done)

    def _replay_letter(self, id_: str, *, who: str, reason: str, key: str | None) -> ReplayShape:
        with self._runtime.store.reading() as tx:
            letter = _standing(tx, id_)
        reader = self._reader(letter)
        try:
            events = list(reader(letter.as_it_came()))
            return self._store(letter, events, who=who, reason=reason, key=key)
        except (Conflict, NotFound, StoreError):
            raise
        except ControllerError as error:
            return self._still_dead(letter, error.message)
        except Exception as error:  # a plugin may raise anything, and what it makes of a letter may not be storable
            self._runtime.log.error(
                "letter.not_replayed", source=letter.origin, letter_id=id_, error=repr(error), exc_info=True
            )
            return self._still_dead(letter, f"{type(error).__name__}: {error}")

    def _reader(self, letter: Letter) -> Callable[[Any], Sequence[NewEvent]]:
        """Return what reads a letter again; raises `Conflict` when nothing can."""
        bytes_of_it = f"retrainctl dead show {letter.id} --raw"
        if len(letter.body or b"") != letter.size:
            raise Conflict(
                f"{letter.id} cannot be read again: of its {letter.size:,} bytes only the first "
                f"{len(letter.body or b''):,} were kept",
                hint="have its producer send it again, and drop this one",
            )
        if not letter.whole:
            raise Conflict(
                f"{letter.id} cannot be read again: {', '.join(letter.meta[LEFT_OUT])} did not fit beside it",
                hint="have its producer send it again, and drop this one",
            )
        gone = f"configure it again, or take the bytes with `{bytes_of_it}`"
        try:
            source = self._source(letter.origin)
        except NotFound as error:
            raise Conflict(
                f"{letter.id} cannot be read again here: its source {letter.origin!r} does not run",
                hint=error.hint if self._is_elsewhere(letter.origin) else gone,
            ) from error
        try:
            reader: Callable[[Any], Sequence[NewEvent]] = source.read_again
        except AttributeError as error:
            raise Conflict(
                f"{letter.id} cannot be read again: source {letter.origin!r} has no way to",
                hint=f"take the bytes with `{bytes_of_it}`",
            ) from error
        return reader

    def _is_elsewhere(self, source: str) -> bool:
        """Say whether a source that does not run here may run on the replica that leads."""
        return source in self._runtime.config.sources and not self._runtime.lease.leads

    def _store(
        self, letter: Letter, events: Sequence[NewEvent], *, who: str, reason: str, key: str | None
    ) -> ReplayShape:
        """Store what a letter said, and write that it is read; both or nothing."""
        stored = 0

        def act(tx: Transaction) -> dict[str, Json]:
            nonlocal stored
            domain = domain_of(self._runtime.config, letter.origin)
            present = _standing(tx, letter.id)
            receipts = tx.events.add(letter.origin, events, domain=domain) if events else []
            ids = list(dict.fromkeys(receipt.event_id for receipt in receipts))
            stored = sum(not receipt.duplicate for receipt in receipts)
            why = _because(f"read again by {who}: {_named(ids)}", reason)
            tx.letters.replayed(present, reason=why, actor=who)
            return dict(_done(letter.id, "raw", "REPLAYED", why, ids))

        done = self._acts.once(
            act, "dead.replay", letter.id, who=who, reason=reason, details={}, key=key, ring=("evaluator",)
        )
        self._runtime.metrics.events.labels(letter.origin, "stored").inc(stored)
        self.measure()
        return _shape(done)

    def _still_dead(self, letter: Letter, error: str) -> ReplayShape:
        if error != letter.error:
            with self._runtime.store.transaction("letter_still_dead", fenced=False) as tx:
                tx.letters.still_dead(letter.id, error=error)
        return _done(letter.id, "raw", "DEAD", error, [])

    @staticmethod
    def _drop(tx: Transaction, id_: str, *, who: str, reason: str) -> ReplayShape:
        why = f"dropped by {who}: {reason}"
        event = tx.events.get(id_)
        if event is None:
            tx.letters.drop(_standing(tx, id_), reason=why, actor=who)
            return _done(id_, "raw", "DROPPED", why, [])
        if event.state != "DEAD":
            raise Conflict(f"event {id_} is {event.state}, not DEAD")
        tx.letters.drop_event(id_, reason=why, actor=who)
        return _done(id_, "event", "DROPPED", why, [])


def _standing(tx: Transaction, id_: str) -> Letter:
    letter = tx.letters.get(id_)
    if letter is None:
        raise NotFound(f"there is no dead letter {id_!r}")
    if letter.state != "DEAD":
        raise Conflict(f"dead letter {id_} is {letter.state}, not DEAD")
    return letter


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise InvalidInput("giving a dead letter up needs a reason", hint="it is recorded with your name")


def _because(what: str, reason: str) -> str:
    return f"{what}: {reason}" if reason else what


def _named(ids: Sequence[str]) -> str:
    if not ids:
        return "no event in it"
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"{', '.join(ids[:_NAMED])}{more}"


def _done(id_: str, kind: Kind, state: str, reason: str, events: list[str]) -> ReplayShape:
    return {"id": id_, "kind": kind, "state": state, "reason": reason, "events": events, "duplicate": False}


def _failed(id_: str, reason: str) -> ReplayShape:
    return _done(id_, "event" if id_.startswith("evt") else "raw", "DEAD", reason, [])


def _shape(answer: Mapping[str, Json]) -> ReplayShape:
    found: Any = dict(answer)
    return found  # type: ignore[no-any-return]  # it was one before it was stored
