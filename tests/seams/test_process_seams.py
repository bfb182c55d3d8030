"""What several API processes and engines rely on inside vLLM."""

import inspect
from collections.abc import Callable
from typing import Any

from vllm.engine.protocol import EngineClient
from vllm.entrypoints.cli import serve
from vllm.entrypoints.launchers.api_server import entry
from vllm.entrypoints.launchers.launcher import NoSignalServer, serve_http
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.engine.core_client import AsyncMPClient, DPLBAsyncMPClient
from vllm.v1.engine.utils import EngineZmqListeners
from vllm.v1.utils import APIServerProcessManager


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_supervisor_starts_what_vllm_starts() -> None:
    """service.engine.processes._start, with a function of ours in the processes."""
    assert parameters(APIServerProcessManager)[:8] == [
        *("listen_address", "sock", "args", "num_servers", "input_listeners", "output_listeners"),
        *("target_server_fn", "stats_update_address"),
    ]
    run = inspect.getsource(serve.run_multi_api_server)
    order = (
        "setup_multiprocess_prometheus()",
        "engine_args._api_process_count = num_api_servers",
        "engine_args._api_process_rank = -1",
        "bind_engine_zmq_listeners(vllm_config, num_api_servers)",
        "vllm_config, executor_class, log_stats, addresses",
        "engine_launch.watched_frontend_processes = api_server_manager.processes",
    )
    places = [run.index(step) for step in order]
    assert places == sorted(places)
    assert "target_server_fn" not in run, "were there one, this would be shorter"


def test_listeners_that_are_not_kept_are_removed() -> None:
    """service.engine.processes._start keeps them: the engine connects to their paths later."""
    assert "self.cleanup()" in inspect.getsource(EngineZmqListeners.__del__)


def test_a_process_reaches_an_engine_that_another_started() -> None:
    """service.engine.seat.Seat.of: what vLLM's own worker process does with its configuration."""
    source = inspect.getsource(entry.run_server_worker)
    assert 'client_config.pop("api_server_loads")' in source
    assert 'peer_loads = (loads, client_config["client_index"])' in source
    assert "client_config" in parameters(entry.build_async_engine_client)
    assert "peer_loads" in parameters(serve_http)
    assert "_least_loaded" in vars(NoSignalServer)


def test_every_engine_answers_for_itself() -> None:
    """service.engine.engine.PolicyEngine._call: why not ``collective_rpc``, and what instead."""
    first = inspect.getsource(DPLBAsyncMPClient.call_utility_async)
    assert "(await self.call_utility_all_async(method, *args))[0]" in first
    every = inspect.getsource(AsyncMPClient.call_utility_all_async)
    assert "for engine in self.core_engines" in every
    rpc = inspect.getsource(AsyncMPClient.collective_rpc_async)
    assert '"collective_rpc", method, timeout, args, kwargs' in rpc
    assert "data_parallel_rank" in parameters(AsyncLLM.generate)


def test_what_one_process_sends_an_engine_takes_in_order() -> None:
    """service.engine.book_client: an answer to what came after an abort tells that it came."""
    assert inspect.iscoroutinefunction(EngineClient.is_paused)
    told = inspect.getsource(AsyncMPClient.is_scheduler_paused_async)
    assert 'call_utility_consensus_async("is_scheduler_paused")' in told
    source = inspect.getsource(EngineCoreProc.process_input_sockets)
    aborted = source[source.index("EngineCoreRequestType.ABORT:") :]
    assert "self.input_queue.put_nowait((request_type, request))" in aborted
    given_up = inspect.getsource(AsyncLLM.generate)
    assert "except (asyncio.CancelledError, GeneratorExit):" in given_up
    assert "await self.abort(q.request_id, internal=True)" in given_up


def test_engines_without_experts_know_nothing_of_each_other() -> None:
    """service.engine.refusals.refuse_config: why experts are refused with several engines."""
    source = inspect.getsource(EngineCoreProc.run_engine_core)
    assert "if data_parallel and vllm_config.model_config.is_moe:" in source
    assert "reconfigure_for_independent_dp_rank()" in source
