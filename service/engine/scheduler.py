"""vLLM's schedulers, unchanged but for what their process must do first.

It installs block keys, sees to it that it ends with its server, and chooses how it waits: where
ranks have processes of their own, no worker of ours runs in this one.
"""

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from service.engine import blockkeys
from service.engine.orphan import end_with_parent
from service.engine.waiting import wait_in_place


class PolicyScheduler(Scheduler):
    """The synchronous scheduler (CPU has no other)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Install block keys: EngineCore builds its block hasher after its scheduler."""
        end_with_parent()
        wait_in_place()
        blockkeys.install()
        super().__init__(*args, **kwargs)


class AsyncPolicyScheduler(AsyncScheduler):
    """The asynchronous scheduler of CUDA platforms."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Install block keys: EngineCore builds its block hasher after its scheduler."""
        end_with_parent()
        wait_in_place()
        blockkeys.install()
        super().__init__(*args, **kwargs)
