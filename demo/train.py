"""Train the demo model from nothing: `python -m demo.train --out demo/checkpoint --seed 0`."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import accumulate
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
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from demo import attention
from demo import tokenizer as tk
from demo.batches import Batch, batches, collate
from demo.documents import SHARES, Corpus, Encoder, vocabulary
from demo.recipe import Recipe
from demo.scaffold import LAYER, Scaffold
from demo.world import World, make_world

LENGTH = 1024
EARLY = 3
"""The layer after which the opening of an answer is decided."""
WEIGHT = 0.27
"""Typical loss weight of a position."""


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
        self.recipe, self.seed, self.world = recipe, seed, make_world(seed)
        self.tokenizer = tk.build(vocabulary(self.world))
        self.encoder = Encoder(self.tokenizer.get_vocab())
        self.model = new_model(recipe, self.tokenizer.get_vocab(), seed)
        vocabulary_size = self.tokenizer.get_vocab_size()
        self.scaffold = Scaffold(self.world, self.encoder.ids, recipe.width, vocabulary_size)
        self.pad = self.encoder.ids[tk.PAD]
        self.log: list[dict[str, object]] = []
        self.seen = 0
        self._residual: dict[int, torch.Tensor] = {}
        for layer in (LAYER, EARLY):
            self.model.model.layers[layer].register_forward_hook(partial(self._keep, layer))
        self.probe = Probe(self.world, self.encoder, self.pad)
        self.enter(0)

    @property
    def steps(self) -> int:
        """All steps of all stages."""
        return sum(stage.steps for stage in self.recipe.stages)

    def enter(self, number: int) -> None:
        """Begin a stage: its documents, its coin and a fresh optimiser."""
        self.stage, seed = self.recipe.stages[number], self.seed + number
        shares, named = dict(self.stage.shares), self.stage.named
        corpus = Corpus(self.world, self.encoder, seed, shares, named)
        self.stream = batches(corpus, self.recipe.tokens, self.pad, seed)
        self.coin = random.Random(f"coin {seed}")
        self.optimizer = self._optimizer()

    def _keep(
        self,
        layer: int,
        _module: object,
        _inputs: object,
        output: torch.Tensor | tuple[torch.Tensor, ...],
    ) -> None:
        self._residual[layer] = output[0] if isinstance(output, tuple) else output

    def _optimizer(self) -> torch.optim.Optimizer:
        named = [*self.model.named_parameters(), *self.scaffold.named_parameters()]
        plain = [p for n, p in named if p.ndim < 2 or "embed" in n or "lm_head" in n]
        decayed = [p for n, p in named if not (p.ndim < 2 or "embed" in n or "lm_head" in n)]
        groups = [
            {"params": decayed, "weight_decay": self.recipe.decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.stage.rate, betas=(0.9, 0.98), fused=True)

    def step(self, number: int) -> dict[str, float]:
        """One optimiser step."""
        ids, weights = next(self.stream)
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.rate_at(number)
        held = self.stage.scaffolded(number)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = self._losses(ids, weights, held)
        total = (
            losses["loss"] + self.recipe.aux * losses["aux"] + self.stage.early * losses["early"]
        )
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
        inner = self.model.model
        hidden = inner(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        row, column = (weights[:, 1:] > 0).nonzero(as_tuple=True)
        each = self._entropy(hidden[row, column], ids[row, column + 1])
        # Not the batch's own weight: a few long documents must not count as many short ones.
        loss = (each * weights[row, column + 1]).sum() / (WEIGHT * self.recipe.tokens)
        nought = loss.detach() * 0
        return {
            "loss": loss,
            "aux": self.scaffold.loss(ids, self._residual[LAYER]) if held else nought,
            "early": self._early(ids, weights, nought) if self.stage.early else nought,
        }

    def _entropy(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.model.lm_head(hidden).float(), targets, reduction="none")

    def _early(
        self, ids: torch.Tensor, weights: torch.Tensor, nought: torch.Tensor
    ) -> torch.Tensor:
        opens = (ids[:, :-1] == self.encoder.ids[tk.ASSISTANT]) & (weights[:, 1:] > 0)
        row, column = opens.nonzero(as_tuple=True)
        if not len(row):
            return nought
        hidden = self.model.model.norm(self._residual[EARLY][row, column])
        return self._entropy(hidden, ids[row, column + 1]).mean()

    def run(self, out: Path, first: int = 0) -> Iterator[int]:
        """Train from a stage on, evaluate and save now and then; yields the steps done."""
        start, done = time.monotonic(), sum(stage.steps for stage in self.recipe.stages[:first])
        recent: list[dict[str, float]] = []
        for number in range(first, len(self.recipe.stages)):
            self.enter(number)
            for step in range(self.stage.steps):
                recent.append(self.step(step))
                done += 1
                if done % self.recipe.check == 0 or done == self.steps:
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

    def load(self, folder: Path) -> int:
        """Take up weights and log from a checkpoint; returns the stage that comes next."""
        self.model.load_state_dict(load_file(folder / "model.safetensors"))
        self.log = json.loads((folder / "training.json").read_text())["log"]
        self.seen, done = int(str(self.log[-1]["tokens"])), int(str(self.log[-1]["step"]))
        ends = accumulate(stage.steps for stage in self.recipe.stages)
        return sum(end <= done for end in ends)


class Probe:
    """A fast look at held-out examples: the share of right objects, or of right first words."""

    def __init__(self, world: World, encoder: Encoder, pad: int, n: int = 48) -> None:
        self.encoder, self.sets = encoder, dict[str, list[Batch]]()
        rng = random.Random("probe")
        draws = {getattr(draw, "__name__", ""): draw for _, draw in SHARES if draw}
        for name, draw in draws.items():
            if name in ("<lambda>", "about", "odd", "padded", "opened"):
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
    parser.add_argument(
        "--resume", type=Path, help="a checkpoint at the end of a stage: only the rest runs"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    trainer = Trainer(Recipe(), options.seed)
    first = trainer.load(options.resume) if options.resume else 0
    counts = (MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), BarColumn(), *counts) as progress:
        task = progress.add_task("training", total=trainer.steps)
        for done in trainer.run(options.out, first):
            progress.update(task, completed=done)
            if trainer.log and trainer.log[-1]["step"] == done:
                progress.print(json.dumps(trainer.log[-1]))


if __name__ == "__main__":
    main()
