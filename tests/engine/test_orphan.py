"""A process of the engine ends when the one that started it is killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

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


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_children_of_a_killed_process_end_at_once(method: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, method], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    children = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]
    limit = time.monotonic() + 60
    while not all(os.getpgid(child.pid) == child.pid for child in children):
        assert time.monotonic() < limit, "a terminal's Ctrl-C still reaches them"
        time.sleep(0.05)
    assert all(is_alive(child) for child in children)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    alive = left_of(children)
    for child in alive:
        child.kill()
    assert not alive


def test_a_process_that_nobody_made_this_way_is_left_alone() -> None:
    assert multiprocessing.parent_process() is None
    end_with_parent()
