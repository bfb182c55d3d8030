"""No process of ours, nor of plain vLLM in the bench, waits by ``sched_yield``."""

from collections.abc import Callable
from typing import Any

import pytest
from vllm.distributed import utils
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu_worker import Worker

from service.engine import bench_hooks, bench_plain, scheduler, worker


class _ReachedVllmError(Exception):
    """vLLM's own code began."""


@pytest.mark.parametrize(
    ("ours", "base", "method"),
    [
        (scheduler.PolicyScheduler, Scheduler, "__init__"),
        (scheduler.AsyncPolicyScheduler, AsyncScheduler, "__init__"),
        (bench_plain.PlainScheduler, Scheduler, "__init__"),
        (bench_plain.AsyncPlainScheduler, AsyncScheduler, "__init__"),
        (worker.CPUPolicyWorker, CPUWorker, "init_device"),
        (worker.CUDAPolicyWorker, Worker, "init_device"),
        (bench_hooks.CPUHookWorker, CPUWorker, "init_device"),
        (bench_hooks.CUDAHookWorker, Worker, "init_device"),
        (bench_plain.CPUPlainWorker, CPUWorker, "init_device"),
        (bench_plain.CUDAPlainWorker, Worker, "init_device"),
    ],
)
def test_a_process_waits_in_place_before_vllm_begins(
    monkeypatch: pytest.MonkeyPatch, ours: type, base: type, method: str
) -> None:
    def begun(*_: object, **__: object) -> None:
        raise _ReachedVllmError

    monkeypatch.setattr(base, method, begun)
    monkeypatch.setattr(utils, "USE_SCHED_YIELD", True)
    begin: Callable[[Any], None] = getattr(ours, method)
    with pytest.raises(_ReachedVllmError):
        begin(object.__new__(ours))
    assert utils.USE_SCHED_YIELD is False
