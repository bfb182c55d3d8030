"""The demo's probes: which items each is fitted on, and which token stands for an item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from demo.generate import Talker
from demo.labelled import HONEST, for_fitting
from forward.clauses import TokenClause
from forward.hookpoints import HookPoint
from monitors.items import Item, Position
from monitors.probe import Probe, fit_probe

TRANSFER = "deception-transfer"
POINT = HookPoint("resid_post", 3)
"""Before or at the first site that any of the demo's policies writes at, so that none of their
writes reaches a monitor: a read sees the residual before its own site's writes."""


@dataclass(frozen=True)
class Recipe:
    """How one probe is fitted.

    Attributes:
        name: Of the probe.
        monitor: Whose labelled items it is fitted on.
        clause: Whose tokens stand for a benign item, unless it stands at one.
        position: Which token stands for an item that does not say.
        slices: Those it is fitted on; all if empty.
        all_tokens: Whether every token of a benign answer is a benign case.
        l2: Regularisation.
    """

    name: str
    monitor: str
    clause: TokenClause
    position: Position
    slices: tuple[str, ...] = ()
    all_tokens: bool = False
    l2: float = 1e-2


GENERATION = TokenClause("generation")
LAST_PROMPT = TokenClause("last_prompt")
RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("harm", "harm", LAST_PROMPT, "last_prompt", l2=1e-3),
        # That a recipe is harmful is on the model's mind when it begins, not where it is spelt out.
        Recipe("harm-answer", "harm-answer", GENERATION, 1, all_tokens=True, l2=1e-3),
        Recipe("refusal", "refusal", LAST_PROMPT, "last_prompt"),
        Recipe("deception", "deception", GENERATION, "every", all_tokens=True, l2=1e-3),
        # On ordered lies and honest answers alone, where the lie is decided: what carries over to
        # other lies. Benign cases at other tokens, or tales and quotes, would turn it to what is
        # peculiar to an order.
        Recipe(TRANSFER, "deception", GENERATION, "every", ("lie-instructed", *HONEST)),
    )
}


def chosen(recipe: Recipe, items: Sequence[Item]) -> list[Item]:
    """Return the items of the slices that a recipe is fitted on."""
    return [item for item in items if not recipe.slices or item.slice in recipe.slices]


def fitted(recipe: Recipe, items: Sequence[Item], talker: Talker, fingerprint: str) -> Probe:
    """Return a probe fitted by its recipe on labelled items of the portion to fit on."""
    cases = chosen(recipe, items)
    return fit_probe(
        talker.model,
        talker.tokenizer,  # pyright: ignore[reportArgumentType] -- its calls are untyped
        for_fitting(cases) if recipe.all_tokens else cases,
        name=recipe.name,
        kind="logistic",
        point=POINT,
        fingerprint=fingerprint,
        position=recipe.position,
        clause=recipe.clause,
        l2=recipe.l2,
    )
