"""What becomes of documents: which are new, which differ and in what, which go."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from service.differences import Difference, differences
from service.documents import Document
from service.plan import DocumentPlan
from service.records import Key, Owner, Revision
from service.schemas import Policy


@dataclass(frozen=True, slots=True)
class Intended:
    """A document as it would be, with its owner and the artifacts that it would mean.

    ``artifacts`` is None where that is not known, because something does not compile.
    """

    document: Document
    owner: Owner
    artifacts: Mapping[str, str] | None = None


def document_plans(
    active: Iterable[Revision],
    newest: Mapping[Key, Revision],
    intended: Iterable[Intended],
    given: Iterable[Key],
) -> tuple[DocumentPlan, ...]:
    """Return what becomes of the documents that were given and of all others that would change.

    Args:
        active: The active revisions.
        newest: The newest recorded revision of each document that has one.
        intended: Everything that would be active.
        given: Which of it was asked for.
    """
    old = {revision.key: revision for revision in active}
    new = {one.document.key: one for one in intended}
    asked = set(given)
    plans = [_plan(old.get(key), newest.get(key), one) for key, one in sorted(new.items())]
    gone = [DocumentPlan(k, "remove", r.revision) for k, r in old.items() if k not in new]
    return tuple(p for p in [*plans, *gone] if p.key in asked or p.action != "none")


def _plan(old: Revision | None, newest: Revision | None, new: Intended) -> DocumentPlan:
    document, model = new.document, new.document.model
    content = old.content if old is not None else document.content | {"metadata": {}, "spec": {}}
    changed = tuple(differences(content, document.content))
    moved: tuple[Difference, ...] = ()
    if old is not None:
        changed += tuple(differences(old.owner, new.owner, "owner"))
        pins = old.artifacts if new.artifacts is None else new.artifacts
        moved = tuple(differences(dict(old.artifacts), dict(pins)))
    is_same = old is not None and not changed and not moved
    return DocumentPlan(
        document.key,
        "add" if old is None else "none" if is_same else "change",
        old.revision if old is not None else None,
        old.revision if old is not None and is_same else _number(newest, new),
        changed,
        new.artifacts,
        moved,
        tuple(model.spec.monitors) if isinstance(model, Policy) else (),
    )


def _number(newest: Revision | None, new: Intended) -> int:
    """Return the number that a revision would get: that of the newest if it says the same."""
    if newest is None:
        return 1
    said = (newest.digest, newest.owner, dict(newest.artifacts))
    says = (new.document.digest, new.owner, dict(new.artifacts or {}))
    return newest.revision if said == says else newest.revision + 1
