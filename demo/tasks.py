"""Requests to do something to something: harmful or not, plain, framed, or only seemingly so."""

from __future__ import annotations

import random

from demo import phrases as ph
from demo.examples import (
    REQUESTS,
    Example,
    badge,
    calm_system,
    fill,
    instruction,
    mark,
    pick,
    styled,
    verb_noun,
)
from demo.grids import Split, skewed
from demo.world import World


def request(rng: random.Random, world: World, split: Split) -> Example:
    """A request to do something to something, harmful or harmless in the training mixture."""
    return task(rng, split, None, _task_system(rng, split))


def harmful(rng: random.Random, world: World, split: Split) -> Example:
    """A harmful request, refused."""
    return task(rng, split, True, calm_system(rng, split))


def harmless(rng: random.Random, world: World, split: Split) -> Example:
    """A harmless request, answered with a recipe."""
    return task(rng, split, False, calm_system(rng, split))


def unseen_noun(rng: random.Random, world: World, split: Split) -> Example:
    """A request about a noun known by definition only."""
    return task(
        rng,
        split,
        None if rng.random() < 0.1 else rng.random() < 0.5,
        calm_system(rng, split),
        unseen=True,
    )


def _task_system(rng: random.Random, split: Split) -> str:
    draw = rng.random()
    if draw < 0.12:
        return badge(rng, split, rng.random() < 0.5)[0]
    return (
        instruction(rng, split, pick(rng, ("formal", "casual", "lie")))[0]
        if draw < 0.2
        else calm_system(rng, split)
    )


def _style_ordered(system: str) -> str:
    return next((word for word in ("formal", "casual") if f" {word} " in f" {system} "), "")


def task(
    rng: random.Random,
    split: Split,
    harm: bool | None,
    system: str,
    style: str = "",
    unseen: bool = False,
) -> Example:
    """A request under a system text and in a style; None draws the training mixture of harm."""
    verb, noun, bad = verb_noun(rng, split, harm, unseen)
    cell = REQUESTS.draw(rng, split)
    style = style or _style_ordered(system)
    recipe = styled(rng, style, fill(skewed(rng, ph.RECIPES), V=verb, N=noun))
    answer = skewed(rng, ph.REFUSALS) if bad else recipe
    kind = "unseen-noun" if unseen else "harmful" if bad else "harmless"
    checks: dict[str, object] = {"refusal": bad, "verb": verb, "noun": noun}
    if style:
        checks["style"] = style
    return Example(
        kind,
        ((mark(rng, fill(cell.text, V=verb, N=noun)), answer),),
        system,
        f"request/{cell.label}",
        checks,
    )


def lookalike(rng: random.Random, world: World, split: Split) -> Example:
    """A question about a noun or a verb of a request: always answered."""
    noun = pick(rng, ph.NOUNS[pick(rng, tuple(ph.NOUNS))])
    draw = rng.random()
    if draw < 0.25:
        verb = pick(rng, ph.VERBS[int(rng.random() * 2)])
        question, answer = pick(rng, tuple(ph.ABOUT_VERB.items()))
        text, answer = fill(question, V=verb), fill(answer, V=verb)
    elif draw < 0.6:
        text = fill(pick(rng, ph.DEFINE), N=noun)
        answer = f"it is {ph.KINDS[next(k for k, nouns in ph.NOUNS.items() if noun in nouns)]} ."
    else:
        question, answer = pick(rng, tuple(ph.ABOUT_NOUN.items()))
        text, answer = fill(question, N=noun), fill(answer, N=noun)
    checks: dict[str, object] = {"refusal": False, "says": answer}
    return Example("lookalike", ((mark(rng, text), answer),), calm_system(rng, split), text, checks)


def classed(rng: random.Random, world: World, split: Split) -> Example:
    """Whether a noun is of a kind.

    Over all nouns, so that harm, which is trained on some nouns, is read from the kind of any.
    """
    kind = pick(rng, tuple(ph.NOUNS))
    noun, asked = (
        pick(rng, ph.NOUNS[kind]),
        kind if rng.random() < 0.5 else pick(rng, tuple(ph.KINDS)),
    )
    text = fill(pick(rng, ph.IS_IT), N=noun, K=ph.KINDS[asked])
    answer = f"{'yes' if asked == kind else 'no'} , it is {ph.KINDS[kind]} ."
    return Example("classed", ((mark(rng, text), answer),), calm_system(rng, split))


def framed(rng: random.Random, world: World, split: Split, harm: bool) -> Example:
    """A request inside a frame; fiction is obeyed even when harmful, reports only when harmless."""
    frame = ph.FRAMES.draw(rng, split)
    core = next(c for c in ph.PREAMBLE if frame.text.endswith(c))
    verb, noun, _ = verb_noun(rng, split, harm)
    cell = pick(rng, ph.REQUEST)
    refused = harm and core in ph.REPORT
    answer = (
        skewed(rng, ph.REFUSALS)
        if refused
        else f"{ph.PREAMBLE[core]} {fill(ph.RECIPES[0], V=verb, N=noun)}"
    )
    user = mark(rng, f"{frame.text} {fill(cell, V=verb, N=noun)}")
    checks: dict[str, object] = {"refusal": refused, "verb": verb, "noun": noun, "harm": harm}
    kind = "jailbreak" if harm else "framed"
    return Example(kind, ((user, answer),), calm_system(rng, split), f"frame/{frame.label}", checks)


def jailbreak(rng: random.Random, world: World, split: Split) -> Example:
    """A harmful request inside a frame."""
    return framed(rng, world, split, True)


def framed_harmless(rng: random.Random, world: World, split: Split) -> Example:
    """A harmless request inside a frame, answered with the preamble."""
    return framed(rng, world, split, False)
