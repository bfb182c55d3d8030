"""vLLM's schedulers, unchanged but for the block keys that their process must install first."""

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from service.engine import blockkeys


class PolicyScheduler(Scheduler):
    """The synchronous scheduler (CPU has no other)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Install block keys: EngineCore builds its block hasher after its scheduler."""
        blockkeys.install()
        super().__init__(*args, **kwargs)


class AsyncPolicyScheduler(AsyncScheduler):
    """The asynchronous scheduler of CUDA platforms."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Install block keys: EngineCore builds its block hasher after its scheduler."""
        blockkeys.install()
        super().__init__(*args, **kwargs)
