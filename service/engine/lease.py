"""A lease: the slots of one client request, held from its selection to its last token."""

import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from forward.hookpoints import HookPoint
from service.engine.slots import Slot, Slots
from service.engine.stamp import UNSTEERED_SPAN, Span, Stamp, StampError
from service.watch import Watched, under_adapter


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
    watched: tuple[Watched, ...] = ()
    """The monitors that watch the request."""
    tenant: str = ""
    """Whose request it is: no other tenant's finds its prompt in the cache."""

    def stamp(self, n: int = 1) -> Stamp:
        """Return the stamp of one engine request of ``n`` choices, with an identity of its own.

        Raises:
            StampError: A monitor reads what no table holds.
        """
        operator = Span.of(self.operator.placement, 1.0) if self.operator else UNSTEERED_SPAN
        client = Span.of(self.client.placement, self.strength) if self.client else UNSTEERED_SPAN
        wanted = {column for columns in self.columns() for column in columns}
        columns = tuple(sorted(wanted))
        return Stamp(uuid.uuid4().hex, operator, client, columns, n, self.tenant)

    def columns(self) -> tuple[tuple[int, ...], ...]:
        """Return, for each monitor, the exported score of each of its reads.

        Raises:
            StampError: A monitor reads what no table holds.
        """
        exported = {key: c for slot in self.slots_held for key, c in slot.placement.columns.items()}
        return tuple(_columns(watched, exported) for watched in self.watched)

    @property
    def reads_all(self) -> bool:
        """Whether no prompt token may come from the prefix cache.

        A monitor scores prompt tokens, or a gate listens to them. The last prompt token is always
        computed, so a monitor of it alone needs nothing.
        """
        scored = any(w.plan.clause.phase in ("all", "prompt") for w in self.watched)
        return scored or any(slot.placement.program.latches for slot in self.slots_held)

    @property
    def slots_held(self) -> tuple[Slot, ...]:
        """The slots of both sources, as far as there are any."""
        return tuple(slot for slot in (self.operator, self.client) if slot is not None)

    def under_adapter(self, name: str) -> "Lease":
        """Return the lease of a request to a LoRA adapter: what watches it is unfit."""
        return replace(self, watched=tuple(under_adapter(w, name) for w in self.watched))

    @contextmanager
    def held(self) -> Generator["Lease"]:
        """Keep the rows while the context lasts.

        Raises:
            ActivationError: The rows are gone: a request outlived the lease it was made under.
        """
        taken: list[Slot] = []
        try:
            for slot in self.slots_held:
                self.slots.acquire(slot)
                taken.append(slot)
            yield self
        finally:
            for slot in taken:
                self.slots.release(slot)


def _columns(watched: Watched, exported: Mapping[tuple[HookPoint, str], int]) -> tuple[int, ...]:
    reader = watched.plan.reader
    try:
        return tuple(exported[(reader.point, read.digest)] for read in reader.reads)
    except KeyError as error:
        raise StampError(
            f"monitor '{watched.monitor}' of {watched.policy} reads at {reader.point} what no "
            "table holds: a request under it is not served"
        ) from error


CURRENT_LEASE: ContextVar[Lease | None] = ContextVar("trimtab_lease", default=None)
"""Set by the middleware for the handlers it calls; read where all generating routes end."""
