"""A streaming source has a thread of its own, and is started again when it fails."""

from __future__ import annotations

import threading
from typing import ClassVar

from controller.engine.sources import SourceThread
from controller.errors import StoreBusy
from controller.ports import PluginOptions, Stop
from controller.testing import wait_until
from tests.engine.house import House


class Fragile:
    """A source that fails so often, then runs until it is stopped."""

    Options: ClassVar[type[PluginOptions]] = PluginOptions

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.runs_well = threading.Event()

    def run(self, stop: Stop) -> None:
        """Fail, or run."""
        if self.errors:
            raise self.errors.pop(0)
        self.runs_well.set()
        stop.wait()


def test_a_source_that_runs_again_is_not_complained_of(house: House) -> None:
    """Its failure is a health reason while it waits to be tried again, and no longer."""
    source = Fragile(StoreBusy("locked"))
    thread = SourceThread("landing", source, house.runtime)
    thread.start()
    try:
        wait_until(lambda: house.runtime.complaints.all() == ["landing: locked"], what="the complaint")
        wait_until(source.runs_well.is_set, timeout=20, what="the second run")

        assert house.runtime.complaints.all() == []
    finally:
        thread.stop()
        assert thread.join(5)
