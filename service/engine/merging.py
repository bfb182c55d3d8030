"""Merging on a rank: chosen projections hold their golden bytes plus a sum of edits, exactly.

W = golden + U V, in float64, rounded once to the weight's dtype and written into the storage that
the compiled graph reads. It always starts from the golden bytes, a copy that was made when the
model was loaded: adding and subtracting in bfloat16 would drift, and restoring would be inexact.
Rank r of a row-parallel projection adds its own columns of V; no all-reduce is needed.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from vllm.model_executor.layers.linear import RowParallelLinear

from forward.digest import tensor_digest
from forward.families import Family
from service.engine.projections import MergeRefusedError, projection
from service.engine.wire import parse_factors

ROWS_AT_ONCE = 1024
"""Rows of a sum in float64 at a time: the sum of a large projection is far larger than it."""
N_TOKENS = 8
SEED = 20

_FAULTS = (MergeRefusedError, SafetensorError, KeyError, RuntimeError, MemoryError)
"""What a write can fail with: ours, a blob that is none, and torch's for sizes and memory."""


@dataclass(frozen=True, eq=False)
class _Held:
    """One layer's projection on this rank, and the bytes that it was loaded with.

    Attributes:
        module: Its weight is (d_out, d_in of this rank).
        golden: The same shape and dtype, on the host.
    """

    module: RowParallelLinear
    golden: Tensor

    @property
    def weight(self) -> Tensor:
        """What the forward pass reads now."""
        return self.module.get_parameter("weight").detach()


class MergedWeights:
    """The projections of one rank that may be merged into."""

    def __init__(self, model: nn.Module, family: Family, layers: Iterable[int]) -> None:
        """Keep the golden bytes of ``layers``; what cannot be merged into is a fault of ``report``.

        Nothing is raised: a rank that fails to start says why only in its log.
        """
        self._held: dict[int, _Held] = {}
        self._faults: list[str] = []
        for layer in layers:
            try:
                module = projection(model, family, layer)
            except MergeRefusedError as error:
                self._faults.append(str(error))
            else:
                golden = module.get_parameter("weight").detach().to("cpu", copy=True)
                self._held[layer] = _Held(module, golden)

    def report(self) -> dict[str, Any]:
        """Check every projection and return the faults, and by layer its size and golden digest."""
        with torch.inference_mode():
            checked = [f for k, held in self._held.items() for f in _check(k, held)]
        layers = {
            str(layer): {
                "d_out": held.module.output_size,
                "d_in": held.module.input_size,
                "golden": tensor_digest(held.golden),
            }
            for layer, held in self._held.items()
        }
        return {"faults": [*self._faults, *checked], "layers": layers}

    def write(self, layer: int, blob: bytes) -> dict[str, str]:
        """Hold a layer at golden plus the factors in ``blob``, at golden if it is empty.

        Returns what it was given (``factors``, a digest) and the sha256 of the bytes held now
        (``held``); or ``fault``, with the bytes as they were. Nothing is raised: vLLM would leave
        the other ranks' answers unread, and give them as the next call's.
        """
        try:
            with torch.inference_mode():
                held = self._of(layer)
                new = _sum(held, *parse_factors(blob)) if blob else held.golden
                held.weight.copy_(new)
                return {
                    "factors": hashlib.sha256(blob).hexdigest(),
                    "held": tensor_digest(held.weight),
                }
        except _FAULTS as error:
            return {"fault": str(error) or type(error).__name__}

    def digests(self) -> dict[str, str]:
        """Return the sha256 of the bytes that each layer holds now, read back from the device."""
        return {str(layer): tensor_digest(held.weight) for layer, held in self._held.items()}

    def _of(self, layer: int) -> _Held:
        if layer not in self._held:
            raise MergeRefusedError(
                f"layer {layer} has no golden copy on this rank; name it with --merge-layers"
            )
        return self._held[layer]


def _sum(held: _Held, u: Tensor, v: Tensor) -> Tensor:
    """Return golden + U V of this rank's columns, rounded once; u (d_out, r), v (r, d_in)."""
    module, golden = held.module, held.golden
    shape = (module.output_size, module.input_size)
    if u.dim() != 2 or v.dim() != 2 or (u.shape[0], v.shape[1]) != shape:
        raise MergeRefusedError(
            f"factors of shapes {tuple(u.shape)} and {tuple(v.shape)} do not change a projection "
            f"of shape {shape}: they were made for another model"
        )
    device, n = held.weight.device, module.input_size_per_partition
    columns = v.narrow(1, module.tp_rank * n, n).to(device, torch.float64)
    new = torch.empty_like(held.weight)
    for start in range(0, len(new), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        change = u[rows].to(device, torch.float64) @ columns
        new[rows] = (golden[rows].to(device, torch.float64) + change).to(new.dtype)
    if not bool(torch.isfinite(new).all()):
        raise MergeRefusedError(
            f"the sum is not finite in {new.dtype}: an edit is far too large, or holds no numbers"
        )
    return new


def _check(layer: int, held: _Held) -> list[str]:
    """Check that the forward pass reads the weight: it computes x Wᵀ, and zeros written give 0."""
    module, weight = held.module, held.weight
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(N_TOKENS, weight.shape[1], generator=generator).to(weight.device, weight.dtype)
    expected = x.double() @ held.golden.to(weight.device, torch.float64).T
    found = module.quant_method.apply(module, x, None).double()
    faults: list[str] = []
    bound = 8 * torch.finfo(weight.dtype).eps * weight.shape[1] ** 0.5 * expected.abs().max()
    if not bool(((found - expected).abs() <= bound).all()):
        faults.append(f"layer {layer}: the projection does not compute what its weight says")
    weight.zero_()
    if bool(module.quant_method.apply(module, x, None).any()):
        faults.append(f"layer {layer}: what is written to the weight does not reach the projection")
    weight.copy_(held.golden)
    return faults
