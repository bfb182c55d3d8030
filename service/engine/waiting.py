"""How the engine's processes wait for one another: turning in place, never by ``sched_yield``.

vLLM's queue between the engine and its ranks asks the system to run somebody else, a million times
a second, while it waits. Linux that takes a yield as giving up one's share of time (6.18, and the
stable kernels that took the change over) then leaves every other process of a busy machine unserved
for seconds at a time, the server's own among them, and the engine slows down to a third. vLLM's
other way to wait, the one it takes on Pythons whose ``sched_yield`` holds the lock, has neither
trouble (docs/design/0023-waiting.md).
"""

from vllm.distributed import utils


def wait_in_place() -> None:
    """Have this process wait the other way from now on; call it as often as you like."""
    utils.USE_SCHED_YIELD = False
