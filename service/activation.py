"""Makes recorded revisions the active ones, with what the audit log says of it, in one step."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service import generations
from service.audit import append
from service.database import StoreError
from service.digest import content_digest
from service.generations import Generation, active_revisions
from service.records import Key, Revision, now
from service.tables import active, artifacts

REMOVE = "remove"
_DOCUMENTS = ("monitor/", "editset/")
"""Keys of what a policy pins that is no artifact: documents, which pin their own artifacts."""


class ArtifactGoneError(StoreError):
    """An artifact that a change means is not there any more."""


@dataclass(frozen=True, slots=True)
class By:
    """Who changes what is active, and what they do.

    Attributes:
        actor: As ``Caller.label`` says it.
        action: ``apply``, ``set``, ``rollback``; what is taken away is logged as ``remove``.
        expected: The generation that the change is made for; None for any.
    """

    actor: str
    action: str = "apply"
    expected: int | None = None


def activate(connection: Connection, wanted: Mapping[Key, Revision | None], by: By) -> Generation:
    """Make each name's revision the active one; None takes the name away.

    What is so already is left alone; if all is, nothing is written.

    Raises:
        ConflictError: The change is made for another generation.
        ArtifactGoneError: A revision means an artifact that is not there any more.
    """
    generations.check(connection, by.expected)
    old = {revision.key: revision for revision in active_revisions(connection)}
    changed = {
        key: revision
        for key, revision in wanted.items()
        if _number(revision) != _number(old.get(key))
    }
    _check_pins(connection, changed.values())
    for key, revision in changed.items():
        _point(connection, key, _number(revision))
        action = by.action if revision is not None else REMOVE
        before, after = state_of(old.get(key)), state_of(revision)
        append(connection, by.actor, action, "/".join(key), before, after)
    return generations.advance(connection) if changed else generations.current(connection)


def _check_pins(connection: Connection, recorded: Iterable[Revision | None]) -> None:
    """Refuse what means an artifact that was taken away since it was compiled."""
    wanted = {
        digest
        for revision in recorded
        if revision is not None
        for key, digest in revision.artifacts.items()
        if not key.startswith(_DOCUMENTS)
    }
    query = sa.select(artifacts.c.digest).where(artifacts.c.digest.in_(wanted))
    gone = sorted(wanted - set(connection.execute(query).scalars()))
    if gone:
        raise ArtifactGoneError(
            f"artifact {gone[0][:12]} was taken away while the change was made: apply it again"
        )


def state_of(revision: Revision | None) -> dict[str, Any] | None:
    """Return what the audit log says of a revision: its number and the digests of what it means."""
    if revision is None:
        return None
    return {
        "revision": revision.revision,
        "digest": revision.digest,
        "artifacts": content_digest(dict(revision.artifacts)),
        "owner": revision.owner,
    }


def _point(connection: Connection, key: Key, number: int | None) -> None:
    kind, name = key
    connection.execute(active.delete().where(active.c.kind == kind, active.c.name == name))
    row = {"kind": kind, "name": name, "revision": number, "changed_at": now()}
    connection.execute(active.insert().values(row))


def _number(revision: Revision | None) -> int | None:
    return revision.revision if revision is not None else None
