"""Starts the far side as a process, and installs its plugins for daemons in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from controller.testing import wait_until

ROOT = Path(__file__).resolve().parents[2]
_ENTRY_POINTS = """\
[controller.launchers]
farside = tests.farside.plugins:FarsideLauncher
farside-blind = tests.farside.plugins:BlindLauncher

[controller.promoters]
farside = tests.farside.plugins:FarsidePromoter

[controller.notifiers]
farside = tests.farside.plugins:FarsideNotifier
"""


def install(folder: Path) -> dict[str, str]:
    """Make the plugins an installed distribution below `folder`; return the environment in which a daemon finds them."""
    metadata = folder / "farside_plugins-1.0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: farside-plugins\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(_ENTRY_POINTS)
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), *others])}


class Farside:
    """The running far side."""

    def __init__(self, folder: Path, *, seed: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.farside.server", "--folder", str(folder), "--seed", str(seed)]
        with (folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        port = folder / "port"
        wait_until(port.exists, timeout=30, pause=0.05, what="the far side to listen")
        self.folder = folder
        self.url = f"http://127.0.0.1:{port.read_text()}"

    def fates(self, *script: str, all: bool = False, **shares: float) -> None:
        """Say what becomes of the next requests: `script` in order, then by chance."""
        self._ask("PUT", "/fates", {"script": script, "shares": shares, "all": all})

    def record(self) -> dict[str, Any]:
        """Return all that the far side knows."""
        return dict(self._ask("GET", "/record"))

    def starts(self) -> list[dict[str, Any]]:
        """Return every start, in order, from the list on its disk."""
        return [json.loads(line) for line in (self.folder / "starts.jsonl").read_text().splitlines()]

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
