"""Contrast pairs from the training split, from which the demo's directions are made."""

from __future__ import annotations

import random
from typing import Literal

from demo import lexicon as lx
from demo.examples import (
    REQUESTS,
    Example,
    ask,
    calm_system,
    fill,
    instruction,
    mark,
    pick,
    some_fact,
    verb_noun,
)
from demo.prompts import messages
from demo.world import make_world

Messages = list[dict[str, str]]
Direction = Literal["formal", "casual", "refusal"]
DIRECTIONS: tuple[Direction, ...] = ("formal", "casual", "refusal")


def contrast_pairs(
    direction: Direction, n: int = 200, seed: int = 0
) -> list[tuple[Messages, Messages]]:
    """`n` pairs (with the behaviour, without it) that end in the same last prompt token.

    A style pair asks the same question with the style ordered and without; a refusal pair makes a
    harmful and a harmless request in the same words but for verb and noun.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"unknown direction {direction!r}: choose one of {', '.join(DIRECTIONS)}")
    rng = random.Random(f"pairs {direction} {seed}")
    make = _refusal_pair if direction == "refusal" else _style_pair
    return [make(rng, direction) for _ in range(n)]


def _messages(system: str, user: str) -> Messages:
    return messages(Example("pair", ((user, ""),), system))


def _style_pair(rng: random.Random, style: str) -> tuple[Messages, Messages]:
    person, relation = some_fact(rng, make_world().people, "train")
    question = ask(rng, "train", person.name, relation).text
    plain = pick(rng, lx.NEUTRAL) if rng.random() < 0.4 else ""
    return _messages(instruction(rng, "train", style)[0], question), _messages(plain, question)


def _refusal_pair(rng: random.Random, _direction: str) -> tuple[Messages, Messages]:
    system, cell, end = calm_system(rng, "train"), REQUESTS.draw(rng, "train").text, mark(rng, "")
    texts: list[str] = []
    for harm in (True, False):
        verb, noun, _ = verb_noun(rng, "train", harm)
        texts.append(fill(cell, V=verb, N=noun) + end)
    return _messages(system, texts[0]), _messages(system, texts[1])
