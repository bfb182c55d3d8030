"""One rank's merging on vLLM's own projections: the sum, the columns of a rank, what is refused."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import (
    cleanup_dist_env_and_memory,
    init_distributed_environment,
    initialize_model_parallel,
)
from vllm.model_executor.layers.linear import RowParallelLinear
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

from forward.digest import tensor_digest
from forward.families import FAMILIES
from service.engine.merging import ROWS_AT_ONCE, MergedWeights
from service.engine.projections import MergeRefusedError, projection
from service.engine.wire import dump_factors

LLAMA = FAMILIES["llama"]
D_OUT, D_IN = ROWS_AT_ONCE + 300, 192
RANK = 5


@pytest.fixture(autouse=True, scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """vLLM's layers ask for the ranks' groups when they are made: one rank, in this process."""
    meeting = f"file://{tmp_path_factory.mktemp('ranks') / 'meeting'}"
    with set_current_vllm_config(VllmConfig()):
        init_distributed_environment(1, 0, meeting, 0, "gloo")
        initialize_model_parallel(backend="gloo")
        yield
    cleanup_dist_env_and_memory()


def model(dtype: torch.dtype = torch.float32, d_in: int = D_IN, packs: bool = False) -> Any:
    """Return three layers of which only the projection is there, processed as vLLM does."""
    torch.manual_seed(0)
    layers = nn.ModuleList()
    for _ in range(3):
        linear = RowParallelLinear(d_in, D_OUT, bias=False, params_dtype=dtype, disable_tp=True)
        linear.get_parameter("weight").data.normal_()
        linear._cpu_skip_gemm_dispatch = not packs  # type: ignore[assignment]
        linear.quant_method.process_weights_after_loading(linear)
        layers.append(_holder(mlp=_holder(down_proj=linear)))
    return _holder(model=_holder(layers=layers))


def factors(scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    u = scale * torch.randn(D_OUT, RANK, generator=generator)
    return u, torch.randn(RANK, D_IN, generator=generator)


def down_proj(whole: Any, layer: int) -> Any:
    return whole.model.layers[layer].mlp.down_proj


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_sum_is_rounded_once_and_in_place(dtype: torch.dtype) -> None:
    whole = model(dtype)
    weight = down_proj(whole, 1).weight
    golden, place = weight.detach().clone(), weight.data_ptr()
    merged = MergedWeights(whole, LLAMA, [1])
    assert merged.report()["faults"] == []
    u, v = factors(1e-3)  # so small that adding in bfloat16 would leave most entries as they are
    told = merged.write(1, dump_factors(u, v))
    expected = (golden.double() + u.double() @ v.double()).to(dtype)
    assert torch.equal(weight, expected) and not torch.equal(weight, golden)
    assert told["held"] == tensor_digest(expected) == merged.digests()["1"]
    assert (weight.data_ptr(), down_proj(whole, 1).weight is weight) == (place, True)
    merged.write(1, dump_factors(2 * u, v))
    assert merged.write(1, dump_factors(u, v)) == told
    assert merged.write(1, b"")["held"] == tensor_digest(golden)
    assert torch.equal(weight, golden)


def test_ranks_add_their_own_columns() -> None:
    """Two ranks' halves, side by side, are the whole matrix with the whole change."""
    whole = down_proj(model(), 0).weight.detach().clone()
    u, v = factors()
    halves = list[torch.Tensor]()
    for rank in range(2):
        part = model(d_in=D_IN // 2)
        linear = down_proj(part, 0)
        linear.input_size, linear.tp_rank, linear.tp_size = D_IN, rank, 2
        linear.weight.data.copy_(whole.chunk(2, dim=1)[rank])
        merged = MergedWeights(part, LLAMA, [0])
        assert merged.report()["layers"]["0"]["d_in"] == D_IN
        assert "fault" not in merged.write(0, dump_factors(u, v))
        halves.append(linear.weight.detach())
    expected = (whole.double() + u.double() @ v.double()).float()
    assert torch.allclose(torch.cat(halves, 1), expected, rtol=1e-6, atol=0)


def test_a_fault_leaves_the_bytes() -> None:
    merged = MergedWeights(model(torch.float16), LLAMA, [0, 2])
    u, v = factors()
    merged.write(2, dump_factors(u, v))
    before = merged.digests()
    for layer, blob, why in (
        (1, dump_factors(u, v), "layer 1 has no golden copy"),
        (2, dump_factors(u[1:], v), "made for another model"),
        (2, dump_factors(u[0], v[:, 0]), "made for another model"),
        (2, dump_factors(u[:, :3], v), "mat1 and mat2"),
        (2, dump_factors(1e5 * u, v), "not finite in torch.float16"),
        (2, dump_factors(torch.full_like(u, torch.nan), v), "not finite"),
        (2, b"no safetensors", "header"),
    ):
        assert why in merged.write(layer, blob)["fault"]
    assert merged.digests() == before


def _quantise(whole: Any) -> None:
    down_proj(whole, 1).quant_method = UnquantizedEmbeddingMethod()


def _store_in_eight_bits(whole: Any) -> None:
    linear = down_proj(whole, 1)
    linear.weight = nn.Parameter(linear.weight.detach().to(torch.float8_e4m3fn), False)


def _tie(whole: Any) -> None:
    down_proj(whole, 2).weight = down_proj(whole, 1).weight


def _tie_by_storage(whole: Any) -> None:
    down_proj(whole, 2).weight.data = down_proj(whole, 1).weight.data


def _replace(whole: Any) -> None:
    whole.model.layers[1].mlp.down_proj = nn.Linear(D_IN, D_OUT)


def _take_away(whole: Any) -> None:
    del whole.model.layers[1].mlp.down_proj


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_quantise, "its weights are quantised \\(UnquantizedEmbeddingMethod"),
        (_store_in_eight_bits, "torch.float8_e4m3fn"),
        (_tie, "are one tensor"),
        (_tie_by_storage, "are one tensor"),
        (_replace, "it is a Linear, not one dense projection"),
        (_take_away, "has no mlp.down_proj"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_merged_into_is_told(spoil: Callable[[Any], None], why: str) -> None:
    whole = model()
    spoil(whole)
    with pytest.raises(MergeRefusedError, match=f"{why}.*without --merge-layers"):
        projection(whole, LLAMA, 1)
    [fault] = MergedWeights(whole, LLAMA, [0, 1]).report()["faults"]
    assert "without --merge-layers" in fault


def test_a_layer_outside_and_a_packed_one_are_told() -> None:
    whole = model()
    with pytest.raises(MergeRefusedError, match="the model has 3, 0 to 2"):
        projection(whole, LLAMA, 3)
    with pytest.raises(MergeRefusedError, match=r"shape \(0,\), so it was packed"):
        projection(model(packs=True), LLAMA, 0)


def test_the_boot_check_sees_a_weight_that_nothing_reads() -> None:
    whole = model()
    linear = down_proj(whole, 1)
    golden = linear.weight.detach().clone()
    linear.cpu_linear = lambda x, weight, bias: x @ golden.T
    [fault] = MergedWeights(whole, LLAMA, [0, 1]).report()["faults"]
    assert fault == "layer 1: what is written to the weight does not reach the projection"
    linear.cpu_linear = lambda x, weight, bias: 1.01 * x @ weight.T
    [fault] = MergedWeights(whole, LLAMA, [0, 1]).report()["faults"]
    assert fault == "layer 1: the projection does not compute what its weight says"
    assert torch.equal(linear.weight, golden)


def _holder(**children: nn.Module) -> nn.Module:
    holder = nn.Module()
    for name, child in children.items():
        holder.add_module(name, child)
    return holder
