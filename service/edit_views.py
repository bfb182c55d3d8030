"""What the API shows of edits, as JSON values."""

from collections.abc import Iterable, Mapping
from typing import Any

from editing.facts import Fact
from editing.spec import EditSpec
from service.edits import EditEntry, KeptEdit
from service.records import Revision
from service.views import history


def entry_view(entry: EditEntry) -> dict[str, Any]:
    """Return a line of ``GET edits``; what only solving tells is null until it is solved."""
    return {
        "name": entry.name,
        "set": entry.solves,
        "solved": entry.kept is not None,
        "document": _document(entry.revision),
        "serve": entry.revision.content["spec"]["serve"] if entry.revision else None,
        "policies": list(entry.policies),
    } | (_card(entry.kept) if entry.kept is not None else _unsolved(entry.revision))


def detail(
    entry: EditEntry, spec: EditSpec | None, revisions: Iterable[Revision]
) -> dict[str, Any]:
    """Return what ``GET edits/{name}`` shows; ``facts`` come with digest and fit.

    Args:
        entry: The edit.
        spec: Its document's set, if it has a document.
        revisions: Of the document.
    """
    content = entry.revision.content if entry.revision is not None else None
    card = entry.kept.card if entry.kept is not None else {}
    return entry_view(entry) | {
        "facts": _facts(spec, card),
        "content": content,
        "settings": card.get("settings"),
        "revisions": history(revisions),
    }


def found_already(kept: KeptEdit) -> dict[str, Any]:
    """Return the result of a job whose edit was solved before."""
    card = kept.card
    fits = _fits(card)
    facts = [plain | {"digest": d} | fits.get(d, {}) for d, plain in _card_facts(card)]
    edit = {name: card[name] for name in ("name", "model", "method", "layers", "rank", "gates")}
    return {
        "set": kept.solves,
        "artifact": kept.stored.digest,
        "cached": True,
        "edit": edit | {"facts": facts},
        "stages": [],
    }


def _document(revision: Revision | None) -> dict[str, Any] | None:
    if revision is None:
        return None
    return {
        "revision": revision.revision,
        "owner": revision.owner,
        "digest": revision.digest,
        "description": revision.document().model.metadata.description,
    }


def _card(kept: KeptEdit) -> dict[str, Any]:
    card = kept.card
    return {
        "artifact": kept.stored.digest,
        "model": card["model"],
        "method": card["method"],
        "layers": card["layers"],
        "n_facts": len(card["facts"]),
        "rank": card["rank"],
        "gates": card["gates"],
        "created_at": kept.stored.created_at,
    }


def _unsolved(revision: Revision | None) -> dict[str, Any]:
    spec: Mapping[str, Any] = revision.content["spec"] if revision is not None else {}
    unknown = dict.fromkeys(("artifact", "model", "rank", "gates", "created_at"))
    known = {"method": spec.get("method"), "layers": spec.get("layers")}
    return unknown | known | {"n_facts": len(spec.get("facts", ()))}


def _facts(spec: EditSpec | None, card: Mapping[str, Any]) -> list[dict[str, Any]]:
    fits = _fits(card)
    pairs = _card_facts(card) if spec is None else [_plain(fact) for fact in spec.edits.facts]
    return [plain | {"digest": digest, "fit": fits.get(digest)} for digest, plain in pairs]


def _card_facts(card: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    from editing.facts import parse_facts

    return [_plain(fact) for fact in parse_facts(card["facts"])]


def _plain(fact: Fact) -> tuple[str, dict[str, Any]]:
    return fact.digest, fact.plain()


def _fits(card: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return how well each fact's value was fitted, by the fact's digest."""
    fits = card.get("provenance", {}).get("fits", ())
    kept = ("nll", "loss", "steps")
    return {d: {name: fit[name] for name in kept} for fit in fits for d in fit["facts"]}
