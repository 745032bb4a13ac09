"""What every launcher promises."""

# ruff: noqa: S101 - a suite asserts

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import pytest

from controller.ports import Handle, Launcher, Observation, Order
from controller.testing.fakes import wait_until

#: What the job of an order does: ends with 0; ends with 3; runs until it is stopped; prints `hello` and ends with 0.
Behaviour = Literal["succeeds", "fails", "runs", "prints"]

_ENDED = ("succeeded", "failed", "lost")


class LauncherContract(ABC):
    """The suite for launchers: subclass it as `Test…` and override the two fixtures."""

    #: Seconds that a job of the target may take to start, to end, or to be stopped.
    patience: float = 10.0

    @pytest.fixture
    @abstractmethod
    def make_launcher(self) -> Callable[[], Launcher]:
        """Return a function that builds a launcher; each knows the jobs of all the others, as after a restart."""

    @pytest.fixture
    @abstractmethod
    def make_order(self) -> Callable[[Behaviour], Order]:
        """Return a function that makes a new order, whose job behaves as asked."""

    @pytest.fixture
    def launcher(self, make_launcher: Callable[[], Launcher]) -> Launcher:
        """Return the launcher under test."""
        return make_launcher()

    def _ended(self, launcher: Launcher, handle: Handle) -> Observation:
        def look() -> Observation | None:
            seen = launcher.observe(handle)
            return seen if seen.state in _ENDED else None

        ended: Observation = wait_until(look, timeout=self.patience, what="the end of the job")
        return ended

    def test_declares_what_it_is(self, launcher: Launcher) -> None:
        """The options are a model, and slots are positive or unlimited."""
        slots = launcher.slots()

        assert isinstance(launcher.searchable, bool)
        assert isinstance(launcher.local, bool)
        assert slots is None or slots > 0
        assert launcher.Options.model_json_schema()["type"] == "object"
        assert launcher.Settings.model_json_schema()["type"] == "object"

    def test_never_launched(self, launcher: Launcher, make_order: Callable[[Behaviour], Order]) -> None:
        """What was never launched is not found."""
        if not launcher.searchable:
            pytest.skip("this launcher cannot search")

        assert launcher.find(make_order("succeeds")) is None

    def test_success(self, launcher: Launcher, make_order: Callable[[Behaviour], Order]) -> None:
        """A job that ends well is observed as succeeded, with its times."""
        handle = launcher.launch(make_order("succeeds"))

        seen = self._ended(launcher, handle)

        assert (seen.state, seen.exit_code) == ("succeeded", 0)
        assert seen.finished_at is not None
        assert seen.finished_at.utcoffset() is not None

    def test_failure(self, launcher: Launcher, make_order: Callable[[Behaviour], Order]) -> None:
        """A job that fails is an observation with a reason, not an exception."""
        seen = self._ended(launcher, launcher.launch(make_order("fails")))

        assert (seen.state, seen.exit_code) == ("failed", 3)
        assert "3" in seen.reason

    def test_running_then_stopped(self, launcher: Launcher, make_order: Callable[[Behaviour], Order]) -> None:
        """A job is running until it is stopped; stopping again, also what is gone, is safe."""
        handle = launcher.launch(make_order("runs"))
        assert launcher.observe(handle).state == "running"

        launcher.stop(handle, force=False)
        seen = self._ended(launcher, handle)

        assert seen.state in ("failed", "lost")
        launcher.stop(handle, force=False)
        launcher.stop(handle, force=True)
        assert launcher.observe(handle).state == seen.state

    def test_forced_stop(self, launcher: Launcher, make_order: Callable[[Behaviour], Order]) -> None:
        """With force the job ends."""
        handle = launcher.launch(make_order("runs"))

        launcher.stop(handle, force=True)

        assert self._ended(launcher, handle).state in ("failed", "lost")

    def test_launch_is_idempotent(
        self, make_launcher: Callable[[], Launcher], make_order: Callable[[Behaviour], Order]
    ) -> None:
        """Launching an attempt again, here or in another process, gives the same job."""
        order = make_order("runs")
        first, second = make_launcher(), make_launcher()
        handle = first.launch(order)
        wait_until(lambda: first.find(order), timeout=self.patience, what="the job to be findable")

        again = second.launch(order)

        assert again == handle
        first.stop(handle, force=True)
        assert self._ended(second, again) == self._ended(first, handle)
        assert second.launch(order) == handle, "not even when it has ended"

    def test_found_after_a_restart(
        self, make_launcher: Callable[[], Launcher], make_order: Callable[[Behaviour], Order]
    ) -> None:
        """Another launcher finds the job, observes and stops it, by a handle that went through JSON."""
        order = make_order("runs")
        launched = make_launcher().launch(order)
        later = make_launcher()

        found = wait_until(lambda: later.find(order), timeout=self.patience) if later.searchable else launched
        handle = json.loads(json.dumps(found))

        assert found == launched
        assert later.observe(handle).state == "running"
        later.stop(handle, force=True)
        assert self._ended(later, handle).state in ("failed", "lost")

    def test_watch(self, launcher: Launcher, make_order: Callable[[Behaviour], Order]) -> None:
        """Watching is harmless, before and after the end; where it is more than a hint, it says when to look."""
        handle = launcher.launch(make_order("succeeds"))
        told = threading.Event()
        launcher.watch(handle, told.set)
        self._ended(launcher, handle)

        launcher.watch(handle, told.set)

        if launcher.local:
            assert told.wait(self.patience)

    def test_log(self, launcher: Launcher, make_order: Callable[[Behaviour], Order]) -> None:
        """The log is read in pieces from any offset, and past its end it is empty."""
        handle = launcher.launch(make_order("prints"))
        self._ended(launcher, handle)
        whole = launcher.log(handle, 0, 1000)

        assert b"hello" in whole.data
        assert (whole.skipped, whole.next_offset) == (0, len(whole.data))
        piece = launcher.log(handle, 2, 3)
        assert (piece.data, piece.next_offset) == (whole.data[2:5], 5)
        end = launcher.log(handle, whole.next_offset, 1000)
        assert (end.data, end.next_offset) == (b"", whole.next_offset)

    def test_forget(self, launcher: Launcher, make_order: Callable[[Behaviour], Order]) -> None:
        """What is forgotten can still be observed, and forgotten again."""
        handle = launcher.launch(make_order("fails"))
        launcher.watch(handle, threading.Event().set)
        launcher.forget(handle)
        launcher.forget(handle)

        assert self._ended(launcher, handle).exit_code == 3
        launcher.forget(handle)
