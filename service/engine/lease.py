"""A lease: the slots of one client request, held from its selection to its last token."""

import uuid
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from service.engine.slots import Slot, Slots
from service.engine.stamp import UNSTEERED_SPAN, Span, Stamp


@dataclass(frozen=True, eq=False)
class Lease:
    """What a request runs under. One revision of each policy, first token to last."""

    slots: Slots
    operator: Slot | None
    client: Slot | None
    strength: float
    policies: tuple[str, ...]
    """``name@revision`` of the mandatory policies, then of the chosen one."""
    digest: str
    """Identity of the policies' content and the strength."""

    def stamp(self) -> Stamp:
        """Return the stamp of one engine request, with an identity of its own."""
        operator = Span.of(self.operator.placement, 1.0) if self.operator else UNSTEERED_SPAN
        client = Span.of(self.client.placement, self.strength) if self.client else UNSTEERED_SPAN
        return Stamp(uuid.uuid4().hex, operator, client)

    @contextmanager
    def held(self) -> Generator["Lease"]:
        """Keep the rows while the context lasts.

        Raises:
            ActivationError: The rows are gone: a request outlived the lease it was made under.
        """
        slots = [slot for slot in (self.operator, self.client) if slot is not None]
        taken: list[Slot] = []
        try:
            for slot in slots:
                self.slots.acquire(slot)
                taken.append(slot)
            yield self
        finally:
            for slot in taken:
                self.slots.release(slot)


CURRENT_LEASE: ContextVar[Lease | None] = ContextVar("trimtab_lease", default=None)
"""Set by the middleware for the handlers it calls; read where all generating routes end."""
