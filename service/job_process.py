"""The process of a job: ``python -m service.job_process FOLDER``.

It reads ``FOLDER/brief.json``, says on standard output how far it is, a JSON object a line, and
writes ``FOLDER/finding.json``; ``{"error": …}`` is what it could not do. It ends when its standard
input does: a server that is killed leaves no process behind.
"""

import json
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from service.job_folder import BRIEF, FINDING

NICENESS = 10
ORPHANED = 3
"""Exit code of a process whose server is gone."""
REPORT_SECONDS = 0.2
MAX_ERROR = 8000
"""Characters of an error: a line is read whole."""


class Reporter:
    """Writes where the work is: each new stage, and within one now and then."""

    def __init__(self, lines: TextIO) -> None:
        """Write to ``lines``."""
        self._lines, self._stage, self._at = lines, "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report a stage, how much of it is done, and of how much."""
        is_due = time.monotonic() - self._at >= REPORT_SECONDS
        if stage != self._stage or done >= total or is_due:
            self._stage, self._at = stage, time.monotonic()
            self.say({"stage": stage, "done": done, "total": total})

    def say(self, fields: dict[str, object]) -> None:
        """Write a line."""
        self._lines.write(json.dumps(fields) + "\n")
        self._lines.flush()


def main() -> None:
    """Do the work of a folder; exit code 1 if it cannot be done."""
    threading.Thread(target=_end_with_server, daemon=True).start()
    reporter = Reporter(_own_output())
    _yield_to_server()
    folder = Path(sys.argv[1])
    # Imported once the server's end is watched for: this takes seconds.
    from editing.errors import EditError
    from forward.container import ArtifactError
    from forward.families import UnsupportedModelError
    from forward.fingerprint import CheckpointError
    from service.edit_work import Brief, work

    expected = (EditError, ArtifactError, CheckpointError, UnsupportedModelError)
    try:
        work(Brief.read(folder / BRIEF), reporter).write(folder / FINDING)
    except expected as error:
        reporter.say({"error": str(error)[:MAX_ERROR]})
        raise SystemExit(1) from error
    except OSError as error:
        reporter.say({"error": f"{error.filename or folder}: {error.strerror}"})
        raise SystemExit(1) from error


def _end_with_server() -> None:
    """Wait for the end of standard input, which the server holds open, and end."""
    while os.read(0, 4096):
        pass
    os._exit(ORPHANED)


def _own_output() -> TextIO:
    """Return standard output for our lines alone: what libraries print goes to standard error."""
    ours = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(ours, "w", encoding="utf-8")


def _yield_to_server() -> None:
    """Let the server go first, for processor and for memory."""
    os.nice(NICENESS)
    with suppress(OSError):  # where the system has no such file
        Path("/proc/self/oom_score_adj").write_text("700")


if __name__ == "__main__":
    main()
