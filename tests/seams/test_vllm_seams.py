"""The vLLM internals that service/engine/ extends: an upgrade that moves one breaks here.

Each test names who relies on it. docs/design/0002 says how to move to the next vLLM.
"""

import inspect
from types import CodeType

import pytest
import vllm
from vllm.config.scheduler import SchedulerConfig
from vllm.distributed import utils
from vllm.distributed.device_communicators.shm_broadcast import MessageQueue, SpinCondition
from vllm.entrypoints.launchers import app as launcher_app
from vllm.entrypoints.launchers import launcher
from vllm.entrypoints.launchers.api_server import entry
from vllm.model_executor.layers.linear import RowParallelLinear, UnquantizedLinearMethod
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.models import gemma2, gemma3, gpt2, llama, mistral, phi3, qwen2, qwen3
from vllm.v1.core import block_pool, kv_cache_utils
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import core
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.gpu_worker import Worker


def parameters(function: object) -> list[str]:
    """Return the names of a function's parameters."""
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_the_version_is_the_one_that_was_read() -> None:
    """Everything below was read in this version."""
    assert vllm.__version__.startswith("0.32.0")


def test_block_hasher_reads_the_function_that_blockkeys_replaces() -> None:
    """service.engine.blockkeys.install: both modules hold the name, and look it up when called."""
    assert parameters(kv_cache_utils.generate_block_hash_extra_keys) == [
        "request",
        "start_token_idx",
        "end_token_idx",
        "start_mm_idx",
    ]
    hasher = kv_cache_utils.get_request_block_hasher.__code__
    names = {n for code in [hasher, *_nested(hasher)] for n in code.co_names}
    assert "generate_block_hash_extra_keys" in names
    assert hasattr(block_pool, "generate_block_hash_extra_keys")


def test_waiting_asks_a_switch_each_time() -> None:
    """service.engine.waiting: the queue's own way to wait looks the switch up when it is called."""
    assert "USE_SCHED_YIELD" in utils.sched_yield.__code__.co_names
    assert "sched_yield" in SpinCondition.wait.__code__.co_names
    writes = inspect.getsource(MessageQueue.acquire_write)
    assert "sched_yield()" in writes and "os.sched_yield" not in writes


def test_the_scheduler_is_made_before_the_hasher() -> None:
    """service.engine.scheduler: its constructor installs the keys."""
    source = inspect.getsource(core.EngineCore.__init__)
    assert source.index("get_scheduler_cls()") < source.index("get_request_block_hasher(")
    assert "resolve_obj_by_qualname" in inspect.getsource(SchedulerConfig.get_scheduler_cls)
    assert issubclass(AsyncScheduler, Scheduler)


def test_the_runner_prepares_inputs_where_rows_are_filled() -> None:
    """service.engine.runner: positions and request indices are on the device by then."""
    source = inspect.getsource(GPUModelRunner._prepare_inputs)
    for name in ("self.positions[:total_num_scheduled_tokens]", "self.req_indices.copy_to_gpu"):
        assert name in source
    assert parameters(GPUModelRunner._prepare_inputs)[1] == "scheduler_output"
    step = inspect.getsource(GPUModelRunner.execute_model)
    guard, prepare = step.index("synchronize_input_prep()"), step.index("self._prepare_inputs(")
    assert guard < prepare < step.index("self._model_forward(")


def test_the_runner_is_made_in_init_device() -> None:
    """service.engine.worker: the runner's class is changed right after."""
    assert "self.model_runner" in inspect.getsource(CPUWorker.init_device)
    assert "model_runner" in inspect.getsource(Worker._init_workspace_and_model_runner)
    assert issubclass(CPUWorker, Worker)


@pytest.mark.parametrize(
    "layer",
    [
        llama.LlamaDecoderLayer,
        qwen2.Qwen2DecoderLayer,
        qwen3.Qwen3DecoderLayer,
        mistral.MistralDecoderLayer,
        gemma2.Gemma2DecoderLayer,
        gemma3.Gemma3DecoderLayer,
    ],
    ids=lambda layer: layer.__name__,
)
def test_pair_layers_take_the_pair(layer: type) -> None:
    """service.engine.sites.PairLayer."""
    assert parameters(layer.forward)[1:4] == ["positions", "hidden_states", "residual"]


def test_plain_layers_take_the_stream() -> None:
    """service.engine.sites.PlainLayer; Phi-3 is Llama's class."""
    assert parameters(gpt2.GPT2Block.forward)[1] == "hidden_states"
    assert issubclass(phi3.Phi3ForCausalLM, llama.LlamaForCausalLM)


def test_generate_and_rpc_are_what_the_engine_calls() -> None:
    """service.engine.generate and service.engine.engine."""
    assert parameters(AsyncLLM.generate)[1:4] == ["prompt", "sampling_params", "request_id"]
    assert parameters(AsyncLLM.collective_rpc)[1:] == ["method", "timeout", "args", "kwargs"]


def test_the_launcher_composes_as_vllm_does() -> None:
    """service.engine.launcher rebuilds vLLM's own few lines of start-up."""
    source = inspect.getsource(entry.build_and_serve)
    for call in (
        "build_app(args, supported_tasks, model_config)",
        "init_app_state(",
        "serve_http(",
    ):
        assert call in source
    assert "app.state" in inspect.getsource(launcher.serve_http)
    assert parameters(launcher_app.build_app) == ["args", "supported_tasks", "model_config"]


def test_a_chunk_takes_its_draw_back_by_the_offset() -> None:
    """service.engine.seeded: CPU generators have no offset, so ours must."""
    assert "gen.set_offset(gen.get_offset()" in inspect.getsource(GPUModelRunner)


def test_a_projection_can_be_kept_unpacked_before_weights_are_processed() -> None:
    """service.engine.projections.kept_unpacked: the mark, and where there is time to set it."""
    load = inspect.getsource(BaseModelLoader.load_model)
    assert load.index("self.create_model(") < load.index("process_weights_after_loading(")
    assert DefaultModelLoader.create_model is BaseModelLoader.create_model
    source = inspect.getsource(UnquantizedLinearMethod.process_weights_after_loading)
    assert "_cpu_skip_gemm_dispatch" in source
    columns = inspect.getsource(RowParallelLinear.weight_loader)
    assert "start_idx = self.tp_rank * shard_size" in columns


def test_a_pause_does_not_wait_for_preempted_requests() -> None:
    """service.engine.door: why it is there; were they counted, vLLM's pause would do alone."""
    assert parameters(AsyncLLM.pause_generation)[1:] == ["mode", "clear_cache"]
    counted = inspect.getsource(Scheduler.get_num_unfinished_requests)
    assert "num_waiting = len(self.kv_holding_waiting)" in counted
    preempted = inspect.getsource(Scheduler._preempt_request)
    assert "self.waiting.prepend_request(request)" in preempted


def test_a_failing_rank_leaves_answers_unread() -> None:
    """service.engine.merging: why a worker tells a fault and raises nothing."""
    source = inspect.getsource(MultiprocExecutor.collective_rpc)
    reading = source[source.index("for mq in response_mqs") :]
    assert reading.index("raise RuntimeError(") < reading.index("responses.append(result)")


def _nested(code: CodeType) -> list[CodeType]:
    inner = [c for c in code.co_consts if inspect.iscode(c)]
    return inner + [c for i in inner for c in _nested(i)]
