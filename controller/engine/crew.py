"""The loops of one replica: what every replica does, and what only the one that leads does.

Every replica takes events in, counts what its sources bring, and watches the jobs that run in its own state directory.
Who leads also decides, dispatches, judges, promotes, tells people, polls what is polled, and tidies up.

The loops that depend on who leads are made anew each time that changes: nothing that one of them remembers of a former term
can be written under another.
"""

from __future__ import annotations

from collections.abc import Callable

from controller.config import Config
from controller.engine import outbox, ticker
from controller.engine.audit import Audit
from controller.engine.checkup import Checkup
from controller.engine.desk import Desk
from controller.engine.dispatcher import Dispatcher
from controller.engine.doctor import Doctor
from controller.engine.evaluator import Evaluator
from controller.engine.gatekeeper import Gatekeeper
from controller.engine.inbox import Inbox
from controller.engine.janitor import Janitor
from controller.engine.letters import Letters
from controller.engine.monitor import Monitor
from controller.engine.notices import Notices
from controller.engine.outbox import Outbox
from controller.engine.runtime import Loop, Runtime
from controller.engine.sealer import Sealer
from controller.engine.sources import Sources
from controller.engine.ticker import Ticker
from controller.engine.watcher import Watcher


class Crew:
    """Everything of one replica that works, without threads: the daemon gives each loop one, a test ticks them in turn."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        reload: Callable[[], Config],
        reconfigured: Callable[[], None] = lambda: None,
        polls: ticker.Workers | None = None,
        sends: outbox.Workers | None = None,
    ) -> None:
        """`reload` reads the configuration again; `reconfigured` hears of one that this replica uses from now on."""
        self._runtime = runtime
        self._reconfigured = reconfigured
        self._sends = sends
        self._evaluator: Evaluator | None = None
        #: Those that send to people: the present one last, before it those that were stopped while they sent.
        self._outboxes: list[Outbox] = []
        self.inbox = Inbox(runtime)
        self.ticker = Ticker(runtime, workers=polls)
        self.sources = Sources(runtime, self.inbox, self.ticker)
        self.doctor = Doctor(runtime, self.inbox.arrivals, is_everywhere=self.sources.is_everywhere)
        self.letters = Letters(runtime, self.sources.get)
        self.notices = Notices(runtime)
        self.audit = Audit(runtime.store, clock=runtime.clock, log=runtime.log)
        self.checkup = Checkup(runtime, self.inbox, self.sources, self.doctor)
        self.desk = Desk(runtime, self.activate, reload=reload, reloaded=self.sources.use)

    def loops_of_every_replica(self) -> list[Loop]:
        """Return the loops that run whoever leads."""
        return [self.inbox, self.ticker, self.doctor]

    def new_loops(self) -> list[Loop]:
        """Return new loops for what this replica does now, as it leads or follows."""
        runtime = self._runtime
        self._evaluator = None
        self.stop_sending()
        if not runtime.lease.leads:
            return [Monitor(runtime)]
        self._evaluator = Evaluator(runtime)
        self._outboxes.append(Outbox(runtime, workers=self._sends))
        return [
            self._evaluator,
            Dispatcher(runtime),
            Monitor(runtime),
            Gatekeeper(runtime),
            Watcher(runtime),
            self._outboxes[-1],
            Janitor(runtime),
            Sealer(runtime),
        ]

    def stop_sending(self, *, timeout: float = 0) -> bool:
        """Begin no message to people any more, and return whether those being sent ended within `timeout` seconds."""
        self._outboxes = [each for each in self._outboxes if not each.stop(timeout=timeout)]
        return not self._outboxes

    def activate(self, *, actor: str, config: Config) -> None:
        """Use another configuration from now on; who leads puts it in force, and another asks to lead with it."""
        evaluator = self._evaluator
        if evaluator is not None and self._runtime.lease.leads:
            evaluator.activate(actor=actor, config=config)
        else:
            self._runtime.use(config)
        self._reconfigured()
