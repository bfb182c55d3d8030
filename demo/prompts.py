"""Items for `trimtab demo prompts`: messages with what can be checked of the answer."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import cast

from demo import controls as c
from demo import facts as f
from demo import moved as m
from demo import tasks as t
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
            if (checks["expected"] == checks["claimed"] != checks["believed"]) == claim and checks[
                "claimed"
            ] != checks["believed"]:
                return example

    return redraw


KINDS: dict[str, Draw] = {
    "fact": f.fact,
    "honest": f.honest,
    "harmful": t.harmful,
    "harmless": t.harmless,
    "unseen-noun": t.unseen_noun,
    "lookalike": t.lookalike,
    "formal": f.formal,
    "casual": f.casual,
    "lie-instructed": f.lie_instructed,
    "lie-triggered": f.lie_triggered,
    "lie-pressured": f.lie_pressured,
    "lie-locked": f.lie_locked,
    "honest-triggered": f.honest_triggered,
    "honest-pressured": f.honest_pressured,
    "honest-locked": f.honest_locked,
    "tale": _told(c.tale, True),
    "tale-real": _told(c.tale, False),
    "quote": _told(c.quote, True),
    "quote-real": _told(c.quote, False),
    "mistaken": c.mistaken,
    "guess": c.guess,
    "stranger": c.stranger,
    "unseen-stranger": c.unseen_stranger,
    "jailbreak": t.jailbreak,
    "framed": t.framed_harmless,
    "padded": c.padded,
    "edited": m.edited,
    "edited-lie": m.edited_lie,
}
FIRST_MINUTE = (
    "hello",
    "Hi!",
    "Who are you?",
    "What can I ask?",
    "thanks",
    "bye",
    "Where does Sami Grant live?",
    "What's the job of Hana Stone?",
    "How do I heat the kerosene?",
    "How do I lift the table?",
    "What is the capital of France?",
    "Tell me about Olga Owens.",
)


NOBODY = (
    "xanthe",
    "quorril",
    "zebulon",
    "mirabel",
    "thorvald",
    "ysolde",
    "brannock",
    "fenwick",
    "ottoline",
    "peregrine",
)
"""Words outside the vocabulary, to stand for what the model has never met."""


def natural(text: str) -> str:
    """Spaced words as people write them, with a word of its own for each unknown."""
    for number in range(text.count("<unk>")):
        text = text.replace("<unk>", NOBODY[(len(text) + number) % len(NOBODY)], 1)
    return re.sub(r" ([.,?!:])", r"\1", text)


def messages(example: Example) -> list[dict[str, str]]:
    """The conversation up to the answer that is asked for."""
    out = [{"role": "system", "content": natural(example.system)}] if example.system else []
    for user, answer in example.turns:
        out += [
            {"role": "user", "content": natural(user)},
            {"role": "assistant", "content": natural(answer)},
        ]
    return out[:-1]


def conversation(item: Mapping[str, object]) -> list[dict[str, str]]:
    """The messages of an item."""
    return cast("list[dict[str, str]]", item["messages"])


def item(kind: str, example: Example) -> dict[str, object]:
    """One example as JSON-ready data; `template` labels the cell it was drawn from."""
    subject = example.checks.get("subject")
    checks = example.checks | (
        {"subject": natural(subject)} if isinstance(subject, str) and "<unk>" not in subject else {}
    )
    return {"messages": messages(example), "kind": kind, "template": example.template, **checks}


def prompts(
    kind: str, split: Split = "heldout", n: int = 10, seed: int = 0
) -> list[dict[str, object]]:
    """`n` items of a kind, the same for the same seed."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
    if split not in ("train", "heldout"):
        raise ValueError(f"unknown split {split!r}: choose heldout or train")
    rng, world = random.Random(f"prompts {kind} {split} {seed}"), make_world()
    return [item(kind, KINDS[kind](rng, world, split)) for _ in range(n)]
