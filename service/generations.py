"""The generation: how often what is active was changed, and the digest of all that is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.digest import content_digest
from service.errors import ServiceError
from service.records import Revision, now, revision_of
from service.tables import active, generations, halts, revisions

_ROW = 1


class ConflictError(ServiceError):
    """A change of what somebody else has changed since it was looked at."""

    def __init__(self, expected: int, found: int) -> None:
        """Say which generation was expected and which is there."""
        super().__init__(
            f"the change is made for generation {expected}, and it is {found} now: somebody else "
            "changed something. Look at the plan again, and apply that"
        )
        self.expected, self.found = expected, found


class StaleStoreError(ServiceError):
    """A store that has gone back: generations only rise."""

    def __init__(self, active: int, found: int) -> None:
        """Say which generation is active and which the store has."""
        super().__init__(
            f"the store is at generation {found}, and {active} is active here: it was restored "
            "from an older copy. What is active stays so; restart the servers to take over the copy"
        )


@dataclass(frozen=True, slots=True)
class Generation:
    """The number rises by one with each change, and ``digest`` is that of what is active then."""

    number: int
    digest: str


@dataclass(frozen=True, eq=False, slots=True)
class Snapshot:
    """What was active at one moment: the revisions, and why canaries were ended, by digest."""

    generation: Generation
    revisions: tuple[Revision, ...]
    halts: Mapping[str, str]


def bundle_digest(revisions: Iterable[Revision]) -> str:
    """Return the identity of revisions together: what they say and the artifacts that they mean.

    Neither their numbers nor their owners count, so that two servers with other histories can be
    compared.
    """
    parts = sorted([r.kind, r.name, r.digest, sorted(r.artifacts.items())] for r in revisions)
    return content_digest(parts)


def active_revisions(connection: Connection) -> tuple[Revision, ...]:
    """Return the active revisions by kind and name."""
    same = sa.and_(*(active.c[c] == revisions.c[c] for c in ("kind", "name", "revision")))
    query = sa.select(revisions).join(active, same).order_by(revisions.c.kind, revisions.c.name)
    return tuple(revision_of(row) for row in connection.execute(query).mappings())


def current(connection: Connection) -> Generation:
    """Return the generation; number 0 before the first change."""
    row = connection.execute(sa.select(generations.c.generation, generations.c.digest)).first()
    return Generation(0, bundle_digest(())) if row is None else Generation(*row)


def snapshot(connection: Connection) -> Snapshot:
    """Return what is active, all of one moment."""
    ended = connection.execute(sa.select(halts.c.canary, halts.c.reason))
    found = {row.canary: row.reason for row in ended}
    return Snapshot(current(connection), active_revisions(connection), found)


def check(connection: Connection, expected: int | None) -> None:
    """Refuse a change that was made for another generation; None is made for any.

    Raises:
        ConflictError: The generation is another one.
    """
    found = current(connection).number
    if expected is not None and expected != found:
        raise ConflictError(expected, found)


def advance(connection: Connection) -> Generation:
    """Add one to the number, with the digest of what is active now, and return both.

    Call in the transaction of ``Database.write`` that changed something, after the change.
    """
    new = Generation(current(connection).number + 1, bundle_digest(active_revisions(connection)))
    connection.execute(generations.delete())
    row = {"id": _ROW, "generation": new.number, "digest": new.digest, "changed_at": now()}
    connection.execute(generations.insert().values(row))
    return new
