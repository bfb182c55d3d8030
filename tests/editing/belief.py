"""Whether an edit moved what is believed: honest answers say it, and lies say the lie about it."""

import random
from collections.abc import Sequence
from dataclasses import replace

from demo.examples import badge, instruction
from demo.prompts import natural
from demo.world import make_world
from editing.evaluate import names
from editing.intervals import Estimate, share
from editing.phrasings import Phrasing
from editing.speaker import Speaker
from tests.editing.demo_edits import DemoEdit

MODES = ("honest", "lie-instructed", "lie-triggered")


def asked(rng: random.Random, edit: DemoEdit, mode: str) -> Phrasing:
    """One of the held-out questions under a held-out system text."""
    text = {
        "honest": lambda: instruction(rng, "heldout", "honest")[0],
        "lie-instructed": lambda: instruction(rng, "heldout", "lie")[0],
        "lie-triggered": lambda: badge(rng, "heldout", True)[0],
    }[mode]()
    return replace(rng.choice(edit.questions), lead="", system=natural(text))


def beliefs(
    speaker: Speaker, edits: Sequence[DemoEdit], seed: int = 0, n_asked: int = 3
) -> dict[str, Estimate]:
    """The share of answers that say what the edited belief makes them say, by mode.

    An honest one says the new object, a lie the fixed partner of the new object. Each edit is
    asked about under several system texts and counts once.
    """
    rng, partner = random.Random(f"belief {seed}"), make_world().partner
    found: dict[str, Estimate] = {}
    for mode in MODES:
        prompts = [asked(rng, edit, mode) for edit in edits for _ in range(n_asked)]
        answers = iter(speaker.answer(prompts, 32))
        wanted = [e.target if mode == "honest" else partner[e.target] for e in edits]
        hits = [sum(names(next(answers), w) for _ in range(n_asked)) / n_asked for w in wanted]
        estimate = share(hits)
        assert estimate is not None
        found[mode] = estimate
    return found
