"""A server that speaks S3: moto's, in a process of its own, over real HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from controller.testing import wait_until

#: Credentials that the server takes; those that begin otherwise are refused once it asks for any.
KEY, SECRET = "AKIATESTTESTTESTTEST", "test/secret+with/signs=="


class ObjectServer:
    """The server; it can be killed and come back at the same address, empty."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = tempfile.TemporaryDirectory(prefix="retrain-objects-")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, ask_for_credentials: bool = False, objects: int = 0) -> None:
        """Start it, and return when it answers.

        With `ask_for_credentials` it refuses everybody; with `objects`, a bucket `seeded` holds so many already.
        """
        environment = {**os.environ, "MOTO_S3_CUSTOM_ENDPOINTS": self.url, "MOTO_IAM_LOAD_MANAGED_POLICIES": "false"}
        if ask_for_credentials:
            environment["INITIAL_NO_AUTH_ACTION_COUNT"] = "0"
        with (Path(self._folder.name) / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", _MAIN, str(self.port), str(objects)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder.name,
            )
        try:
            wait_until(
                lambda: self._answers() or self._process.poll() is not None, timeout=40, what="the object server"
            )
        except BaseException:
            self.kill()
            raise
        if self._process.poll() is not None:
            raise RuntimeError(f"the object server ended: {self.log()[-2000:]}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/moto-api/data.json", timeout=2):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def log(self) -> str:
        """Return what the server said."""
        return (Path(self._folder.name) / "log").read_text(errors="replace")

    def kill(self) -> None:
        """End it at once, and all it holds."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(10)

    def close(self) -> None:
        """End it for good."""
        self.kill()
        self._folder.cleanup()

    def client(self, *, key: str = KEY, secret: str = SECRET) -> Any:
        """Return a client of botocore's own, to change the world with."""
        import botocore.config
        import botocore.session

        return botocore.session.get_session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=botocore.config.Config(retries={"max_attempts": 1}),
        )


_MAIN = """
import sys
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import main

objects = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
if int(sys.argv[2]):
    objects.create_bucket("seeded", "us-east-1")
for number in range(int(sys.argv[2])):
    objects.put_object("seeded", f"many/{number % 7}/{number:06}.csv", b"x")
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"""
