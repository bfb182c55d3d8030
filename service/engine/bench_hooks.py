"""The baseline of ``trimtab bench``: steering by Python hooks on an uncompiled model.

This is how steering is commonly added to a served model: a forward hook on each steered layer
walks over the requests of the batch and changes each one's tokens. It computes what the tables
compute, so that only the way differs; it serves no request outside the bench.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from forward.families import decoder_layers, model_shape
from forward.hookpoints import HookPoint
from forward.program import Program, SiteContent
from service.engine.bench_plain import CPUPlainWorker, CUDAPlainWorker

POLICY_KEY = "trimtab_bench"
"""Key in a request's ``extra_args`` of the index of its policy."""


@dataclass(frozen=True, eq=False)
class HookedContent:
    """One policy at one layer: an offset (d,), and per column (low, high, linear, coefficient)."""

    offset: Tensor
    units: Tensor
    parameters: Tensor

    @classmethod
    def of(cls, content: SiteContent) -> "HookedContent":
        """Take over the content of a site."""
        parameters = [(c.low, c.high, c.linear, scale) for c, scale in content.columns]
        offset = content.offset
        if offset is None:
            raise ValueError("the baseline's policies have an offset")
        units = torch.stack([column.write for column, _ in content.columns])
        return cls(offset, units, torch.tensor(parameters))

    def apply(self, hidden: Tensor, residual: Tensor) -> None:
        """Steer one request's tokens in place; the stream is the sum of both."""
        stream = (hidden + residual).float()
        delta = self.offset.expand_as(stream).clone()
        for unit, (low, high, linear, scale) in zip(
            self.units, self.parameters.tolist(), strict=True
        ):
            score = stream @ unit
            amount = scale * (linear * score + score.clamp(low, high) - score)
            delta += amount.unsqueeze(-1) * unit
        hidden += delta.to(hidden.dtype)


def dump(programs: list[Program]) -> bytes:
    """Pack programs that treat all tokens alike for ``bench_policies``."""
    tensors: dict[str, Tensor] = {}
    for index, program in enumerate(programs):
        for point, content in program.contents[0].sites.items():
            hooked = HookedContent.of(content)
            tensors[f"{index}/{point}/offset"] = hooked.offset
            tensors[f"{index}/{point}/units"] = hooked.units
            tensors[f"{index}/{point}/parameters"] = hooked.parameters
    return save(tensors)


def parse(blob: bytes, device: torch.device) -> dict[HookPoint, dict[int, HookedContent]]:
    """Read what ``dump`` packed, by layer and policy."""
    fields: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in load(blob).items():
        index, point, name = key.split("/")
        fields.setdefault((point, index), {})[name] = tensor.to(device)
    parsed: dict[HookPoint, dict[int, HookedContent]] = {}
    for (point, index), tensors in fields.items():
        parsed.setdefault(HookPoint.parse(point), {})[int(index)] = HookedContent(**tensors)
    return parsed


class _HookWorker:
    """What both workers add: the call that brings the policies and puts the hooks in."""

    model_runner: Any
    model_config: Any

    def bench_policies(self, blob: bytes) -> int:
        """Hook every layer that a policy writes at and return how many."""
        shape = model_shape(self.model_config.hf_text_config)
        layers = decoder_layers(self.model_runner.get_model(), shape.family)
        policies = parse(bytes(blob), self.model_runner.device)
        for point, contents in policies.items():
            layers[point.layer].register_forward_hook(partial(self._steer, contents))
        return len(policies)

    def _steer(
        self,
        policies: Mapping[int, HookedContent],
        _layer: nn.Module,
        _inputs: Any,
        output: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        runner = self.model_runner
        hidden, residual = output
        starts = runner.query_start_loc.np
        for index, request_id in enumerate(runner.input_batch.req_ids):
            extra = runner.requests[request_id].sampling_params.extra_args or {}
            if POLICY_KEY in extra:
                tokens = slice(int(starts[index]), int(starts[index + 1]))
                policies[extra[POLICY_KEY]].apply(hidden[tokens], residual[tokens])
        return hidden, residual


class CPUHookWorker(_HookWorker, CPUPlainWorker):
    """The baseline's worker on CPUs."""


class CUDAHookWorker(_HookWorker, CUDAPlainWorker):
    """The baseline's worker on CUDA GPUs."""
