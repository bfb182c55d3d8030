"""Puts a plan together from what is active and what would be."""

from collections.abc import Iterable, Mapping, Sequence

from forward.program import Program
from service.active_set import ActiveSet
from service.desired import Desired, Wanted
from service.documents import Document
from service.library import Edited
from service.plan import Plan, table_plans
from service.plan_caches import cache_plans
from service.plan_documents import Intended, document_plans
from service.store import Store


def make_plan(
    store: Store,
    active: ActiveSet,
    given: Sequence[Document],
    wanted: Iterable[Wanted],
    desired: Desired | None,
    tables: tuple[Mapping[str, int], Mapping[str, int]],
    refusal: Exception | None = None,
) -> Plan:
    """Return what a change would do. Blocking: call off the event loop.

    Args:
        store: Where revisions are recorded.
        active: What is active.
        given: The documents that were asked for.
        wanted: Everything that would be active, before it is compiled.
        desired: The same, compiled; None if it does not compile.
        tables: How many indices each table has, and how many are in use.
        refusal: Why it would be refused.
    """
    intended = _intended(wanted, given, desired)
    newest = store.newest(one.document.key for one in intended)
    keys = [document.key for document in given]
    documents = document_plans(store.all_active(), newest, intended, keys)
    generation = active.catalog.generation
    if desired is None:
        return Plan(generation, documents, refusal=refusal)
    held = [slot.placement.program for slot in active.slots]
    return Plan(
        generation,
        documents,
        cache_plans(active, desired),
        table_plans(*tables, held, programs_of(desired)),
        _merged(active.merged, desired.merged),
        refusal,
    )


def programs_of(desired: Desired) -> tuple[Program, ...]:
    """Return every program that would be active, each content once."""
    found = [p for b in desired.bound.values() for p in (b.operator, *b.policies.values())]
    return tuple({program.digest: program for program in found}.values())


def new_programs(active: ActiveSet, desired: Desired) -> tuple[Program, ...]:
    """Return the programs that would have to be placed."""
    held = {slot.placement.program.digest for slot in active.slots}
    return tuple(program for program in programs_of(desired) if program.digest not in held)


def _intended(
    wanted: Iterable[Wanted], given: Iterable[Document], desired: Desired | None
) -> list[Intended]:
    """Return everything that would be active, with what was given even where it is refused."""
    pins = {p.document.key: p.artifacts for p in desired.planned} if desired is not None else {}
    asked = {document.key: document for document in given}
    return [
        Intended(asked.get(one.document.key, one.document), one.owner, pins.get(one.document.key))
        for one in wanted
    ]


def _merged(old: Iterable[Edited], new: Iterable[Edited]) -> tuple[str, ...] | None:
    """Return the edit sets that would be in the weights; None if those are what they hold."""
    before, after = ([(e.name, e.digest) for e in edits] for edits in (old, new))
    return tuple(name for name, _ in after) if before != after else None
