"""LoRA adapters on every projection: written as PEFT writes them, and merged by hand."""

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from vllm.lora.request import LoRARequest

from editing.delta import EMPTY, LowRankDelta, Merged
from editing.export import export_peft
from forward.hookpoints import HookPoint
from forward.huggingface import SteeredModel, Steering
from forward.program import Program, RowContent
from forward.site import Capacity
from tests.editing.test_lower import delta_of, program_of
from tests.engine.live import EAGER, Ask, LiveEngine
from tests.engine.programs import CAPACITIES, POINTS, program
from tests.models import prompt

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EDITED = (0, 2)
SIZES = CAPACITIES | {HookPoint("mlp", layer): Capacity(160, 32, 32) for layer in EDITED}
NAMES = ("one", "other")
EXPORTED = "exported"
OPTIONS = (
    *(*EAGER, "--max-num-batched-tokens", "16", "--max-num-seqs", "16"),  # prompts are cut
    *("--enable-lora", "--max-lora-rank", "8", "--lora-modules"),
)
LOGITS = {"logprobs": -1}
STRENGTH = 0.7
LENGTH, TOKENS = 40, 6


@dataclass(frozen=True)
class Adapter:
    """Factors by module name: (A (r, d_in), B (d_out, r)); they add alpha / r times B A."""

    factors: Mapping[str, tuple[Tensor, Tensor]]
    rank: int
    alpha: int

    def save(self, folder: Path) -> Path:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``."""
        folder.mkdir()
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": list(PROJECTIONS),
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))
        tensors: dict[str, Tensor] = {}
        for name, (a, b) in self.factors.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = a
            tensors[f"base_model.model.{name}.lora_B.weight"] = b
        save_file(tensors, folder / "adapter_model.safetensors")
        return folder

    @contextmanager
    def merged(self, model: Any) -> Generator[None]:
        """While open, the adapter is in the model's weights."""
        saved: list[tuple[Tensor, Tensor]] = []
        with torch.no_grad():
            for name, (a, b) in self.factors.items():
                weight = model.get_submodule(name).weight
                saved.append((weight, weight.clone()))
                weight += (self.alpha / self.rank * b.double() @ a.double()).float()
            try:
                yield
            finally:
                for weight, before in saved:
                    weight.copy_(before)


def random_adapter(model: Any, seed: int, rank: int = 4, alpha: int = 6) -> Adapter:
    """Return an adapter of every projection that moves logits far more than rounding does."""
    generator = torch.Generator().manual_seed(seed)
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in model.named_modules():
        if name.endswith(PROJECTIONS):
            d_out, d_in = module.weight.shape
            a = torch.randn(rank, d_in, generator=generator) / d_in**0.5
            factors[name] = a, 0.2 * torch.randn(d_out, rank, generator=generator)
    return Adapter(factors, rank, alpha)


def beside(edits: Program, steering: Program) -> Program:
    """Return one program that edits and steers."""
    edited = edits.contents[0].sites  # the same in every region
    contents = tuple(RowContent({**c.sites, **edited}) for c in steering.contents)
    return Program(steering.regions, contents)


@dataclass(frozen=True)
class Case:
    """A request to an adapter or none, under a program or none; and what that is offline."""

    adapter: str | None
    program: Program | None
    delta: LowRankDelta
    steering: Steering | None = None

    @property
    def is_changed(self) -> bool:
        """Whether it differs from the base."""
        return self.adapter is not None or self.program is not None


BASE = Case(None, None, EMPTY)


def exported(model: Any) -> LowRankDelta:
    """Return the edit that is served as an adapter too."""
    return delta_of(model, seed=6)


def cases(model: Any) -> list[Case]:
    """Return every way to put two adapters or none beside an edit, steering, both or none.

    Those to the base come last, so that they share steps with those to adapters.
    """
    delta, steering = delta_of(model, seed=3), program("clamp", seed=11)
    edit, both = program_of(delta), beside(program_of(delta), steering)
    steered = Steering(steering, STRENGTH)
    return [
        Case(adapter, *treatment)
        for adapter in (*NAMES, None)
        for treatment in (
            (None, EMPTY),
            (edit, delta),
            (steering, EMPTY, steered),
            (both, delta, steered),
        )
    ]


@dataclass(frozen=True)
class Served:
    """An engine and the adapters that it can load, as it and as Hugging Face know them."""

    engine: LiveEngine
    model: Any
    adapters: Mapping[str, Adapter]
    requests: Mapping[str, LoRARequest]

    @contextmanager
    def offline(self, case: Case) -> Generator[SteeredModel]:
        """Give the Hugging Face model with a case's adapter and edit in its weights."""
        with ExitStack() as stack:
            if case.adapter is not None:
                stack.enter_context(self.adapters[case.adapter].merged(self.model))
            stack.enter_context(Merged(self.model, case.delta))
            yield SteeredModel(self.model, POINTS, CAPACITIES[POINTS[0]])

    def ask(self, case: Case, ids: Sequence[int], **more: Any) -> Ask:
        """Return a case's request; its program holds a slot until the engine ends."""
        slot = self.engine.place(case.program) if case.program is not None else None
        adapter = self.requests[case.adapter] if case.adapter is not None else None
        return Ask(ids, None, slot, STRENGTH, adapter=adapter, **more)

    def gaps(self, given: Sequence[Case]) -> list[tuple[float, float]]:
        """Serve cases in one batch; return each one's error, and its distance from the base."""
        ids = prompt(LENGTH, seed=8)
        asks = [self.ask(case, ids, max_tokens=TOKENS, params=LOGITS) for case in given]
        found: list[tuple[float, float]] = []
        for case, answer in zip(given, self.engine.ask(asks), strict=True):
            expected = self.logits(case, ids, answer.tokens)
            plain = self.logits(BASE, ids, answer.tokens)
            assert answer.logits is not None
            error = (answer.logits - expected).abs().max()
            found.append((float(error), float((expected - plain).abs().max())))
        return found

    def logits(self, case: Case, ids: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Return what offline gives each token of an answer, (tokens, vocabulary)."""
        whole = [*ids, *tokens[:-1]]
        with self.offline(case) as oracle:
            return oracle.logits(whole, len(ids), [None, case.steering])[len(ids) - 1 :]


@contextmanager
def served(
    checkpoint: Path,
    model: Any,
    folder: Path,
    options: Sequence[str] = (),
    merge_layers: Sequence[int] = (),
) -> Generator[Served]:
    """Start an engine with two adapters of every projection and an exported edit, all loaded."""
    adapters = {name: random_adapter(model, seed) for seed, name in enumerate(NAMES)}
    folders = {name: adapter.save(folder / name) for name, adapter in adapters.items()}
    folders[EXPORTED] = export_peft(model, exported(model), folder / EXPORTED, base="tiny")
    chosen = (*OPTIONS, *(f"{name}={path}" for name, path in folders.items()), *options)
    requests = {
        name: LoRARequest(name, number, str(path))
        for number, (name, path) in enumerate(folders.items(), start=1)
    }
    with LiveEngine(checkpoint, SIZES, chosen, merge_layers=merge_layers) as engine:
        for request in requests.values():
            engine.run(engine.client.add_lora(request))
        yield Served(engine, model, adapters, requests)
