"""A process of the engine ends when the one that started it is killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from service.engine.orphan import end_with_parent
from tests.processes import is_alive, left_of

PARENT = """
import multiprocessing, sys
from tests.engine.test_orphan import linger

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    for _ in range(2):
        child = context.Process(target=linger)
        child.start()
        print(child.pid, flush=True)
    child.join()
"""


def linger() -> None:
    """Be a child that is busy and deaf to signals that ask."""
    end_with_parent()
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        sum(range(100_000))


@pytest.fixture(params=["spawn", "fork"])
def parent(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A process with two busy children, which says their numbers."""
    command = [sys.executable, "-c", PARENT, request.param]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def test_children_of_a_killed_process_end_at_once(parent: subprocess.Popen[bytes]) -> None:
    assert parent.stdout is not None
    children = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]
    try:
        limit = time.monotonic() + 60
        while not all(os.getpgid(child.pid) == child.pid for child in children):
            assert time.monotonic() < limit, "a terminal's Ctrl-C still reaches them"
            time.sleep(0.05)
        assert all(is_alive(child) for child in children)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        assert not left_of(children)
    finally:
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()


def test_a_process_that_nobody_made_this_way_is_left_alone() -> None:
    assert multiprocessing.parent_process() is None
    end_with_parent()
