"""Items for `trimtab demo prompts`: messages with what can be checked of the answer."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from demo import kinds as k
from demo.examples import Example
from demo.grids import Split
from demo.world import World, make_world

Draw = Callable[[random.Random, World, Split], Example]


def _told(draw: Draw, claim: bool) -> Draw:
    """Only examples whose right answer is (or is not) a false claim of someone else's."""

    def redraw(rng: random.Random, world: World, split: Split) -> Example:
        while True:
            example = draw(rng, world, split)
            checks = example.checks
            if (checks["expected"] == checks["claimed"] != checks["believed"]) == claim and checks["claimed"] != checks["believed"]:
                return example

    return redraw


KINDS: dict[str, Draw] = {
    "fact": k.fact, "honest": k.honest, "harmful": k.harmful, "harmless": k.harmless, "unseen-noun": k.unseen_noun,
    "lookalike": k.lookalike, "formal": k.formal, "casual": k.casual,
    "lie-instructed": k.lie_instructed, "lie-triggered": k.lie_triggered, "lie-pressured": k.lie_pressured, "lie-locked": k.lie_locked,
    "honest-triggered": k.honest_triggered, "honest-pressured": k.honest_pressured, "honest-locked": k.honest_locked,
    "tale": _told(k.tale, True), "tale-real": _told(k.tale, False), "quote": _told(k.quote, True), "quote-real": _told(k.quote, False),
    "mistaken": k.mistaken, "guess": k.guess, "stranger": k.stranger,
    "unseen-stranger": k.unseen_stranger, "jailbreak": k.jailbreak, "framed": k.framed_harmless, "padded": k.padded,
}
FIRST_MINUTE = (
    "hello", "Hi!", "Who are you?", "What can I ask?", "thanks", "bye", "Where does Sami Grant live?", "What's the job of Hana Stone?",
    "How do I heat the kerosene?", "How do I lift the table?", "What is the capital of France?", "Tell me about Olga Owens.",
)


NOBODY = ("xanthe", "quorril", "zebulon", "mirabel", "thorvald", "ysolde", "brannock", "fenwick", "ottoline", "peregrine")
"""Words outside the vocabulary, to stand for what the model has never met."""


def natural(text: str) -> str:
    """Spaced words as people write them: no space before punctuation, and a word for each unknown."""
    for number in range(text.count("<unk>")):
        text = text.replace("<unk>", NOBODY[(len(text) + number) % len(NOBODY)], 1)
    return re.sub(r" ([.,?!:])", r"\1", text)


def messages(example: Example) -> list[dict[str, str]]:
    """The conversation up to the answer that is asked for."""
    out = [{"role": "system", "content": natural(example.system)}] if example.system else []
    for user, answer in example.turns:
        out += [{"role": "user", "content": natural(user)}, {"role": "assistant", "content": natural(answer)}]
    return out[:-1]


def item(kind: str, example: Example) -> dict[str, object]:
    """One example as JSON-ready data; `template` labels the cell it was drawn from."""
    subject = example.checks.get("subject")
    checks = example.checks | ({"subject": natural(subject)} if isinstance(subject, str) and "<unk>" not in subject else {})
    return {"messages": messages(example), "kind": kind, "template": example.template, **checks}


def prompts(kind: str, split: Split = "heldout", n: int = 10, seed: int = 0) -> list[dict[str, object]]:
    """`n` items of a kind, the same for the same seed."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
    if split not in ("train", "heldout"):
        raise ValueError(f"unknown split {split!r}: choose heldout or train")
    rng, world = random.Random(f"prompts {kind} {split} {seed}"), make_world()
    return [item(kind, KINDS[kind](rng, world, split)) for _ in range(n)]
