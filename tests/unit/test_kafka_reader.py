"""A client that hangs is noticed and replaced."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from controller.errors import RetryLater
from controller.sources.kafka import KafkaSource, reader
from controller.sources.kafka.client import Settings
from controller.sources.kafka.options import KafkaOptions
from controller.testing import ManualClock, MemoryInbox


def test_a_client_that_hangs_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends with the reason, and the log says where the client hangs; the controller starts it anew."""
    asked, released = threading.Event(), threading.Event()

    def connect(settings: Settings) -> None:
        asked.set()
        released.wait(20)
        raise reader.Trouble(f"{settings.name} was released")

    monkeypatch.setattr(reader, "connect", connect)
    clock = ManualClock()
    inbox = MemoryInbox(clock=clock)
    options = KafkaOptions(bootstrap_servers=("localhost:1",), topics=("t",), group_id="g")

    class Stop:
        """Never set; when it is looked at, the client was asked, and much time has passed."""

        def is_set(self) -> bool:
            assert asked.wait(20)
            clock.advance(91)
            return False

        def wait(self, timeout: float | None = None) -> bool:
            return False

    try:
        with pytest.raises(RetryLater, match="has not come back for 90 s"):
            KafkaSource(options, inbox.context(tmp_path)).run(Stop())
    finally:
        released.set()

    (line,) = [fields for _, name, fields in inbox.log.lines if name == "kafka.client_hangs"]
    assert "released.wait" in line["where"]
