"""The vLLM internals that adapters beside policies rely on; see ``service.engine.adapters``."""

import inspect

import torch
from vllm.config import CompilationMode
from vllm.entrypoints.serve.engine.serving import BaseServing
from vllm.lora.layers import RowParallelLinearWithLoRA
from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.layers.logits_processor import LogitsProcessorWithLoRA
from vllm.lora.lora_weights import LoRALayerWeights
from vllm.lora.model_manager import LoRAModelManager
from vllm.lora.ops.torch_ops.lora_ops import bgmv_shrink
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.platforms.cpu import CpuPlatform
from vllm.sampling_params import SamplingParams
from vllm.v1.core import kv_cache_utils
from vllm.v1.request import Request


def test_tokens_without_an_adapter_read_the_last_place_on_cpus() -> None:
    """service.engine.adapters.keep_adapters keeps it empty; once it fails, that is not needed."""
    weights = torch.tensor([[[1.0]], [[10.0]], [[100.0]]])  # (places, rank, d_in)
    found = torch.zeros(2, 1)
    bgmv_shrink(torch.ones(2, 1), weights, found, torch.tensor([0, -1]))
    assert found.tolist() == [[1.0], [100.0]]


def test_places_are_filled_from_the_first_and_warmed_up_with_zeros() -> None:
    """service.engine.adapters.keep_adapters: the last is never another's."""
    source = inspect.getsource(LoRAModelManager.activate_adapter)
    assert "enumerate(self.lora_index_to_id)" in source and "if lora_id is None" in source
    layer = LoRALayerWeights.create_dummy_lora_weights("m", 2, 2, 1, torch.float32, "cpu")
    assert not layer.lora_a.any() and not layer.lora_b.any()


def test_an_adapter_is_read_again_only_after_it_was_dropped() -> None:
    """service.engine.adapters: it stays what it was, since none is dropped."""
    source = inspect.getsource(LRUCacheWorkerLoRAManager.add_adapter)
    read = source.index("self._load_adapter(")
    assert source.index("not in self.list_adapters()") < read
    assert "> self._adapter_manager.capacity" in source


def test_the_head_for_adapters_needs_as_many_rows_as_were_sampled() -> None:
    """service.engine.adapters.refuse_prompt_logprobs: a prompt's logits have more."""
    assert "add_lora_logits(" in inspect.getsource(LogitsProcessorWithLoRA._get_logits)
    assert "self.sampler_indices" in inspect.getsource(PunicaWrapperCPU.add_lora_logits)


def test_adapters_add_to_the_part_before_it_is_reduced() -> None:
    """service.engine.edited.EditedAdapted extends ``apply``."""
    source = inspect.getsource(RowParallelLinearWithLoRA.forward)
    assert source.index("self.apply(") < source.index("tensor_model_parallel_all_reduce(")
    assert RowParallelLinearWithLoRA.apply is BaseLinearLayerWithLoRA.apply


def test_cpus_compile_no_adapters() -> None:
    """service.engine.refusals: on a GPU --enforce-eager is asked for."""
    source = inspect.getsource(CpuPlatform.check_and_update_config)
    found = source.index("if vllm_config.lora_config is not None:")
    assert "compilation_config.mode = CompilationMode.NONE" in source[found : found + 140]
    assert CompilationMode.NONE.value == 0


def test_messages_choose_adapters_by_what_is_in_them() -> None:
    """service.engine.adapters.names_content: such names are refused."""
    source = inspect.getsource(BaseServing._get_message_types)
    assert '.split("_")[0]' in source
    chosen = inspect.getsource(BaseServing._get_active_default_mm_loras)
    assert "lora.lora_name in message_types" in chosen


def test_a_blocks_key_has_the_adapters_name_and_path() -> None:
    """service.engine.blockkeys adds its own key to it."""
    keys = [
        kv_cache_utils.generate_block_hash_extra_keys(_request(name, path), 0, 2, 0)[0]
        for name, path in (("a", "/a"), ("b", "/a"), ("a", "/b"), (None, ""))
    ]
    assert len(set(keys)) == 4 and keys[-1] is None


def _request(name: str | None, path: str) -> Request:
    adapter = LoRARequest(name, 1, path) if name is not None else None
    return Request(
        request_id="r",
        prompt_token_ids=[1, 2],
        sampling_params=SamplingParams(),
        pooling_params=None,
        lora_request=adapter,
    )
