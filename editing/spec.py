"""Edit sets as files write them: a list of facts, or a document that says how to solve them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from editing.facts import METHODS, EditSet, FactError, parse_facts
from editing.phrasings import Phrasing, parse_phrasing

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_FIELDS = {"name", "method", "layers", "facts", "neighbours", "keep", "match", "serve"}


@dataclass(frozen=True)
class EditSpec:
    """A set, and prompts whose next token is to stay (for the gate ``neighbours``)."""

    edits: EditSet
    neighbours: tuple[Phrasing, ...] = ()


def parse_spec(
    value: object,
    name: str | None = None,
    method: str | None = None,
    layers: Sequence[int] = (),
    n_layers: int | None = None,
) -> EditSpec:
    """Read an edit set.

    Args:
        value: A list of facts; a mapping with ``facts`` and, as wanted, ``name``, ``method``,
            ``layers``, ``neighbours`` and ``keep`` (prompts added to every fact's); or an
            ``EditSet`` document with these under ``spec``.
        name: Instead of the file's.
        method: Instead of the file's; ``memit`` if neither names one.
        layers: Instead of the file's.
        n_layers: The model's depth, for the layer to edit where nobody names one: a sixth of it.

    Raises:
        FactError: It has another form; says where.
    """
    fields = _fields(value)
    unknown = sorted(set(fields) - _FIELDS)
    if unknown:
        raise FactError(f"unknown field '{unknown[0]}'; known: {', '.join(sorted(_FIELDS))}")
    chosen = method or fields.get("method") or "memit"
    if chosen not in METHODS:
        raise FactError(f"unknown method '{chosen}': choose one of {', '.join(METHODS)}")
    where = tuple(layers) or _layers(fields.get("layers") or ()) or _usual(n_layers)
    known = name or fields.get("name")
    if not isinstance(known, str) or not _NAME.fullmatch(known):
        raise FactError(f"'{known}' is no name: use lower-case letters, digits and hyphens")
    facts = parse_facts(_kept(fields.get("facts"), fields.get("keep") or ()))
    probes = fields.get("neighbours") or ()
    return EditSpec(
        EditSet(known, facts, chosen, where),
        tuple(parse_phrasing(probe, f"neighbours[{i}]") for i, probe in enumerate(probes)),
    )


def _fields(value: object) -> dict[str, Any]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {"facts": value}
    if not isinstance(value, Mapping):
        raise FactError("an edit set is a list of facts, or a mapping with 'facts'")
    fields: dict[str, Any] = dict(value)
    if fields.get("kind") == "EditSet":
        metadata, spec = fields.get("metadata") or {}, fields.get("spec")
        if not isinstance(spec, Mapping) or not isinstance(metadata, Mapping):
            raise FactError("an EditSet document has 'metadata' and 'spec'")
        return {"name": metadata.get("name"), **spec}
    return fields


def _kept(facts: object, keep: Sequence[object]) -> object:
    """Return facts with the set's ``keep`` prompts added to each one's."""
    if not keep or not isinstance(facts, Sequence):
        return facts
    return [
        {**fact, "keep": [*fact.get("keep", ()), *keep]} if isinstance(fact, Mapping) else fact
        for fact in facts
    ]


def _layers(value: object) -> tuple[int, ...]:
    listed = value if isinstance(value, Sequence) else (value,)
    if not all(isinstance(layer, int) and layer >= 0 for layer in listed):
        raise FactError(f"'layers' is a list of layer numbers from 0, not {value!r}")
    return tuple(listed)


def _usual(n_layers: int | None) -> tuple[int, ...]:
    return () if n_layers is None else (max(1, n_layers // 6) if n_layers > 1 else 0,)
