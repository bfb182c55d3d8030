"""A job's process, as the server sees it: started, listened to, ended."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from service.errors import ServiceError
from service.job_folder import LOG, log_tail
from service.settings import ADMIN_KEY

ROOT = Path(__file__).parents[1]
SECRETS = (ADMIN_KEY, "VLLM_API_KEY")
"""What a job's process has no use for."""
OFFLINE = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""A job reads a folder that is there, and leaves the accelerators to the engine."""
MAX_LINE_BYTES = 1 << 20

OnLine = Callable[[str, int, int], None]


class JobFailedError(ServiceError):
    """A process that did not do its work; ``log`` is the end of what it wrote, for our log."""

    def __init__(self, message: str, log: str = "") -> None:
        """Keep why, and what the process wrote."""
        super().__init__(message)
        self.log = log


class Child:
    """A process in a group of its own, which ends with this one at the latest."""

    def __init__(self, process: Process, folder: Path) -> None:
        """Keep what was started in ``folder``."""
        self._process, self._folder = process, folder

    @classmethod
    async def start(cls, folder: Path, threads: int) -> Self:
        """Start the process of a folder that holds a brief.

        Raises:
            OSError: It cannot be started.
        """
        with (folder / LOG).open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "service.job_process", str(folder)),
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                env=_environment(threads),
                start_new_session=True,
                limit=MAX_LINE_BYTES,
            )
        return cls(process, folder)

    @property
    def pid(self) -> int:
        """The process's number, which is its group's too."""
        return self._process.pid

    async def listen(self, on_line: OnLine) -> None:
        """Hand on what the process reports, until it ends.

        Raises:
            JobFailedError: It says what it cannot do, was killed, or broke.
        """
        error: str | None = None
        stream = self._process.stdout
        while stream is not None and (line := await stream.readline()):
            fields = _fields(line)
            error = fields.get("error", error)
            if "stage" in fields:
                on_line(fields["stage"], fields["done"], fields["total"])
        code = await self._process.wait()
        if error is not None:
            raise JobFailedError(error)
        if code:
            raise JobFailedError(_ending(code), log_tail(self._folder))

    async def end(self) -> None:
        """End the process and all that it started, at once, and wait until it is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()


def _environment(threads: int) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if name not in SECRETS}
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    paths = [str(ROOT), *filter(None, [known.get("PYTHONPATH")])]
    given = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    return known | dict.fromkeys(counts, str(threads)) | OFFLINE | given


def _fields(line: bytes) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError as error:
        raise JobFailedError(f"its process said what is no JSON: {line[:200]!r}") from error


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return (
            "its process was killed (SIGKILL), most often for want of memory: use fewer facts or "
            "tokens, or a larger machine, and ask for it again"
        )
    if code < 0:
        return f"its process was ended by signal {-code}: ask for it again"
    return f"its process broke (exit code {code}); the server's log says where"
