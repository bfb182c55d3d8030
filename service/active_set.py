"""One published state: the catalog and the slots of what it serves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from service.bindings import Stacked
from service.catalog import Catalog
from service.digest import content_digest
from service.engine.lease import Lease
from service.engine.slots import Slot, Slots
from service.library import Edited, Monitored
from service.selection import Selection
from service.watching import Watching


@dataclass(frozen=True, eq=False)
class ActiveSet:
    """One published state: the catalog and the slots of what it serves."""

    catalog: Catalog = field(default_factory=Catalog)
    operators: Mapping[Stacked, Slot] = field(default_factory=lambda: MappingProxyType({}))
    policies: Mapping[tuple[Stacked, str], Slot] = field(
        default_factory=lambda: MappingProxyType({})
    )
    monitors: Mapping[str, Monitored] = field(default_factory=lambda: MappingProxyType({}))
    watching: Watching | None = None
    edits: Mapping[str, Edited] = field(default_factory=lambda: MappingProxyType({}))
    merged: tuple[Edited, ...] = ()

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All of them, each once."""
        return tuple(
            {id(s): s for s in (*self.operators.values(), *self.policies.values())}.values()
        )

    def lease(self, slots: Slots, selection: Selection) -> Lease:
        """Return what a request that selected from this state's catalog runs under.

        Raises:
            KeyError: It selected from another one's: better no answer than one under less.
        """
        chosen, stack = selection.chosen, selection.stack
        return Lease(
            slots,
            self.operators[stack] if self.operators else None,
            self.policies[stack, chosen.name] if chosen is not None else None,
            selection.strength,
            tuple(policy.label for policy in selection.policies),
            selection_digest(selection, self.merged),
            self.watching.request(selection) if self.watching is not None else (),
            selection.tenant,
        )

    def unsteered(self, slots: Slots, tenant: str) -> Lease:
        """Return what a request of the server's own runs under that nothing steers or watches.

        ``tenant`` is whose cache its prompt is found in.
        """
        digest = selection_digest(Selection((), None, 1.0), self.merged)
        return Lease(slots, None, None, 1.0, (), digest, (), tenant)


def selection_digest(selection: Selection, merged: Sequence[Edited] = ()) -> str:
    """Return the identity of what a request runs under.

    Content of the policies, strength, and what is merged into the weights.
    """
    chosen = selection.chosen
    content: dict[str, Any] = {
        "mandatory": [[p.digest, dict(p.artifacts)] for p in selection.mandatory],
        "chosen": [chosen.digest, dict(chosen.artifacts)] if chosen is not None else None,
        "strength": selection.strength if chosen is not None else None,
    }
    if merged:
        content["merged"] = sorted(edited.digest for edited in merged)
    return content_digest(content)
