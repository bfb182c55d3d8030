"""The matrices that edits change, in vLLM's model: found, refused, and kept unpacked on CPUs.

A layer's projection is ``mlp.down_proj`` (GPT-2's ``mlp.c_proj``): a ``RowParallelLinear`` whose
weight is (d_out, d_in of this rank). On CPUs vLLM packs linear weights when it has loaded them and
leaves ``weight`` empty; what is to be merged into must be kept as it is, from the start.
"""

from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.linear import RowParallelLinear, UnquantizedLinearMethod
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from forward.families import Family, UnsupportedModelError, decoder_layers, mlp_projection

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_INSTEAD = "serve its edits beside the weights, without --merge-layers"


class MergeRefusedError(ValueError):
    """Weights that are not merged into, or factors that do not fit them."""


@contextmanager
def kept_unpacked(family: Family, layers: Collection[int]) -> Generator[None]:
    """While open, a model that vLLM makes keeps the projections of ``layers`` as plain matrices.

    vLLM has a mark for that on a module, read when weights are processed; between the making of
    the model and that, it offers no place to set it.
    """
    original = BaseModelLoader.create_model

    def create_model(self: Any, *args: Any, **kwargs: Any) -> nn.Module:
        model = original(self, *args, **kwargs)
        for index, layer in enumerate(decoder_layers(model, family)):
            if index in layers:
                _mark(layer, family)
        return model

    setattr(BaseModelLoader, original.__name__, create_model)
    try:
        yield
    finally:
        setattr(BaseModelLoader, original.__name__, original)


def projection(model: nn.Module, family: Family, layer: int) -> RowParallelLinear:
    """Return a layer's projection, if its weight can be merged into.

    Raises:
        MergeRefusedError: There is none, or it is quantised, packed or tied.
    """
    layers = decoder_layers(model, family)
    name = f"layer {layer}'s {family.mlp_projection}"
    if not 0 <= layer < len(layers):
        raise MergeRefusedError(
            f"layer {layer} cannot be merged into: the model has {len(layers)}, 0 to "
            f"{len(layers) - 1}; name one of these with --merge-layers"
        )
    found = _projection(layers[layer], family)
    if not isinstance(found, RowParallelLinear):
        raise MergeRefusedError(
            f"{name} cannot be merged into: it is a {type(found).__name__}, not one dense "
            f"projection; {_INSTEAD}"
        )
    weight = found.get_parameter("weight")
    if not _is_plain(found) or weight.dtype not in _DTYPES:
        raise MergeRefusedError(
            f"{name} cannot be merged into: its weights are quantised "
            f"({type(found.quant_method).__name__}, {weight.dtype}), and a sum would be rounded to "
            f"their grid; {_INSTEAD}"
        )
    if weight.shape != (found.output_size, found.input_size_per_partition):
        raise MergeRefusedError(
            f"{name} cannot be merged into: its weight has shape {tuple(weight.shape)}, so it was "
            "packed for this processor; load the model without a loader of its own (--load-format "
            f"auto), or {_INSTEAD}"
        )
    _check_tied(model, name, weight)
    return found


def _mark(layer: nn.Module, family: Family) -> None:
    with suppress(UnsupportedModelError):  # refused by name once the model is there
        module: Any = mlp_projection(layer, family)
        if _is_plain(module):
            module._cpu_skip_gemm_dispatch = True


def _projection(layer: nn.Module, family: Family) -> object:
    """Return the projection's module, below LoRA's if that wraps it."""
    try:
        found = mlp_projection(layer, family)
    except UnsupportedModelError as error:
        raise MergeRefusedError(f"{error}; {_INSTEAD}") from error
    return getattr(found, "base_layer", found)


def _is_plain(module: object) -> bool:
    return type(getattr(module, "quant_method", None)) is UnquantizedLinearMethod


def _check_tied(model: nn.Module, name: str, weight: torch.Tensor) -> None:
    storage = weight.untyped_storage().data_ptr()
    sharing = [
        other
        for other, parameter in model.named_parameters(remove_duplicate=False)
        if parameter.untyped_storage().data_ptr() == storage
    ]
    if len(sharing) > 1:
        raise MergeRefusedError(
            f"{name} cannot be merged into: {' and '.join(sharing)} are one tensor (tied), so both "
            f"would change; {_INSTEAD}"
        )
