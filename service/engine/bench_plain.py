"""Plain vLLM of ``trimtab bench``: its own worker and scheduler, made to wait as ours do.

How the processes wait decides, on some kernels, how fast all of it is (``service.engine.waiting``);
a comparison in which one side waits otherwise would measure that.
"""

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu_worker import Worker

from service.engine.waiting import wait_in_place


class _WaitingScheduler:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        wait_in_place()
        super().__init__(*args, **kwargs)


class _WaitingWorker:
    def init_device(self) -> None:
        wait_in_place()
        super().init_device()  # type: ignore[misc]


class PlainScheduler(_WaitingScheduler, Scheduler):
    """vLLM's synchronous scheduler."""


class AsyncPlainScheduler(_WaitingScheduler, AsyncScheduler):
    """vLLM's asynchronous scheduler."""


class CPUPlainWorker(_WaitingWorker, CPUWorker):
    """vLLM's worker on CPUs."""


class CUDAPlainWorker(_WaitingWorker, Worker):
    """vLLM's worker on CUDA GPUs."""
