"""Carries bells between the daemons of one database: what a replica took in wakes the one that leads.

Ringing never waits: words are gathered, and said by a thread of their own. Another listens. When neither works, as behind some poolers,
`hears` is False and the loops look at their rows every second instead of waiting to be woken.
"""

from __future__ import annotations

import threading

from controller.engine.runtime import Runtime
from controller.errors import StoreBusy
from controller.retry import backoff
from controller.store.wake import Ear, Wire

#: How long a daemon waits to hear itself before it takes the line for dead.
_ECHO_SECONDS = 3.0
#: It asks again whether it hears itself after this long without a word.
_SILENCE_SECONDS = 60.0
#: What is rung within this time is said together.
_GATHER_SECONDS = 0.002


class Wakes:
    """The two threads of one daemon."""

    def __init__(self, runtime: Runtime, wire: Wire, *, replica: str) -> None:
        self._runtime = runtime
        self._wire = wire
        self._replica = replica
        self._lock = threading.Lock()
        self._words: set[str] = set()
        self._something = threading.Event()
        self._stopping = threading.Event()
        #: Whether what others say is heard here.
        self.hears = False
        self._threads = [
            threading.Thread(target=self._listen, name="wake-listen", daemon=True),
            threading.Thread(target=self._speak, name="wake-say", daemon=True),
        ]

    def start(self) -> None:
        """Begin to listen, and to say what is rung for elsewhere."""
        self._runtime.bells.relay = self.ring_elsewhere
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End soon; what was not said is not said any more."""
        self._runtime.bells.relay = None
        self._stopping.set()
        self._something.set()

    def close(self, *, timeout: float) -> None:
        """Wait for the end, and close the line."""
        for thread in self._threads:
            thread.join(timeout)
        self._wire.close()

    def ring_elsewhere(self, loops: tuple[str, ...]) -> None:
        """Wake loops of the other daemons."""
        with self._lock:
            self._words.update(loops)
        self._something.set()

    def _speak(self) -> None:
        while not self._stopping.is_set():
            self._something.wait()
            self._stopping.wait(_GATHER_SECONDS)
            with self._lock:
                words, self._words = self._words, set()
                self._something.clear()
            if not words or self._stopping.is_set():
                continue
            try:
                self._wire.say([self._replica, *sorted(words)])
            except StoreBusy as error:  # a lost hint: the others look at their rows by themselves
                self._runtime.log.debug("wake.not_said", error=error.message)

    def _listen(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                with self._wire.listen() as ear:
                    failures = 0
                    while not self._stopping.is_set() and self._echoes(ear):
                        self._hear(ear)
                failures += 1
            except StoreBusy as error:
                failures += 1
                self._runtime.log.debug("wake.not_heard", error=error.message)
            self.hears = False
            self._stopping.wait(backoff(failures, self._runtime.random).total_seconds())

    def _echoes(self, ear: Ear) -> bool:
        """Say whether we hear ourselves."""
        self._wire.say([self._replica, "@echo"])
        ends_at = self._runtime.clock.monotonic() + _ECHO_SECONDS
        while self._runtime.clock.monotonic() < ends_at and not self._stopping.is_set():
            for words in ear.hear(0.5):
                if words == [self._replica, "@echo"]:
                    self._set_hears()
                    return True
                self._take(words)
        return False

    def _set_hears(self) -> None:
        if not self.hears:
            self.hears = True
            self._runtime.bells.ring_here(*self._runtime.bells.names())  # whatever was said before is unheard

    def _hear(self, ear: Ear) -> None:
        """Take what is said until it has been silent for long."""
        silent_since = self._runtime.clock.monotonic()
        while not self._stopping.is_set():
            heard = ear.hear(1.0)
            now = self._runtime.clock.monotonic()
            for words in heard:
                self._take(words)
                silent_since = now
            if now - silent_since >= _SILENCE_SECONDS:
                return

    def _take(self, words: list[str]) -> None:
        if words and words[0] != self._replica:
            self._runtime.bells.ring_here(*(word for word in words[1:] if not word.startswith("@")))
