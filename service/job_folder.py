"""The files of a job at work: what its process is given, and what it found."""

import shutil
from pathlib import Path

BRIEF = "brief.json"
FINDING = "finding.json"
LOG = "log.txt"
OUT = "out"

MAX_LOG_BYTES = 4000


def fresh_folder(parent: Path, job: int, attempt: int) -> Path:
    """Return a new folder for an attempt; those of earlier ones, cut short, are removed.

    Raises:
        OSError: It cannot be made.
    """
    for old in parent.glob(f"{job}.*"):
        shutil.rmtree(old, ignore_errors=True)
    folder = parent / f"{job}.{attempt}"
    (folder / OUT).mkdir(parents=True)
    return folder


def log_tail(folder: Path) -> str:
    """Return the end of what a process wrote to standard error."""
    try:
        return (folder / LOG).read_bytes()[-MAX_LOG_BYTES:].decode(errors="replace").strip()
    except OSError:
        return ""
