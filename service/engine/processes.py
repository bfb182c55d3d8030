"""Several API processes of one server: started, watched and ended together.

This process serves nothing. It starts the engine and the API processes, as vLLM's own
``run_multi_api_server`` does, which takes no function for the processes to run. A server goes on
whole or not at all: when one of its processes ends by itself, whatever its last word, the others
are ended too, and the server fails. So nobody's rows are ever freed under requests of a process
that is gone.
"""

import logging
import multiprocessing
import signal
import socket
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import uvloop
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.logger import configure_logging
from vllm.usage.usage_lib import UsageContext
from vllm.utils.system_utils import decorate_logs, set_process_title
from vllm.v1.engine.utils import bind_engine_zmq_listeners, launch_core_engines
from vllm.v1.executor import Executor
from vllm.v1.metrics.prometheus import setup_multiprocess_prometheus
from vllm.v1.utils import APIServerProcessManager

from forward.fingerprint import ModelFingerprint
from forward.hookpoints import HookPoint
from forward.site import Capacity
from service.engine.book_wire import PATH_NAME
from service.engine.boot_refusals import BOOT_REFUSALS
from service.engine.orphan import end_with_parent
from service.engine.refusals import refuse_config
from service.engine.seat import Seat
from service.engine.serving import serve
from service.engine.stopping import LAST_WORDS_SECONDS, ProcessDiedError
from service.errors import ServiceError
from service.prepare import Prepared, reopened
from service.prompting import Prompting
from service.settings import Settings

END_SECONDS = 10.0 + LAST_WORDS_SECONDS
"""How long processes may take to end beside what is under way."""
LOOK_SECONDS = 0.5
FAIL_SECONDS = 5.0
"""How long they may take when the server has failed."""

logger = logging.getLogger(__name__)

Bound = tuple[str, socket.socket]


@dataclass(frozen=True, slots=True)
class Brief:
    """What an API process is told: all of it plain values."""

    settings: Settings
    checkpoint: Path
    model: ModelFingerprint
    capacities: Mapping[HookPoint, Capacity]
    gates: int
    prompting: Prompting

    @classmethod
    def of(cls, prepared: Prepared) -> "Brief":
        """Return what another process needs; an ephemeral store is found by its folder."""
        settings = prepared.settings
        if settings.state is None:
            settings = replace(settings, state=str(prepared.store.artifacts_folder.parent))
        return cls(
            settings,
            prepared.checkpoint,
            prepared.model,
            prepared.capacities,
            prepared.gates,
            prepared.prompting,
        )

    def prepared(self) -> Prepared:
        """Return what the process serves with, its own connection to the store among it."""
        return reopened(
            self.settings,
            self.checkpoint,
            self.model,
            dict(self.capacities),
            self.gates,
            self.prompting,
        )


def serve_process(
    brief: Brief,
    books: Path,
    words: Connection,
    address: str,
    sock: socket.socket,
    args: Namespace,
    config: Mapping[str, Any],
) -> None:
    """Be one API process; ``words`` takes what is to be announced."""
    end_with_parent()  # and a terminal's Ctrl-C is for the supervisor, which hands it on
    seat = Seat.of(config, books)
    set_process_title("APIServer", str(seat.index))
    decorate_logs()
    if getattr(args, "logging_config", None) is not None:
        configure_logging(args.logging_config)
    try:
        uvloop.run(serve(brief.prepared(), args, words.send, (address, sock), seat))
    except (ServiceError, *BOOT_REFUSALS) as error:
        logger.critical("API process %d does not serve: %s", seat.index, error)
        sys.exit(1)


def supervise(
    prepared: Prepared, args: Namespace, announce: Callable[[str], None], bound: Bound
) -> None:
    """Start an engine and its API processes and stay until they have ended.

    Raises:
        RefusedOptionError: vLLM's resolved configuration is not proven.
        ProcessDiedError: One of them ended by itself, or did not end well.
    """
    setup_multiprocess_prometheus()  # before any process imports prometheus_client
    words, told = multiprocessing.Pipe(duplex=False)
    with ExitStack() as stack:
        stack.callback(prepared.store.close)
        stack.callback(bound[1].close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trimtab-")))
        target = partial(serve_process, Brief.of(prepared), folder / PATH_NAME, told)
        watch = Watch(prepared.settings.drain_seconds)
        watch.heed_signals()
        servers, others = _start(args, bound, target, stack)
        watch.stay(servers, others, words, announce)


def _start(
    args: Namespace, bound: Bound, target: Callable[..., None], stack: ExitStack
) -> tuple[Sequence[BaseProcess], Sequence[BaseProcess]]:
    """Return the API processes and those of the engine, once it runs; ``stack`` ends them."""
    count: int = args.api_server_count
    made = AsyncEngineArgs.from_cli_args(args)
    made._api_process_count, made._api_process_rank = count, -1  # type: ignore[attr-defined]
    config = made.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    refuse_config(config)
    listeners = bind_engine_zmq_listeners(config, count)
    # Kept for as long as the server is: when they are collected, the paths that the engine is still
    # to connect to are removed, and whether it did before is chance.
    stack.callback(listeners.cleanup)
    executor = Executor.get_class(config)
    statistics = not made.disable_log_stats
    with launch_core_engines(config, executor, statistics, listeners.addresses) as launch:
        engines: Any = launch.engine_manager
        stack.callback(engines.shutdown)
        others = list[BaseProcess](engines.processes)
        published = None
        if launch.coordinator is not None:
            stack.callback(launch.coordinator.shutdown)
            others.append(launch.coordinator.proc)
            published = launch.coordinator.get_stats_publish_address()
        servers = APIServerProcessManager(
            *(*bound, args, count, listeners.inputs, listeners.outputs),
            target_server_fn=target,
            stats_update_address=published,
            tensor_queue=launch.tensor_queue,
        )
        stack.callback(servers.shutdown, FAIL_SECONDS)
        launch.watched_frontend_processes = servers.processes
    return servers.processes, others


class Watch:
    """Waits for the end of a server's processes, and hands signals on to those that serve."""

    def __init__(self, drain_seconds: float) -> None:
        """Give what is under way at a signal ``drain_seconds``."""
        self._drain_seconds = drain_seconds
        self._servers: Sequence[BaseProcess] = ()
        self._deadline: float | None = None

    def heed_signals(self) -> None:
        """Take SIGTERM and SIGINT over; while the server starts they end it at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def stay(
        self,
        servers: Sequence[BaseProcess],
        others: Sequence[BaseProcess],
        words: Connection,
        announce: Callable[[str], None],
    ) -> None:
        """Return once all servers have ended because they were told to.

        Raises:
            ProcessDiedError: One ended without that, or not well, or not in time.
        """
        self._servers = servers
        by_sentinel = {process.sentinel: process for process in (*servers, *others)}
        while any(process.sentinel in by_sentinel for process in servers):
            # A signal does not end a wait, and may have set a deadline meanwhile.
            for ready in connection.wait([*by_sentinel, words], LOOK_SECONDS):
                if ready is words:
                    announce(words.recv())
                    continue
                process = by_sentinel.pop(int(ready))  # type: ignore[arg-type] -- a sentinel
                self._check(process)
            if self._deadline is not None and time.monotonic() >= self._deadline:
                raise ProcessDiedError("API processes did not end in time and are killed")

    def _check(self, process: BaseProcess) -> None:
        process.join()
        code = process.exitcode
        if self._deadline is None or code:
            raise ProcessDiedError(
                f"{process.name} ended with exit code {code}, and the server with it: it goes on "
                "whole or not at all; the log says why"
            )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._servers:
            raise SystemExit(128 + number)
        if self._deadline is None:
            self._deadline = time.monotonic() + self._drain_seconds + END_SECONDS
        for process in self._servers:
            process.terminate()
