"""Tells people: carries the outbox out, at least once, with a stable id.

First it decides, and writes, which of the messages that wait are sent together (`core/notices.py`); then each channel is served by itself,
its groups one after the other, so that a channel that is slow, broken or full holds up no other.
What was sent is written afterwards: a daemon that dies in between sends it again, under the same id, with the same members.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from controller.core.due import is_due
from controller.core.model import Notification
from controller.core.notices import MOST, Bundling, gathered, is_grouped, ready_at
from controller.engine.runtime import Runtime, Ticked
from controller.errors import Conflict, ControllerError, GiveUp, PluginError, RetryLater, StoreError
from controller.retry import backoff
from controller.store import Transaction
from controller.store.outbox import Waiting
from controller.store.store import StaleTerm

#: So many groups of a channel are sent before the others of that channel are looked for.
BATCH = 50
#: A message that nobody took for this long is given up on.
PATIENCE = timedelta(hours=24)
#: A channel whose outcome could not be written rests for so long.
REST = timedelta(seconds=2)
#: A send that has not come back after this is complained of in the log.
HANGS = timedelta(minutes=5)


class Workers(Protocol):
    """Runs what may take long."""

    def begin(self, channel: str, send: Callable[[], None]) -> None:
        """Run it, now or at the same time as everything else."""
        ...


class InPlace:
    """Runs each at once, in the caller's thread."""

    def begin(self, channel: str, send: Callable[[], None]) -> None:
        """Run it."""
        send()


class SendThreads:
    """Serves each channel in a thread of its own, which does not keep the process alive."""

    def begin(self, channel: str, send: Callable[[], None]) -> None:
        """Start its thread."""
        threading.Thread(target=send, name=f"send-{channel}", daemon=True).start()


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of a send; kept until it is written, so that what was sent is not sent again because the store was busy."""

    #: SENT or DEAD; None: it is tried again.
    target: str | None
    reason: str = ""
    #: When it is tried again.
    until: datetime | None = None
    #: Until then the channel takes nothing at all.
    rests_until: datetime | None = None


@dataclass(slots=True)
class _Serving:
    """A channel that is being served."""

    #: Monotonic seconds of the last sign of life.
    since: float
    is_late: bool = False


class Outbox:
    """The loop that sends."""

    name = "outbox"

    def __init__(self, runtime: Runtime, *, workers: Workers | None = None) -> None:
        self._runtime = runtime
        self._workers: Workers = workers or InPlace()
        #: Guards what follows; told when a channel was served.
        self._changed = threading.Condition(threading.RLock())
        self._serving: dict[str, _Serving] = {}
        self._resting: dict[str, datetime] = {}
        self._unwritten: dict[str, _Outcome] = {}
        self._stale: StaleTerm | None = None
        self._stopped = False

    def tick(self, now: datetime) -> Ticked:
        """Decide what is sent together, and have every channel served for which something is due."""
        if self._stale is not None:
            raise self._stale
        self._complain_of_late_ones()
        closed, again, open_at = self._close(now)
        served, due_at = self._serve_all(now)
        ends = [at for at in (open_at, due_at) if at is not None]
        if any(at - now > PATIENCE for at in ends):  # written by a clock that was ahead, and was set back since
            with self._runtime.store.transaction("tame") as tx:
                again |= tx.outbox.tame(now, longest=PATIENCE) > 0
        return Ticked(worked=closed + served, again=again, next_at=min(ends, default=None))

    def stop(self, *, timeout: float) -> bool:
        """Begin no send any more, and return whether the running ones ended within `timeout` seconds."""
        with self._changed:
            self._stopped = True
            return self._changed.wait_for(lambda: not self._serving, timeout)

    # ------------------------------------------------------------------------------------------- what is sent together

    def _close(self, now: datetime) -> tuple[int, bool, datetime | None]:
        """Close what need not wait any longer; return how many messages, whether there are more, and when to look again."""
        with self._runtime.store.reading() as tx:
            open_at = tx.outbox.next_open(now)
            waiting = [each for each in tx.outbox.waiting(now) if self._is_free(each.channel, now)]
            ready = {each: self._ready_at(tx, each) for each in waiting}
        due = [each for each in waiting if is_due(ready[each] or now, now, longest=self._longest_wait(each))]
        later = [at for each, at in ready.items() if at is not None and each not in due]
        next_at = min([*later, *([] if open_at is None else [open_at])], default=None)
        if not due:
            return 0, False, next_at
        with self._runtime.store.transaction("group") as tx:
            closed = sum(self._close_one(tx, each) for each in due)
        # Of those that go together, what is beyond the limit waits for its turn.
        again = any(each.count > MOST and not (self._is_wanted(each) and self._is_together(each)) for each in due)
        return closed, again, next_at

    def _ready_at(self, tx: Transaction, waiting: Waiting) -> datetime | None:
        if not self._is_wanted(waiting):
            return None
        told = tx.outbox.told_at(waiting) if self._is_together(waiting) else None
        return ready_at(self._grouping(waiting), waiting.kind, first=waiting.first_at, told=told)

    def _longest_wait(self, waiting: Waiting) -> timedelta:
        grouping = self._grouping(waiting)
        return timedelta(0) if grouping is None else max(grouping.wait, grouping.repeat)

    def _close_one(self, tx: Transaction, waiting: Waiting) -> int:
        if self._is_wanted(waiting):
            together = self._is_together(waiting)
            return tx.outbox.close(waiting, together=together, most=MOST)
        reason = f"the channel {waiting.channel!r} does not take {waiting.kind!r} (`only`)"
        skipped = tx.outbox.skip(waiting, reason=reason, most=MOST)
        self._runtime.metrics.notifications.labels(waiting.channel, "skipped").inc(skipped)
        return skipped

    def _is_wanted(self, waiting: Waiting) -> bool:
        spec = self._runtime.config.notifiers.get(waiting.channel)
        return spec is None or spec.only is None or waiting.kind in spec.only

    def _is_together(self, waiting: Waiting) -> bool:
        return is_grouped(self._grouping(waiting), waiting.kind)

    def _grouping(self, waiting: Waiting) -> Bundling | None:
        spec = self._runtime.config.notifiers.get(waiting.channel)
        return None if spec is None else spec.grouping

    # ------------------------------------------------------------------------------------------- serving

    def _is_free(self, channel: str, now: datetime) -> bool:
        with self._changed:
            rests_until = self._resting.get(channel)
            is_awake = rests_until is None or is_due(rests_until, now, longest=PATIENCE)
            return channel not in self._serving and is_awake

    def _serve_all(self, now: datetime) -> tuple[int, datetime | None]:
        """Have every channel served for which something is due; return how many, and when the next group is due."""
        with self._runtime.store.reading() as tx:
            due = tx.outbox.due_by_channel()
        served, later = 0, []
        for channel, due_at in due.items():
            with self._changed:
                if channel in self._serving or self._stopped:
                    continue  # it rings when it is done
                rests_until = self._resting.get(channel, due_at)
                at = due_at if is_due(rests_until, now, longest=PATIENCE) else max(due_at, rests_until)
                if at > now:
                    later.append(at)
                    continue
                self._serving[channel] = _Serving(self._runtime.clock.monotonic())
            served += 1
            self._begin(channel)
        return served, min(later, default=None)

    def _begin(self, channel: str) -> None:
        try:
            self._workers.begin(channel, lambda: self._serve(channel))
        except BaseException:
            self._done(channel)
            raise

    def _serve(self, channel: str) -> None:
        """Send what is due on a channel; the edge of its thread, so whatever happens is noted and nothing is raised."""
        runtime = self._runtime
        try:
            with runtime.store.reading() as tx:
                groups = tx.outbox.due(channel, runtime.clock.now(), BATCH)
            for group in groups:
                with self._changed:
                    if self._stopped or not self._is_awake(channel):
                        break
                    self._serving[channel].since = runtime.clock.monotonic()
                self._carry(channel, group)
        except StaleTerm as error:
            self._stale = error
        except Exception as error:  # the store, or a row that moved on: looked at again after a rest
            reason = error.message if isinstance(error, StoreError) else repr(error)
            runtime.log.error("outbox.not_written", channel=channel, error=reason, exc_info=True)
            self._rest(channel, runtime.clock.now() + REST)
        finally:
            self._done(channel)

    def _is_awake(self, channel: str) -> bool:
        rests_until = self._resting.get(channel)
        return rests_until is None or is_due(rests_until, self._runtime.clock.now(), longest=PATIENCE)

    def _rest(self, channel: str, until: datetime) -> None:
        with self._changed:
            self._resting[channel] = until

    def _done(self, channel: str) -> None:
        with self._changed:
            self._serving.pop(channel, None)
            self._changed.notify_all()
        self._runtime.bells.ring(self.name)

    def _complain_of_late_ones(self) -> None:
        monotonic = self._runtime.clock.monotonic()
        with self._changed:
            for channel, serving in self._serving.items():
                if not serving.is_late and monotonic - serving.since > HANGS.total_seconds():
                    serving.is_late = True
                    self._runtime.log.error("notifier.hangs", channel=channel)

    # ------------------------------------------------------------------------------------------- one group

    def _carry(self, channel: str, group: Sequence[Notification]) -> None:
        """Send a group, and write what came of it."""
        key = group[0].group_id or group[0].id
        outcome = self._unwritten.get(key)
        if outcome is None:
            outcome = self._unwritten[key] = self._send(channel, group)
        try:
            with self._runtime.store.transaction("sent" if outcome.target else "postpone") as tx:
                if outcome.target is not None:
                    tx.outbox.move(group, outcome.target, cause=_CAUSES[outcome.target], reason=outcome.reason)
                elif outcome.until is not None:
                    tx.outbox.postpone(group, until=outcome.until, reason=outcome.reason)
        except Conflict:
            del self._unwritten[key]  # it moved on without us, and may come back some day
            raise
        del self._unwritten[key]
        if outcome.rests_until is not None:
            self._rest(channel, outcome.rests_until)
        self._tell(channel, group, outcome)

    def _send(self, channel: str, group: Sequence[Notification]) -> _Outcome:
        runtime = self._runtime
        runtime.lease.check()
        try:
            runtime.notifier(channel).send(gathered(group))
        except (GiveUp, PluginError) as error:
            return _Outcome("DEAD", error.message)
        except Exception as error:  # also a plugin's bug: one message must not hold up the others
            reason = error.message if isinstance(error, ControllerError) else str(error) or repr(error)
            if not isinstance(error, RetryLater | OSError):
                runtime.log.error("notifier.broke", channel=channel, error=repr(error), exc_info=True)
            now = runtime.clock.now()
            if now - (group[0].closed_at or group[0].created_at) >= PATIENCE:
                return _Outcome("DEAD", reason)
            after = error.after_seconds if isinstance(error, RetryLater) else None
            if after is None:
                return _Outcome(None, reason, until=now + backoff(group[0].attempts + 1, runtime.random))
            until = now + timedelta(seconds=min(max(after, 1.0), PATIENCE.total_seconds()))
            return _Outcome(None, reason, until=until, rests_until=until)
        return _Outcome("SENT")

    def _tell(self, channel: str, group: Sequence[Notification], outcome: _Outcome) -> None:
        word = (outcome.target or "postponed").lower()
        self._runtime.metrics.notifications.labels(channel, word).inc(len(group))
        if outcome.target == "SENT":
            return
        say = self._runtime.log.error if outcome.target == "DEAD" else self._runtime.log.warning
        say(
            f"notification.{word}",
            notification_id=group[0].group_id,
            channel=channel,
            kind=group[0].kind,
            count=len(group),
            attempt=group[0].attempts + 1,
            error=outcome.reason,
        )


_CAUSES = {"SENT": "sent", "DEAD": "gave_up"}
