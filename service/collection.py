"""Takes away artifacts that nothing names, and files that nobody owns; imports no torch.

Nothing that a revision names is ever taken, however old the revision: a rollback finds what it
needs. A row and its files go in one transaction of the only writer, with what the audit log says
of it.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.audit import append
from service.clock import SteadyClock
from service.database import Database, StoreError
from service.jobs import ENDED
from service.records import StoredArtifact, artifact_of
from service.tables import artifacts, jobs, revisions

SUFFIXES = (".json", ".safetensors")
GRACE = timedelta(days=1)
"""How long what nothing names is left: whoever added it may be about to name it."""


class ArtifactInUseError(StoreError):
    """An artifact that something names."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What was taken, or would be.

    Attributes:
        artifacts: Artifacts that nothing names.
        orphans: Files of the folder that belong to no artifact.
        freed: Their sizes together, in bytes.
    """

    artifacts: tuple[StoredArtifact, ...]
    orphans: tuple[Path, ...]
    freed: int


class Collector:
    """Looks through one store. Blocking: call off the event loop."""

    def __init__(self, database: Database, folder: Path, clock: SteadyClock) -> None:
        """Look through ``database`` and the folder of its files; ages go by ``clock``."""
        self._database, self._folder, self._clock = database, folder, clock

    def unnamed(self, keep: Collection[str] = (), grace: timedelta = GRACE) -> Collected:
        """Return what ``collect`` would take."""
        with self._database.read() as connection:
            return self._found(connection, keep, grace)

    def collect(
        self, actor: str, keep: Collection[str] = (), grace: timedelta = GRACE
    ) -> Collected:
        """Take away every artifact that nothing names and every file that nobody owns.

        Args:
            actor: Who does it, for the audit log.
            keep: Digests to leave, beyond those that revisions and jobs name.
            grace: How old what is taken must be.
        """
        with self._database.write() as connection:
            found = self._found(connection, keep, grace)
            for artifact in found.artifacts:
                _take(connection, actor, "collect", artifact)
            for path in found.orphans:
                path.unlink(missing_ok=True)
        return found

    def remove(self, actor: str, digest: str, keep: Collection[str] = ()) -> StoredArtifact | None:
        """Take one artifact away, whatever its age; return it, or None if there is none.

        Raises:
            ArtifactInUseError: A revision, a job or somebody else names it.
        """
        with self._database.write() as connection:
            query = sa.select(artifacts).where(artifacts.c.digest == digest)
            row = connection.execute(query).mappings().first()
            if row is None:
                return None
            artifact = artifact_of(row, self._folder)
            user = next(_users(connection, digest), None)
            if user is None and digest in keep:
                user = "the policy directory"
            if user is not None:
                raise ArtifactInUseError(
                    f"artifact {digest[:12]} ({artifact.kind} '{artifact.name}') is named by {user}"
                )
            _take(connection, actor, "remove", artifact)
            return artifact

    def _found(self, connection: Connection, keep: Collection[str], grace: timedelta) -> Collected:
        rows = connection.execute(sa.select(artifacts)).mappings().all()
        everything = [artifact_of(row, self._folder) for row in rows]
        named = {*_pinned(connection), *_of_jobs(connection), *keep}
        oldest = self._clock.earliest() - grace
        before = oldest.isoformat(timespec="milliseconds")
        unnamed = tuple(
            one for one in everything if one.digest not in named and one.created_at < before
        )
        known = {one.digest for one in everything}
        orphans = tuple(_orphans(self._folder, known, oldest.timestamp()))
        sizes = [size_of(one) for one in unnamed] + [_size(path) for path in orphans]
        return Collected(unnamed, orphans, sum(sizes))


def size_of(artifact: StoredArtifact) -> int:
    """Return the bytes of an artifact's files, 0 for those that are gone."""
    return sum(_size(artifact.path.with_suffix(suffix)) for suffix in SUFFIXES)


def _take(connection: Connection, actor: str, action: str, artifact: StoredArtifact) -> None:
    before = {"kind": artifact.kind, "name": artifact.name, "bytes": size_of(artifact)}
    append(connection, actor, action, f"Artifact/{artifact.digest}", before, None)
    connection.execute(artifacts.delete().where(artifacts.c.digest == artifact.digest))
    # The tensors first: where they are found, their card is there too.
    for suffix in reversed(SUFFIXES):
        artifact.path.with_suffix(suffix).unlink(missing_ok=True)


def _pinned(connection: Connection) -> Iterator[str]:
    """Yield every digest that a revision means."""
    for text in connection.execute(sa.select(revisions.c.artifacts)).scalars():
        yield from json.loads(text).values()


def _of_jobs(connection: Connection) -> Iterator[str]:
    """Yield every digest that a job at work or waiting was given."""
    query = sa.select(jobs.c.request).where(jobs.c.state.not_in(ENDED))
    for text in connection.execute(query).scalars():
        yield from _named(text)


def _named(request: str) -> Iterable[str]:
    given = json.loads(request)
    return [*given.get("beside", ()), *filter(None, (given.get("artifact"), given.get("alike")))]


def _users(connection: Connection, digest: str) -> Iterator[str]:
    """Yield what names an artifact, in words."""
    columns = (revisions.c.kind, revisions.c.name, revisions.c.revision, revisions.c.artifacts)
    for kind, name, number, text in connection.execute(sa.select(*columns)):
        if digest in json.loads(text).values():
            yield f"{kind} {name}@{number}"
    query = sa.select(jobs.c.id, jobs.c.request).where(jobs.c.state.not_in(ENDED))
    for number, text in connection.execute(query):
        if digest in _named(text):
            yield f"job {number}"


def _orphans(folder: Path, known: Collection[str], before: float) -> Iterator[Path]:
    """Yield files, last written before a time, that belong to no artifact.

    Temporary names begin with a dot. Folders are others' business.
    """
    for path in sorted(folder.iterdir()):
        is_file = path.is_file() and not path.is_symlink()
        is_ours = path.name.startswith(".") or path.suffix in SUFFIXES
        if is_file and is_ours and path.stem not in known and path.stat().st_mtime < before:
            yield path


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
