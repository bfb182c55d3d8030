"""The demo's probes: what each is fitted on, and what of its fit is chosen on the halves.

A recipe says what is decided by what a monitor is for: whose items, which tokens are scored. The
rest (layer, regularisation, which tokens stand for a case, how scores are pooled) is a `Choice`,
made by `demo.choosing` among the recipe's alternatives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from demo.generate import Talker
from demo.labelled import HONEST
from forward.clauses import TokenClause
from forward.hookpoints import HookPoint
from monitors.items import Item, Position
from monitors.pooling import Pool
from monitors.probe import Probe, fit_probe

TRANSFER = "deception-transfer"
LAYERS = (3, 2, 1)
"""At or before the first site that any of the demo's policies writes at, so that none of their
writes reaches a monitor: a read sees the residual before its own site's writes."""

MAX = Pool("max")
GENERATION = TokenClause("generation")
LAST_PROMPT = TokenClause("last_prompt")


@dataclass(frozen=True)
class Choice:
    """What of a probe and its monitor is chosen.

    Attributes:
        layer: Where it reads: ``resid_post.layer``.
        l2: Regularisation.
        places: The tokens that stand for a case, counted from the item's own position or, where it
            has none, from the start of its answer. A probe of the prompt has the last prompt token.
        pool: How the scores of tokens become one; the probe is fitted on what it averages.
    """

    layer: int = LAYERS[0]
    l2: float = 1e-2
    places: tuple[int, ...] = (0,)
    pool: Pool = MAX

    @property
    def point(self) -> HookPoint:
        """The hook point."""
        return HookPoint("resid_post", self.layer)

    def __str__(self) -> str:
        """Return the choice as people read it."""
        places = ", ".join(map(str, self.places))
        return f"{self.point}, l2 {self.l2:g}, places {places}, {self.pool}"


Stage = Mapping[str, Sequence[object]]
"""Alternatives by field of a choice; all their combinations are compared at once."""


@dataclass(frozen=True)
class Recipe:
    """How one probe is fitted.

    Attributes:
        name: Of the probe.
        monitor: Whose labelled items it is fitted on.
        clause: Whose tokens are scored.
        about: What its monitor tells, for its document.
        stages: Alternatives, compared stage by stage, the best kept; first comes what wins a tie.
        slices: Those it is fitted on; all if empty.
        all_tokens: Whether every token of a benign answer is a benign case.
        at_place: Whether it means the tokens that stand for items and no others.
    """

    name: str
    monitor: str
    clause: TokenClause
    about: str
    stages: tuple[Stage, ...]
    slices: tuple[str, ...] = ()
    all_tokens: bool = False
    at_place: bool = False


_ONE_TOKEN: Stage = {"layer": LAYERS, "l2": (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)}
_WEAK = (1e-3, 1e-4, 1e-5, 1e-6)
RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "harm",
            "harm",
            LAST_PROMPT,
            "a harmful request, read where the answer is about to begin",
            (_ONE_TOKEN,),
        ),
        # That a recipe is harmful is on the model's mind when it begins, not where it is spelt out.
        Recipe(
            "harm-answer",
            "harm-answer",
            GENERATION,
            "the recipe of a harmful request, read as it is written",
            (
                {"l2": (1e-5,), "places": ((0,), (1,), (0, 1))},
                {"pool": (MAX, Pool("rolling", window=2), Pool("ema", alpha=0.5))},
                {"l2": _WEAK},
                {"layer": LAYERS},
            ),
            all_tokens=True,
        ),
        Recipe("refusal", "refusal", LAST_PROMPT, "the model is about to refuse", (_ONE_TOKEN,)),
        # At the token before the object a pressured lie looks like a quote, at the first of the
        # answer it does not: so a pool that remembers is among the alternatives.
        Recipe(
            "deception",
            "deception",
            GENERATION,
            "an answer names what the model does not believe",
            (
                {
                    "l2": (1e-5,),
                    "places": ((0,), (1,)),
                    "pool": (MAX, *(Pool("ema", alpha=a) for a in (0.5, 0.3, 0.2, 0.15, 0.1))),
                },
                {"l2": _WEAK},
                {"layer": LAYERS},
            ),
            all_tokens=True,
        ),
        # On ordered lies and honest answers alone, where the lie is decided: what carries over to
        # other lies. Benign cases at other tokens, or tales and quotes, would turn it to what is
        # peculiar to an order.
        Recipe(
            TRANSFER,
            "deception",
            GENERATION,
            "",
            (_ONE_TOKEN,),
            ("lie-instructed", *HONEST),
            at_place=True,
        ),
    )
}


def chosen(recipe: Recipe, items: Sequence[Item]) -> list[Item]:
    """Return the items of the slices that a recipe is fitted on."""
    return [item for item in items if is_for(recipe, item)]


def is_for(recipe: Recipe, item: Item) -> bool:
    """Whether an item's slice is one that a recipe is fitted on."""
    return not recipe.slices or item.slice in recipe.slices


def positions(recipe: Recipe, choice: Choice, item: Item) -> tuple[Position, ...]:
    """Return which tokens stand for an item, several of them as several cases."""
    if recipe.clause == LAST_PROMPT:
        return ("last_prompt",)
    if recipe.all_tokens and item.label == 0:
        return ("every",)
    start = item.position if isinstance(item.position, int) else 0
    return tuple(start + place for place in choice.places)


def fitted(
    recipe: Recipe, choice: Choice, items: Sequence[Item], talker: Talker, fingerprint: str
) -> Probe:
    """Return a probe fitted by its recipe, as was chosen, on labelled items."""
    cases = [
        replace(item, position=position)
        for item in chosen(recipe, items)
        for position in positions(recipe, choice, item)
    ]
    return fit_probe(
        talker.model,
        talker.tokenizer,  # pyright: ignore[reportArgumentType] -- its calls are untyped
        cases,
        name=recipe.name,
        kind="logistic",
        point=choice.point,
        fingerprint=fingerprint,
        clause=recipe.clause,
        l2=choice.l2,
        pool=choice.pool,
    )
