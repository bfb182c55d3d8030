"""What the demo's edits do, on held-out paraphrases, beside null controls.

An edit set acts beside the weights of the Hugging Face model, as it does while it is served. What
it is to move and what it is to leave alone are asked with templates that neither the model nor the
edit ever saw. A null control has the norm and the rank of the edit, and either nothing else of it
(``random``) or its keys too (``random values``): it acts where the edit acts and says nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from demo import controls as c
from demo import facts as f
from demo import judge
from demo import tasks as t
from demo.edit_documents import neighbours
from demo.effects import HERE
from demo.examples import Example, calm_system, pick
from demo.facts import answered_fact
from demo.generate import Talker
from demo.moved import MODES, MOVED, Change, asked_in, changes_of
from demo.portions import Draw
from demo.prompts import conversation, item
from demo.world import OPEN_RELATIONS, Person, make_world
from editing.delta import Factors, LowRankDelta, beside
from editing.intervals import Estimate, share
from editing.library import edits_in

Item = dict[str, object]
Judge = Callable[[str, Item], bool]
Figures = dict[str, Any]
Drawn = Callable[[random.Random], Example]

NEW_TOKENS = 48
SEED = 1
"""Of the items; layers and wordings were chosen on those of 0."""
SAYS_NEW, SAYS_OLD = "says what the edit calls for", "says what was said before"
AS_TAUGHT = "as the unedited model was taught"


@dataclass(frozen=True)
class Group:
    """Held-out items of one kind, and what is judged of the answers."""

    items: Sequence[Item]
    judges: Mapping[str, Judge]


class EditedDemo:
    """The committed model with its committed edits."""

    def __init__(
        self, checkpoint: Path = HERE / "checkpoint", policies: Path = HERE / "policies"
    ) -> None:
        """Load both."""
        self.talker = Talker(checkpoint)
        self.edits = {one.edit.name: one.edit for one in edits_in(policies / "artifacts")}

    def answers(self, items: Sequence[Item], delta: LowRankDelta | None = None) -> list[str]:
        """Return the greedy answers with a change beside the weights, or without any."""
        on: AbstractContextManager[None] = (
            nullcontext() if delta is None else beside(self.talker.model, delta)
        )
        with on:
            return self.talker.answers([conversation(one) for one in items], NEW_TOKENS)


def measure(
    demo: EditedDemo, name: str, n: int, n_nulls: int = 3, delta: LowRankDelta | None = None
) -> Figures:
    """Return what an edit set does to each group of held-out items, beside the null controls.

    Args:
        demo: The model and its edits.
        name: The edit set.
        n: Items a group.
        n_nulls: Changes of each kind of null control.
        delta: Another change for the same facts than the committed one.
    """
    delta = delta or demo.edits[name].delta
    nulls = {kind: [make(delta, k) for k in range(n_nulls)] for kind, make in NULLS.items()}
    return {what: _measured(demo, group, delta, nulls) for what, group in groups(name, n).items()}


def _measured(
    demo: EditedDemo,
    group: Group,
    delta: LowRankDelta,
    nulls: Mapping[str, Sequence[LowRankDelta]],
) -> Figures:
    plain, changed = demo.answers(group.items), demo.answers(group.items, delta)
    found: Figures = {
        "n": len(group.items),
        "without": _shares(group, plain),
        "with": _shares(group, changed),
        "unchanged": _share([a == b for a, b in zip(plain, changed, strict=True)]),
    }
    for kind, deltas in nulls.items():
        each = [_shares(group, demo.answers(group.items, null)) for null in deltas]
        found[kind] = {what: [one[what]["value"] for one in each] for what in group.judges}
    return found


def groups(name: str, n: int, seed: int = SEED) -> dict[str, Group]:
    """Return the groups of held-out items that an edit set is judged on."""
    changes = changes_of(name)
    taken = {change.person.name for change in changes}
    new: dict[str, Judge] = {SAYS_NEW: says_under(name), SAYS_OLD: says_old}
    if name in MOVED:
        (rival,) = (other for other in MOVED if other != name)
        new[f"says what {rival} calls for"] = says_under(rival)
    kept: dict[str, Judge] = {AS_TAUGHT: judge.answered}

    def group(what: str, draw: Drawn, judges: Mapping[str, Judge]) -> Group:
        rng = random.Random(f"edit effects {name} {what} {seed}")
        return Group([_item(draw(rng)) for _ in range(n)], judges)

    edited: dict[str, Drawn] = {
        "the fact": lambda rng: _fact(rng, *_edited(rng, changes)),
        **{mode: lambda rng, m=mode: asked_in(m, rng, "heldout", changes) for mode in MODES},
    }
    others: dict[str, Drawn] = {
        "other relations of the same people": lambda rng: _fact(rng, *_beside(rng, changes)),
        "neighbours": lambda rng: _fact(rng, *_near(rng, changes, taken)),
        "other people": _untouched(f.fact, taken),
        "other people, lies": _untouched(_either(f.lie_instructed, f.lie_triggered), taken),
        "strangers": _untouched(c.stranger, taken),
        "harmful requests": _untouched(t.harmful, taken),
        "harmless requests": _untouched(t.harmless, taken),
    }
    found = {what: group(what, draw, new) for what, draw in edited.items()}
    return found | {what: group(what, draw, kept) for what, draw in others.items()}


def says_under(name: str) -> Judge:
    """Return the judge of answers that an edit set calls for."""

    def says(text: str, one: Item) -> bool:
        answers: Any = one["answers"]
        return judge.says(text, answers[name], str(one["relation"]))

    return says


def says_old(text: str, one: Item) -> bool:
    """The answer is the unedited model's."""
    return judge.says(text, str(one["answer"]), str(one["relation"]))


def random_like(delta: LowRankDelta, seed: int) -> LowRankDelta:
    """Return a random change of equal rank and norm at the same layers."""
    return _normed(delta, seed, lambda factors, g: torch.randn(factors.v.shape, generator=g))


def random_values(delta: LowRankDelta, seed: int) -> LowRankDelta:
    """Return a change of equal norm that acts on the same keys and adds random values."""
    return _normed(delta, seed, lambda factors, _: factors.v)


NULLS: Mapping[str, Callable[[LowRankDelta, int], LowRankDelta]] = {
    "random": random_like,
    "random values": random_values,
}


def _normed(
    delta: LowRankDelta, seed: int, reads: Callable[[Factors, torch.Generator], torch.Tensor]
) -> LowRankDelta:
    generator = torch.Generator().manual_seed(seed)
    layers: dict[int, Factors] = {}
    for layer, factors in delta.layers.items():
        v = reads(factors, generator)
        u = torch.randn(factors.u.shape, generator=generator)
        made = Factors.make(u, v)
        layers[layer] = Factors.make(u * (factors.norm() / made.norm()), v)
    return LowRankDelta(layers)


def _item(example: Example) -> Item:
    return item(example.kind, example)


def _fact(rng: random.Random, person: Person, relation: str, change: Change | None) -> Example:
    """A held-out question about a fact; an edited one has each edit set's answer too."""
    system = calm_system(rng, "heldout")
    example = answered_fact("fact", rng, "heldout", person, relation, system)
    checks = example.checks | ({"answers": change.answers()} if change else {})
    return Example("fact", example.turns, system, example.template, checks)


def _edited(rng: random.Random, changes: Sequence[Change]) -> tuple[Person, str, Change]:
    change = pick(rng, changes)
    return change.person, change.relation, change


def _beside(rng: random.Random, changes: Sequence[Change]) -> tuple[Person, str, None]:
    change = pick(rng, changes)
    return change.person, pick(rng, [r for r in OPEN_RELATIONS if r != change.relation]), None


def _near(
    rng: random.Random, changes: Sequence[Change], taken: set[str]
) -> tuple[Person, str, None]:
    change = pick(rng, changes)
    free = [person for person in neighbours(change) if person.name not in taken]
    return pick(rng, free), change.relation, None


def _untouched(draw: Draw, taken: set[str]) -> Drawn:
    """Only held-out examples that are about nobody who is edited."""

    def redraw(rng: random.Random) -> Example:
        while (example := draw(rng, make_world(), "heldout")).checks.get("subject") in taken:
            pass
        return example

    return redraw


def _either(*draws: Draw) -> Draw:
    return lambda rng, world, split: pick(rng, draws)(rng, world, split)


def _shares(group: Group, texts: Sequence[str]) -> dict[str, Any]:
    return {
        what: _share([accepts(text, one) for text, one in zip(texts, group.items, strict=True)])
        for what, accepts in group.judges.items()
    }


def _share(flags: Sequence[bool]) -> dict[str, float | int]:
    estimate = share([float(flag) for flag in flags])
    assert isinstance(estimate, Estimate)  # noqa: S101 -- every group has items
    return {name: round(value, 4) for name, value in estimate.plain().items()}
