"""An inbox in memory, and webhooks of any format before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controller.testing import ManualClock, MemoryInbox
from tests.factories import NOON
from tests.unit.webhook_formats.hook import Hook


@pytest.fixture
def inbox() -> MemoryInbox:
    return MemoryInbox(name="hook", clock=ManualClock(NOON))


@pytest.fixture
def hook(inbox: MemoryInbox, tmp_path: Path) -> Any:
    return lambda **said: Hook(inbox, tmp_path, **said)
