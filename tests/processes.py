"""Whether processes are gone; one that is dead and only waits to be reaped is."""

import time
from collections.abc import Iterable

import psutil


def left_of(processes: Iterable[psutil.Process], seconds: float = 20) -> list[psutil.Process]:
    """Wait until processes are gone, and return those that are still there after ``seconds``."""
    limit = time.monotonic() + seconds
    left = list(processes)
    while (left := [one for one in left if is_alive(one)]) and time.monotonic() < limit:
        time.sleep(0.01)
    return left


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
