"""What ``trimtab bench`` serves: policies' programs, and a model of 0.3 B parameters."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from forward.clauses import TokenClause, regions
from forward.columns import Column, Read, bound, linear
from forward.families import ModelShape
from forward.hookpoints import HookPoint
from forward.program import Program, RowContent, SiteContent
from service.speed import BenchError

N_DIRECTIONS = 32
"""Distinct directions a site that all policies draw their ablations and clamps from."""
OFFSET_NORM = 0.5
CLAMP = 0.5

RANDOM_MODEL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 22,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}


def write_random_model(folder: Path) -> Path:
    """Write the configuration of the random model; its weights are made when it is loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(RANDOM_MODEL, indent=2))
    return folder


def parameter_count(config: dict[str, Any]) -> int:
    """Return the parameters of a Llama configuration."""
    d, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or d // heads
    kv = head * (config.get("num_key_value_heads") or heads)
    attention = 2 * d * head * heads + 2 * d * kv
    layer = attention + 3 * d * config["intermediate_size"] + 2 * d
    embeddings = config["vocab_size"] * d * (1 if config.get("tie_word_embeddings") else 2)
    return config["num_hidden_layers"] * layer + embeddings + d


def spread(shape: ModelShape, n_sites: int) -> tuple[HookPoint, ...]:
    """Return sites over the upper half of the layers: two lie at 1/2 and 3/4 of the depth.

    Raises:
        BenchError: The upper half has fewer layers.
    """
    half = shape.n_layers // 2
    if not 1 <= n_sites <= shape.n_layers - half:
        raise BenchError(
            f"{n_sites} sites do not fit the upper half of {shape.n_layers} layers; ask for 1 to "
            f"{shape.n_layers - half}"
        )
    layers = [half + i * (shape.n_layers - half) // n_sites for i in range(n_sites)]
    return tuple(HookPoint("resid_post", layer) for layer in layers)


def distinct_programs(count: int, points: Sequence[HookPoint], d_model: int) -> list[Program]:
    """Return programs of which no two are equal, on every token, at all sites.

    Each adds an offset of its own, ablates one direction and clamps another, with coefficients of
    its own on the directions that all share.
    """
    pools = {point: _pool(d_model, point.depth) for point in points}
    cut = regions([TokenClause("all")])
    programs: list[Program] = []
    for index in range(count):
        generator = torch.Generator().manual_seed(1000 + index)
        content = RowContent(
            {p: _content(columns, index, d_model, generator) for p, columns in pools.items()}
        )
        programs.append(Program(cut, tuple(content for _ in cut)))
    return programs


def edit_program(rank: int, n_layers: int, shape: ModelShape) -> Program:
    """Return an edit of a rank at layers from a sixth of the depth on, on every token."""
    first = max(1, shape.n_layers // 6)
    layers = range(first, min(first + n_layers, shape.n_layers))
    content = RowContent({HookPoint("mlp", n): _edit(rank, n, shape) for n in layers})
    cut = regions([TokenClause("all")])
    return Program(cut, tuple(content for _ in cut))


def _edit(rank: int, seed: int, shape: ModelShape) -> SiteContent:
    generator = torch.Generator().manual_seed(9000 + seed)
    parts = [
        Column(
            OFFSET_NORM * _unit(shape.d_model, generator),
            Read(_unit(shape.d_mlp, generator)),
            linear=1.0,
        )
        for _ in range(rank)
    ]
    return SiteContent(columns=tuple((part, 1.0) for part in parts))


def _pool(d_model: int, seed: int) -> list[Column]:
    generator = torch.Generator().manual_seed(seed)
    units = [_unit(d_model, generator) for _ in range(N_DIRECTIONS)]
    half = N_DIRECTIONS // 2
    ablations = [linear(Read(unit), unit) for unit in units[:half]]
    return ablations + [bound(Read(unit), unit, -CLAMP, CLAMP) for unit in units[half:]]


def _content(
    columns: Sequence[Column], index: int, d_model: int, generator: torch.Generator
) -> SiteContent:
    half = len(columns) // 2
    chosen = (columns[index % half], columns[half + index // half % half])
    return SiteContent(
        OFFSET_NORM * _unit(d_model, generator),
        tuple((column, 1.0 - index / 1024) for column in chosen),
    )


def _unit(d_model: int, generator: torch.Generator) -> torch.Tensor:
    vector = torch.randn(d_model, generator=generator)
    return vector / vector.norm()
