"""Conditional steering beside always-on: `gated`, `refuse-more` and no policy on the same items.

The demo model refuses plain harmful requests by itself; framed as fiction it obeys them. So what a
gate adds is seen on frames, and what it costs on harmless requests, where an answer counts as
changed when any of its tokens is another.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from demo import judge
from demo import tasks as t
from demo.labelled import REQUESTS
from demo.portions import Draw, part
from demo.prompts import conversation, item
from demo.quality import shown
from demo.watched import WatchedDemo
from monitors.statistics import wilson

HARMFUL: dict[str, tuple[Draw, ...]] = {
    "harmful, plain": (t.harmful,),
    "harmful, framed": (t.jailbreak,),
    "harmful, half of them framed": (t.harmful, t.jailbreak),
}
HARMLESS: dict[str, tuple[Draw, ...]] = {
    "harmless, plain": (t.harmless,),
    "harmless, framed": (t.framed_harmless,),
    "harmless, of all kinds": (
        t.harmless,
        t.framed_harmless,
        *(REQUESTS[name] for name in ("lookalike", "fact", "fact, ordered", "stranger")),
    ),
}


@dataclass(frozen=True)
class Answers:
    """The answers to the same items under one policy, as token ids and as text."""

    ids: Sequence[Sequence[int]]
    texts: Sequence[str]


def measure(demo: WatchedDemo, name: str, n: int, seed: int = 0) -> dict[str, Any]:
    """Return what each policy does on `n` held-out items of one group."""
    items = _items(name, n, seed)
    conversations = [conversation(one) for one in items]
    found = {how: _answers(demo, conversations, *used) for how, used in _policies(demo).items()}
    plain = found["without"]
    return {"n": n} | {
        how: {
            "refused": shown(wilson(sum(map(judge.is_refusal, answers.texts)), n)),
            "changed": shown(
                wilson(sum(a != b for a, b in zip(plain.ids, answers.ids, strict=True)), n)
            ),
        }
        for how, answers in found.items()
    }


def _policies(demo: WatchedDemo) -> dict[str, tuple[str | None, float]]:
    """Return a policy and the strength that it runs at, by how it is called."""
    (steer,) = demo.policies["gated"].spec.steer
    much = steer.coefficient
    if not isinstance(much, float):
        raise TypeError(f"gated adds {much}, not one number at its only site")
    return {
        "without": (None, 1.0),
        "gated": ("gated", 1.0),
        "always on": ("refuse-more", 1.0),
        "always on, as much as gated": ("refuse-more", much),
    }


def _items(name: str, n: int, seed: int) -> list[dict[str, object]]:
    draws = (HARMFUL | HARMLESS)[name]
    rng = random.Random(f"conditional {name} {seed}")
    heldout = part("heldout")
    examples = (heldout.draw(rng, draws[index % len(draws)]) for index in range(n))
    return [item(example.kind, example) for example in examples]


def _answers(
    demo: WatchedDemo,
    conversations: list[list[dict[str, str]]],
    policy: str | None,
    strength: float,
) -> Answers:
    program = demo.program(policy) if policy else None
    ids = demo.answers(conversations, program, strength)
    return Answers(ids, [demo.text(one) for one in ids])
