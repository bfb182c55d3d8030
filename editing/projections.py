"""The matrices that edits change: the last projection of a layer's MLP.

Weights are seen as (d_out, d_in) whatever the module stores: GPT-2's ``Conv1D`` keeps the
transpose.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from editing.errors import EditError
from forward.families import (
    UnsupportedModelError,
    decoder_layers,
    family_of,
    mlp_projection,
    text_config,
)


class ProjectionError(EditError):
    """A projection that cannot be edited."""


@dataclass(frozen=True, eq=False)
class Projection:
    """One layer's ``down_proj``.

    Attributes:
        layer: The decoder layer, from 0.
        name: The module's dotted name in the model.
        module: ``nn.Linear`` or GPT-2's ``Conv1D``.
        transposed: Whether the module stores (d_in, d_out).
    """

    layer: int
    name: str
    module: nn.Module
    transposed: bool

    @property
    def parameter(self) -> nn.Parameter:
        """The weight as it is stored."""
        return self.module.get_parameter("weight")

    @property
    def matrix(self) -> Tensor:
        """The weight as a view of shape (d_out, d_in)."""
        weight = self.parameter.detach()
        return weight.T if self.transposed else weight


def projection(model: nn.Module, layer: int) -> Projection:
    """Return a layer's editable projection.

    Raises:
        UnsupportedModelError: The family is not supported.
        ProjectionError: There is no such layer, or its weight is quantised or tied.
    """
    family = family_of(model.config)
    layers = decoder_layers(model, family)
    if not 0 <= layer < len(layers):
        raise ProjectionError(
            f"layer {layer} is outside the model: it has {len(layers)}, 0 to {len(layers) - 1}"
        )
    try:
        module = mlp_projection(layers[layer], family)
    except UnsupportedModelError as error:
        raise ProjectionError(str(error)) from error
    name = next(n for n, m in model.named_modules() if m is module)
    _check_quantised(model, module, name)
    found = Projection(layer, name, module, transposed=type(module).__name__ == "Conv1D")
    _check_tied(model, found)
    return found


def projections(model: nn.Module, layers: Iterable[int]) -> dict[int, Projection]:
    """Return the editable projections of several layers.

    Raises:
        ProjectionError: As for ``projection``.
    """
    return {layer: projection(model, layer) for layer in layers}


def _check_quantised(model: nn.Module, module: nn.Module, name: str) -> None:
    quantised = getattr(text_config(model.config), "quantization_config", None) is not None
    weight = getattr(module, "weight", None)
    plain = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    if quantised or not plain or not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise ProjectionError(
            f"{name} is a {type(module).__name__} with quantised weights: keys and deltas are "
            "exact on full-precision weights only; solve on the unquantised checkpoint"
        )
    if weight.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise ProjectionError(
            f"{name} is stored in {weight.dtype}, a quantised format; solve on the unquantised "
            "checkpoint"
        )


def _check_tied(model: nn.Module, found: Projection) -> None:
    storage = found.parameter.untyped_storage().data_ptr()
    sharing = [
        name
        for name, other in model.named_parameters(remove_duplicate=False)
        if other.untyped_storage().data_ptr() == storage and name != f"{found.name}.weight"
    ]
    if sharing and storage:
        raise ProjectionError(
            f"{found.name} is tied to {sharing[0]}: an edit would change both; untie them first"
        )
