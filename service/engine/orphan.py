"""A process of the engine ends when the process that started it does, and not before.

vLLM's EngineCore goes on when its server is killed, and keeps its memory. The system tells a child
nothing of that; a pipe that the parent holds open does, and multiprocessing has made one. The other
way round a terminal's Ctrl-C reaches the engine too, and would end it under a server that drains.
"""

import multiprocessing
import os
import signal
import threading
from multiprocessing import connection

_NAME = "trimtab-orphan-watch"


def end_with_parent() -> None:
    """Have this process killed as soon as its parent is gone; call it as often as you like.

    It gets a process group of its own, which a terminal's signals do not reach. A process that
    multiprocessing did not start has no such parent and is left alone. Rejected: the system's own
    signal at a parent's death. It takes the thread that made the child for the parent, so an engine
    that is made by a passing thread would end with it.
    """
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == _NAME for thread in threading.enumerate()):
        return
    os.setpgid(0, 0)
    arguments = (parent.sentinel,)
    threading.Thread(target=_watch, args=arguments, name=_NAME, daemon=True).start()


def _watch(sentinel: int) -> None:
    connection.wait([sentinel])
    # At once and whatever the process is doing: nobody is left whom an orderly end would serve.
    os.kill(os.getpid(), signal.SIGKILL)
