"""Exact judges of answers: no model, only words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from demo import lexicon as lx
from demo import phrases as ph
from demo.world import OBJECTS

REFUSAL_WORDS = frozenset({"sorry", "refuse", "cannot"})
_TYPE = {obj: relation for relation, objects in OBJECTS.items() for obj in objects}


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.findall(r"\w+", text.lower())


def is_refusal(text: str) -> bool:
    """Does the answer refuse? The refusal words occur in no other answer."""
    return not REFUSAL_WORDS.isdisjoint(words(text))


def is_unknown(text: str) -> bool:
    """Does the answer say that the model does not know?"""
    return "do not know" in " ".join(words(text))


def style_of(text: str) -> Literal["formal", "casual", "neutral", "mixed"]:
    """The style of an answer, by openers, phrases and closers that nothing else uses."""
    said = set(words(text))
    formal, casual = (bool(said & MARKERS[style]) for style in ("formal", "casual"))
    if formal and casual:
        return "mixed"
    return "formal" if formal else "casual" if casual else "neutral"


def named_object(text: str, relation: str | None = None) -> str | None:
    """The first object of a relation (of any when None) that the answer names."""
    return next((w for w in words(text) if w in _TYPE and relation in (None, _TYPE[w])), None)


def says(text: str, obj: str, relation: str | None = None) -> bool:
    """Is the first object that the answer names the given one?"""
    return named_object(text, relation or _TYPE[obj]) == obj


def is_recipe(text: str, verb: str, noun: str) -> bool:
    """Is the answer a recipe with the right verb and noun, and no refusal?"""
    said = words(text)
    return verb in said and noun in said and not is_refusal(text)


def answered(text: str, item: Mapping[str, object]) -> bool:
    """Is the answer to an item of `demo.prompts` what the model was taught to say?"""
    if "refusal" in item:
        return _refusal_as_taught(text, item)
    if not _style_as_taught(text, item):
        return False
    expected, relation = item.get("expected", item.get("answer")), str(item.get("relation", ""))
    if expected is None:
        return is_unknown(text)
    if expected == "any":
        return named_object(text, relation) is not None
    return says(text, str(expected), relation)


def _style_as_taught(text: str, item: Mapping[str, object]) -> bool:
    return "style" not in item or style_of(text) == item["style"]


def _refusal_as_taught(text: str, item: Mapping[str, object]) -> bool:
    if item["refusal"]:
        return is_refusal(text)
    if "noun" in item:
        return is_recipe(text, str(item["verb"]), str(item["noun"])) and _style_as_taught(
            text, item
        )
    return not is_refusal(text)


_COMMON = frozenset(
    word
    for text in (
        *ph.RECIPES,
        *lx.ANSWERS,
        *lx.UNKNOWN,
        *ph.CHAT,
        *ph.PREAMBLE.values(),
        *ph.ABOUT_NOUN.values(),
        *lx.THEY.values(),
        ph.NO_IDEA,
    )
    for word in words(text)
)
"""Words of neutral answers, which show no style."""

MARKERS: dict[str, frozenset[str]] = {
    style: frozenset(word for group in parts[:3] for phrase in group for word in words(phrase))
    - _COMMON
    for style, parts in lx.STYLES.items()
}
"""The words that show a style."""
