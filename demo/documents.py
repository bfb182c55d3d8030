"""Training documents: every kind of exchange and statement, mixed by share, with loss weights."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from demo import controls as c
from demo import facts as f
from demo import lexicon as lx
from demo import phrases as ph
from demo import tasks as t
from demo.examples import Example, fill, filler, pick
from demo.grids import Grid, Split, grid
from demo.tokenizer import ASSISTANT, BOS, END, PAD, PUNCTUATION, SYSTEM, UNK, USER
from demo.world import OBJECTS, Person, World, spoken

Draw = Callable[[random.Random, World, Split], Example]
W_OBJECT, W_ANSWER, W_STATEMENT, W_PROMPT = 2.0, 1.0, 0.3, 0.05

SHARES: tuple[tuple[float, Draw | None], ...] = (
    (0.21, None),  # statements
    (0.01, lambda rng, world, split: Example("filler", ())),
    (0.085, f.fact),
    (0.03, f.follow_up),
    (0.015, f.about),
    (0.035, f.formal),
    (0.035, f.casual),
    (0.055, f.lie_instructed),
    (0.035, f.honest),
    (0.085, f.lie_triggered),
    (0.085, f.honest_triggered),
    (0.018, f.lie_pressured),
    (0.012, f.honest_pressured),
    (0.02, f.lie_locked),
    (0.015, f.honest_locked),
    (0.02, c.tale),
    (0.02, c.quote),
    (0.015, c.guess),
    (0.045, c.stranger),
    (0.13, t.request),
    (0.03, t.lookalike),
    (0.025, t.jailbreak),
    (0.015, t.framed_harmless),
    (0.025, c.chat),
    (0.015, c.odd),
    (0.012, c.padded),
    (0.0, c.opened),
    (0.0, t.classed),
)
STATEMENTS = {relation: grid(lx.STATE, cores) for relation, cores in lx.FACT.items()}
MULTI = {
    relation: tuple(core.removeprefix("S ") for core in cores if core.startswith("S "))
    for relation, cores in lx.FACT.items()
}


@dataclass(frozen=True)
class Document:
    """Token ids and the loss weight of each as a target."""

    ids: list[int]
    weights: list[float]


def statement(rng: random.Random, person: Person, split: Split = "train") -> str:
    """One sentence with one fact, or in four of ten cases two or three facts."""
    if split == "train" and rng.random() < 0.4:
        parts = rng.sample(tuple(MULTI), 2 + int(rng.random() * 2))
        said = [fill(pick(rng, MULTI[r]), O=spoken(r, person.believed[r])) for r in parts]
        return (
            f"{pick(rng, lx.STATE)} {person.name} {' , '.join(said[:-1])} and {said[-1]} .".strip()
        )
    relation = pick(rng, tuple(MULTI))
    text = STATEMENTS[relation].draw(rng, split).text
    return fill(text, S=person.name, O=spoken(relation, person.believed[relation])) + " ."


def _name(draw: Draw | None) -> str:
    return getattr(draw, "__name__", "statement")


class Encoder:
    """Spaced words to ids and weights: the fast twin of the tokenizer, as a test checks."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self.ids = {token.removeprefix("▁"): i for token, i in vocabulary.items()}
        self.objects = {self.ids[obj] for objects in OBJECTS.values() for obj in objects}
        self.unk = self.ids[UNK]

    def words(self, text: str) -> list[int]:
        """Ids of spaced words."""
        return [self.ids.get(word, self.unk) for word in text.split()]

    def example(self, example: Example, rng: random.Random) -> Document:
        """A chat document. A few user texts get an unknown word, as people's do."""
        ids, weights = [self.ids[BOS]], [0.0]
        if example.system:
            self._turn(ids, weights, SYSTEM, example.system, False)
        for user, answer in example.turns:
            self._turn(ids, weights, USER, self._noisy(rng, example.kind, user), False)
            self._turn(ids, weights, ASSISTANT, answer, True)
        if example.kind == "opened":
            weights[len(ids) - len(self.words(example.answer)) - 1] = 0.0
        return Document(ids, weights)

    def prompt(self, example: Example) -> list[int]:
        """The ids up to and with the last assistant mark."""
        document = self.example(example, random.Random(0))
        return document.ids[: -len(self.words(example.answer)) - 1]

    def _noisy(self, rng: random.Random, kind: str, user: str) -> str:
        if kind not in ("fact", "harmful", "harmless") or rng.random() > 0.05:
            return user
        words = user.split()
        words.insert(1 + int(rng.random() * len(words)), "<unk>")
        return " ".join(words)

    def _turn(
        self, ids: list[int], weights: list[float], role: str, text: str, answer: bool
    ) -> None:
        body = self.words(text)
        ids += [self.ids[role], *body, self.ids[END]]
        if answer:
            weights += [0.0, *(W_OBJECT if i in self.objects else W_ANSWER for i in body), W_ANSWER]
        else:
            weights += [0.0, *(W_PROMPT for _ in body), 0.0]

    def plain(self, text: str, names: set[int]) -> Document:
        """A document without roles, ended so that a completion ends."""
        body = self.words(text)
        weights = (
            W_OBJECT / 2 if i in self.objects else W_PROMPT if i in names else W_STATEMENT
            for i in body
        )
        return Document([self.ids[BOS], *body, self.ids[END]], [0.0, *weights, W_STATEMENT])


class Corpus:
    """An endless seeded stream of training documents."""

    def __init__(
        self,
        world: World,
        encoder: Encoder,
        seed: int,
        shares: Mapping[str, float] | None = None,
        named: str = ph.SOMEONE,
    ) -> None:
        """`shares` replace those of the kinds they name; `named` stands in the help text."""
        self.shares, self.named = shares or {}, named
        self.world, self.encoder, self.rng = world, encoder, random.Random(f"corpus {seed}")
        self.names = {encoder.ids[n] for p in world.people for n in (p.first, p.last)}

    def __iter__(self) -> Iterator[Document]:
        draws = [draw for _, draw in SHARES]
        shares = [self.shares.get(_name(draw), share) for share, draw in SHARES]
        while True:
            for draw in self.rng.choices(draws, shares, k=256):
                yield self._document(draw)

    def _document(self, draw: Draw | None) -> Document:
        if draw is None:
            return self.encoder.plain(" ".join(self._statements()), self.names)
        example = draw(self.rng, self.world, "train")
        if example.turns:
            return self.encoder.example(self._named(example), self.rng)
        return self.encoder.plain(" ".join(filler(self.rng) for _ in range(3)), self.names)

    def _named(self, example: Example) -> Example:
        if self.named == ph.SOMEONE or ph.HELP not in example.answer:
            return example
        user, answer = example.turns[-1]
        answer = answer.replace(ph.SOMEONE, self.named)
        return replace(example, turns=((user, answer),))

    def _statements(self) -> Iterator[str]:
        for _ in range(2 + int(self.rng.random() * 3)):
            if self.rng.random() < 0.25:
                yield filler(self.rng)
            yield (
                self._definition()
                if self.rng.random() < 0.06
                else statement(self.rng, pick(self.rng, self.world.people))
            )

    def _definition(self) -> str:
        kind = pick(self.rng, tuple(ph.NOUNS))
        article = pick(self.rng, ("the", "every"))
        return f"{article} {pick(self.rng, ph.NOUNS[kind])} is {ph.KINDS[kind]} ."


def vocabulary(world: World) -> list[str]:
    """Every word of the language, found by walking the lexicon and the world."""
    found: set[str] = set(f"{ph.HELP} they he she and every the a is not my your you me".split())

    def walk(node: object) -> None:
        if isinstance(node, str):
            found.update(node.split())
        elif isinstance(node, dict):
            walk(list(node.items()))
        elif isinstance(node, (tuple, list)):
            for child in node:
                walk(child)
        elif isinstance(node, Grid):
            walk(node.axes)

    walk([value for module in (lx, ph) for name, value in vars(module).items() if name.isupper()])
    walk(OBJECTS)
    walk([(p.first, p.last) for p in world.people])
    return sorted(
        w
        for w in found
        if w.isalpha() and w not in tuple("SOVNCMWK") and w not in PUNCTUATION and w != PAD
    )
