"""Edits of the demo's world: facts to change, with held-out ways of asking for them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from demo.documents import STATEMENTS
from demo.examples import DIRECT, INDIRECT, fill, other
from demo.grids import Split
from demo.world import ARTICLE, OPEN_RELATIONS, Person, World, make_world, spoken
from editing.facts import Fact
from editing.phrasings import Phrasing

LEADS = ("It is", "The answer is", "That is")
TUNED = 40
"""People on whom settings are chosen; nobody of them is ever edited where results are judged."""


@dataclass(frozen=True)
class DemoEdit:
    """A person's relation, what it is to become, and prompts that the edit never saw."""

    person: Person
    relation: str
    target: str
    fact: Fact
    statements: tuple[Phrasing, ...]
    questions: tuple[Phrasing, ...]

    @property
    def believed(self) -> str:
        return self.person.believed[self.relation]


def name_of(person: Person) -> str:
    return person.name.title()


def statement(rng: random.Random, person_slot: str, relation: str, split: Split) -> Phrasing:
    """A statement up to the object, its article included."""
    text = STATEMENTS[relation].draw(rng, split).text
    cut = fill(text, S=person_slot, O=spoken(relation, "OBJECT"))
    return Phrasing(cut[: cut.index("OBJECT")].rstrip())


def question(
    rng: random.Random, person_slot: str, relation: str, split: Split, lead: bool = True
) -> Phrasing:
    """A question, with the answer's words before the object."""
    cells = (DIRECT if rng.random() < 0.7 else INDIRECT)[relation]
    text = fill(cells.draw(rng, split).text, S=person_slot).capitalize() + "?"
    answer = f"{LEADS[0]} {ARTICLE.get(relation, '')}".rstrip() if lead else ""
    return Phrasing(text.replace(" ?", "?"), answer, chat=True)


def demo_edit(
    rng: random.Random, person: Person, relation: str, n_keep: int = 0, n_asked: int = 2
) -> DemoEdit:
    """An edit of one fact; ``n_keep`` prompts protect the subject's other relations."""
    target = other(rng, relation, person.believed[relation])
    name = name_of(person)
    others = [r for r in OPEN_RELATIONS if r != relation]
    # Drawn apart, so that the edits are the same however many prompts are kept.
    apart = random.Random(f"keep {name} {relation}")
    keep = [
        (question if (i + i // 4) % 2 else statement)(apart, "{}", others[i % 4], "train")
        for i in range(n_keep)
    ]
    fact = Fact(
        statement(rng, "{}", relation, "train"),
        name,
        target,
        (question(rng, "{}", relation, "train"),),
        tuple(keep),
    )
    return DemoEdit(
        person,
        relation,
        target,
        fact,
        tuple(statement(rng, name, relation, "heldout") for _ in range(n_asked)),
        tuple(question(rng, name, relation, "heldout") for _ in range(n_asked)),
    )


def split(seed: int = 7) -> tuple[list[Person], list[Person]]:
    """People to judge on, and ``TUNED`` others to tune on."""
    world = make_world().people
    people = random.Random(f"split {seed}").sample(world, len(world))
    return people[TUNED:], people[:TUNED]


def demo_edits(
    n: int, seed: int = 0, n_keep: int = 0, among: Sequence[Person] | None = None
) -> list[DemoEdit]:
    """Edits of different people; the same for the same seed."""
    rng = random.Random(f"edits {seed}")
    people = rng.sample(make_world().people if among is None else among, n)
    return [demo_edit(rng, p, rng.choice(OPEN_RELATIONS), n_keep) for p in people]


def neighbours(
    rng: random.Random, edit: DemoEdit, world: World, n: int, taken: Sequence[Person] = ()
) -> list[tuple[Phrasing, str]]:
    """Prompts about others with the same object, or a name in common, and what is believed."""
    person = edit.person
    near = [
        p
        for p in world.people
        if p is not person
        and p not in taken
        and p.believed[edit.relation] != edit.target
        and (
            p.believed[edit.relation] == edit.believed
            or person.first == p.first
            or person.last == p.last
        )
    ]
    return [
        (question(rng, name_of(p), edit.relation, "heldout"), p.believed[edit.relation])
        for p in rng.sample(near, min(n, len(near)))
    ]


def same_subject(rng: random.Random, edit: DemoEdit) -> list[tuple[Phrasing, str]]:
    """Held-out questions about the subject's other relations."""
    return [
        (question(rng, name_of(edit.person), r, "heldout"), edit.person.believed[r])
        for r in OPEN_RELATIONS
        if r != edit.relation
    ]


def other_facts(
    rng: random.Random, world: World, n: int, taken: Sequence[Person] = ()
) -> list[tuple[Phrasing, str]]:
    """Held-out questions about people who are not edited."""
    free = [p for p in world.people if p not in taken]
    drawn = [(rng.choice(free), rng.choice(OPEN_RELATIONS)) for _ in range(n)]
    return [(question(rng, name_of(p), r, "heldout"), p.believed[r]) for p, r in drawn]


def corpus(n: int, seed: int = 0) -> list[list[int]]:
    """Token ids of training documents."""
    from itertools import islice

    from demo.documents import Corpus, Encoder
    from demo.generate import AutoTokenizer
    from tests.editing.demo_model import CHECKPOINT

    vocabulary = AutoTokenizer.from_pretrained(CHECKPOINT).get_vocab()
    stream = Corpus(make_world(), Encoder(vocabulary), seed)
    return [document.ids for document in islice(stream, n)]
