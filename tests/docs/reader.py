"""A reader who follows a page to the letter, in a clone of the repository of its own.

What differs from a stranger's day: the environment in `.venv` is the one that is there already,
servers get a free port in the place of 8000, and what a page leaves to its reader (such as the
model) is filled in.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Self

import httpx

from tests.docs.page import Block, pattern, plain
from tests.evidence import ROOT, git
from tests.run import environment
from tests.served import START_SECONDS, _free_port

BLOCK_SECONDS = 300
_STATE = "state.sh"
# A block is one shell's; what it exports and defines is there in the next, as in one terminal.
_SHELL = """set -eo pipefail
[ ! -f {state} ] || . {state}
{body}
{{ export -p; declare -f; }} > {state}
"""


def clone(folder: Path) -> Path:
    """Return a clone of the repository as it stands, with what is not committed yet."""
    # Listed first: what is committed in between is in the clone too.
    changed = git("ls-files", "-z", "--modified", "--others", "--exclude-standard").split("\0")
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    for name in filter(None, changed):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


class Reader:
    """Runs blocks in order and compares what they print with what the page shows."""

    def __init__(
        self,
        folder: Path,
        scratch: Path,
        options: Sequence[str] = (),
        filled: Mapping[str, str] | None = None,
    ) -> None:
        """Sit down in a clone.

        Args:
            folder: The clone.
            scratch: Where logs are kept, outside of it.
            options: Options that every server is started with.
            filled: What a page says, and what this reader writes in its place.
        """
        self.folder, self._scratch = folder, scratch
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._options = " ".join([f"--port {self.port}", *options])
        self._filled = {"127.0.0.1:8000": f"127.0.0.1:{self.port}", **(filled or {})}
        self._server: subprocess.Popen[bytes] | None = None
        self._script = ""
        ours = {name: text for name, text in environment().items() if "TRIMTAB" not in name}
        self._environment = {**ours, "PYTHONPATH": str(folder), "TRIMTAB_URL": self.url}
        self._check()

    def follow(self, blocks: Sequence[Block]) -> int:
        """Run a page's blocks and return how many were run.

        Raises:
            AssertionError: One ended otherwise or printed something else than the page says.
        """
        due = [block for block in blocks if not block.left]
        for block, following in pairwise([*due, None]):
            assert block is not None
            if block.language == "sh":
                self._serve(block) if block.serves else self._run(block)
                continue
            self._script += self._text(block.body)
            if following is None or following.language != "python":
                self._python(block)
        return len(due)

    def close(self) -> None:
        """End the server, as Ctrl-C in its terminal would."""
        if self._server is None:
            return
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._server.pid, number)
                self._server.wait(40)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self._server = None

    def __enter__(self) -> Self:
        """Return the reader."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the server."""
        self.close()

    def _check(self) -> None:
        found = self._call([".venv/bin/python", "-c", "import service; print(service.__file__)"])
        assert Path(found.stdout.strip()).is_relative_to(self.folder), found

    def _text(self, text: str) -> str:
        for written, meant in self._filled.items():
            text = text.replace(written, meant)
        return text

    def _run(self, block: Block) -> None:
        done = self._call(["bash", "-c", self._shell(self._text(block.body))])
        self._compare(block, done)

    def _shell(self, body: str) -> str:
        return _SHELL.format(state=self._scratch / _STATE, body=body)

    def _python(self, block: Block) -> None:
        script, self._script = self._script, ""
        self._compare(block, self._call([".venv/bin/python", "-c", script]))

    def _compare(self, block: Block, done: subprocess.CompletedProcess[str]) -> None:
        said = f"{block.where}\n{block.body}\nprinted:\n{done.stdout}"
        assert done.returncode == block.status, f"exit code {done.returncode} of {said}"
        if block.shown is not None:
            shown = self._text(block.shown)
            is_so = pattern(shown).fullmatch(plain(done.stdout))
            assert is_so, f"the page shows:\n{shown}\nand {said}"

    def _call(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BLOCK_SECONDS,
            check=False,
        )

    def _serve(self, block: Block) -> None:
        """Start a server as the page says; wait until it is ready and has said what is shown."""
        assert self._server is None, f"{block.where}: a server runs already"
        # With its prerequisite, `make serve` would install the clone into the environment of all.
        make = f'make serve PROJECT= ARGS="{self._options}"'
        body = self._text(block.body).rstrip("\n")
        body = body.replace("make serve", make) if "make" in body else f"{body} {self._options}"
        log = self._scratch / "serve.log"
        with log.open("w") as kept:
            self._server = subprocess.Popen(
                ["bash", "-c", self._shell(body)],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=kept,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait(block, log)

    def _wait(self, block: Block, log: Path) -> None:
        shown = pattern(self._text(block.shown or "…"))
        started = time.monotonic()
        while time.monotonic() - started < START_SECONDS:
            assert self._server is not None
            said = log.read_text()
            assert self._server.poll() is None, f"{block.where}: the server ended:\n{said[-4000:]}"
            if self._is_ready() and shown.search(plain(said)):
                return
            time.sleep(0.5)
        raise AssertionError(f"{block.where}: not ready, or not said:\n{log.read_text()[-4000:]}")

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False
