"""A real `trimtab serve` in a process of its own, as an operator would start it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import httpx

ADMIN_KEY = "admin-key-of-a-test"
START_SECONDS = 400
TRIMTAB = (sys.executable, "-m", "service.cli", "serve")
# What `vllm serve` runs: that command asks for a distribution called vllm, which the CPU build
# is not.
_PLAIN = "from vllm.entrypoints.launchers.api_server.entry import main; main()"
PLAIN_VLLM = (sys.executable, "-c", _PLAIN, "--model")


class Served:
    """A running server; ``log`` is what it printed."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str] = (),
        command: Sequence[str] = TRIMTAB,
        apart: bool = False,
    ) -> None:
        """Start it on a free port and wait until it is ready.

        ``apart`` keeps standard error out of ``log``.

        Raises:
            AssertionError: It ended, or was not ready in time; the text is what it printed last.
        """
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "serve.log"
        self._ready = "/readyz" if command == TRIMTAB else "/health"
        with self._log.open("w") as log, (folder / "serve.err").open("w") as errors:
            self.process = subprocess.Popen(
                [*command, *arguments, "--port", str(self.port)],
                stdout=log,
                stderr=errors if apart else subprocess.STDOUT,
                env={**os.environ, "TRIMTAB_ADMIN_KEY": ADMIN_KEY},
                start_new_session=True,
            )
        self.http = httpx.Client(base_url=self.url, timeout=120)
        self.admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
        self.boot_seconds = self._wait()

    @property
    def log(self) -> str:
        """Everything printed so far."""
        return self._log.read_text()

    def is_ready(self) -> bool:
        """Whether the server says that it is ready."""
        try:
            return self.http.get(self._ready).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """End the server and all that it started."""
        self.http.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue

    def __enter__(self) -> Self:
        """Return the server."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the server."""
        self.stop()

    def _wait(self) -> float:
        started = time.monotonic()
        while time.monotonic() - started < START_SECONDS:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended:\n{self.log[-4000:]}")
            if self.is_ready():
                return time.monotonic() - started
            time.sleep(0.5)
        self.stop()
        raise AssertionError(f"not ready after {START_SECONDS} s:\n{self.log[-4000:]}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
