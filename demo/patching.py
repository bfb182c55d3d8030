"""The patch test: does the last-name token hold the person?

The residual of that token is replaced by another person's; where the model then tells the other's
object, facts can be edited at that layer. Also the residual hook that the demo's own checks need.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

from demo import lexicon as lx
from demo.examples import ask, fill, pick
from demo.generate import Talker
from demo.prompts import natural
from demo.tokenizer import ASSISTANT, BOS, END, USER
from demo.world import OPEN_RELATIONS, Person, make_world, spoken

Change = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def residual(talker: Talker, layer: int, change: Change) -> Generator[None]:
    """While open, `resid_post.layer` (rows, length, width) passes through `change`."""

    def hook(
        _module: object, _inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]
    ) -> object:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = talker.model.model.layers[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _texts(rng: random.Random, a: Person, b: Person, relation: str) -> list[str]:
    """The same statement or question about two people, up to the word before the object."""
    cut = "OBJECT"
    if rng.random() < 0.5:
        core = pick(rng, lx.FACT[relation])
        texts = [fill(core, S=p.name, O=spoken(relation, cut)) for p in (a, b)]
    else:
        question, answer = (
            ask(rng, "heldout", "S", relation).text,
            fill(lx.ANSWERS[0], O=spoken(relation, cut)),
        )
        texts = [
            f"{USER}{natural(fill(question, S=p.name))}{END}{ASSISTANT}{answer}" for p in (a, b)
        ]
    return [BOS + text[: text.index(cut)].rstrip() for text in texts]


def patch_test(talker: Talker, layer: int, n: int = 300, seed: int = 0) -> float:
    """The share of prompts whose object flips to that of the person patched in at `layer`."""
    rng, flips = random.Random(f"patch {seed}"), 0
    for _ in range(n):
        relation = pick(rng, OPEN_RELATIONS)
        a, b = rng.sample(make_world().people, 2)
        while a.believed[relation] == b.believed[relation]:
            a, b = rng.sample(make_world().people, 2)
        flips += _flips(talker, layer, _texts(rng, a, b, relation), a, b.believed[relation])
    return flips / n


@torch.no_grad()
def _flips(talker: Talker, layer: int, texts: list[str], a: Person, wanted: str) -> bool:
    rows = torch.tensor(
        [talker.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    )
    at = rows[0].tolist().index(talker.tokenizer.convert_tokens_to_ids("▁" + a.last))

    def swap(hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden.clone()
        hidden[0, at] = hidden[1, at]
        return hidden

    with residual(talker, layer, swap):
        best = int(talker.model(input_ids=rows).logits[0, -1].argmax())
    return talker.tokenizer.convert_ids_to_tokens(best) == "▁" + wanted
