"""The store behind ``--state``: revisions, what is active, and artifacts."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.activation import By, activate
from service.artifact_store import ArtifactStore
from service.audit import AuditLog
from service.clock import SteadyClock
from service.collection import Collector
from service.database import Database, StoreError, parse_url
from service.decisions import DecisionStore
from service.documents import Document
from service.events import EventStore
from service.generations import (
    Generation,
    Snapshot,
    active_revisions,
    check,
    current,
    snapshot,
)
from service.halts import HaltStore
from service.health import Health
from service.jobs import JobStore
from service.keys import KeyStore
from service.overview import Overview
from service.records import (
    Key,
    Owner,
    Revision,
    StoredArtifact,
    now,
    revision_of,
    revision_row,
)
from service.replicas import ReplicaStore
from service.schemas import Kind
from service.sessions import SessionStore
from service.settings import EventRetention
from service.tables import active, revisions


class RevisionNotFoundError(StoreError):
    """No such document or revision was ever recorded."""


class Store:
    """Revisions and artifacts; every method is one transaction. Blocking: call off the loop."""

    def __init__(
        self, database: Database, artifacts_folder: Path, artifact_quota: int | None = None
    ) -> None:
        """Keep the database, the folder of the artifacts' files, and how many bytes they may be."""
        self._database, self.artifacts_folder = database, artifacts_folder
        self._artifacts = ArtifactStore(database, artifacts_folder, artifact_quota)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._clock = SteadyClock()

    @classmethod
    def open(
        cls,
        url: str,
        artifacts_folder: Path | None = None,
        must_exist: bool = False,
        artifact_quota: int | None = None,
    ) -> Self:
        """Open the store at a folder, ``sqlite:///file`` or ``postgresql://…``, making it if new.

        Args:
            url: Where the database is.
            artifacts_folder: Where artifacts' files are; beside an SQLite file by default.
            must_exist: Refuse to make a new SQLite file.
            artifact_quota: How many bytes artifacts may take; None for any number.

        Raises:
            StoreError: It cannot be opened, or it is PostgreSQL and no folder holds the artifacts.
        """
        parsed = parse_url(url)
        is_file = parsed.get_backend_name() == "sqlite"
        if must_exist and is_file and not Path(parsed.database or "").is_file():
            raise StoreError(f"there is no store at {url}: {parsed.database} is missing")
        if artifacts_folder is None and is_file:
            artifacts_folder = Path(parsed.database or "").parent / "artifacts"
        if artifacts_folder is None:
            raise StoreError(
                "a PostgreSQL store keeps its artifacts' files in a folder: set TRIMTAB_ARTIFACTS"
            )
        try:
            artifacts_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{artifacts_folder} cannot be made: {error.strerror}") from error
        return cls(Database(parsed), artifacts_folder, artifact_quota)

    @classmethod
    def ephemeral(cls, artifact_quota: int | None = None) -> Self:
        """Open a store that is removed when it is closed."""
        folder = tempfile.TemporaryDirectory(prefix="trimtab-")
        store = cls.open(folder.name, artifact_quota=artifact_quota)
        store._temporary = folder
        return store

    def close(self) -> None:
        """Close the database; an ephemeral store is removed."""
        self._database.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    @property
    def health(self) -> Health:
        """Whether the database can be used, as far as its last uses tell."""
        return self._database.health

    def probe(self) -> None:
        """Use the database, so that ``health`` is of now; never raises for its failures."""
        self._database.probe()

    def call_silent(self, seconds: float) -> None:
        """Note that a use has not come back for so long."""
        self._database.call_silent(seconds)

    def events(self, retention: EventRetention | None = None) -> EventStore:
        """Return the events of the same database."""
        return EventStore(self._database, retention)

    def audit(self) -> AuditLog:
        """Return the audit log of the same database."""
        return AuditLog(self._database)

    def decisions(self, retention: EventRetention | None = None) -> DecisionStore:
        """Return the decision records of the same database."""
        return DecisionStore(self._database, retention)

    def jobs(self) -> JobStore:
        """Return the jobs of the same database."""
        return JobStore(self._database)

    def keys(self) -> KeyStore:
        """Return the keys of the same database."""
        return KeyStore(self._database)

    def overview(self) -> Overview:
        """Return counts over the same database."""
        return Overview(self._database)

    def sessions(self, admin: bytes) -> SessionStore:
        """Return browsers' sessions of the same database, for a digest of the admin key."""
        return SessionStore(self._database, admin)

    def halts(self) -> HaltStore:
        """Return the canaries that were ended, of the same database."""
        return HaltStore(self._database)

    def replicas(self) -> ReplicaStore:
        """Return the servers of the same database."""
        return ReplicaStore(self._database)

    def __enter__(self) -> Self:
        """Return the store."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the store."""
        self.close()

    def record(self, document: Document, artifacts: Mapping[str, str], owner: Owner) -> Revision:
        """Record a document and return its revision; it is not active yet.

        The same content, artifacts and owner as the newest revision return that revision.
        """
        with self._database.write() as connection:
            newest = _newest(connection, document.key)
            candidate = Revision(
                document.kind,
                document.name,
                newest.revision + 1 if newest else 1,
                document.digest,
                document.content,
                dict(artifacts),
                owner,
                now(),
            )
            if newest is not None and _same(newest, candidate):
                return newest
            connection.execute(revisions.insert().values(revision_row(candidate)))
            return candidate

    def activate(
        self, by: By, recorded: Iterable[Revision], removed: Iterable[Key] = ()
    ) -> Generation:
        """Make revisions the active ones and remove other names, all in one step.

        Each name that this changes is a row of the audit log, and all of them together one
        generation; what is so already is left alone.

        Args:
            by: Who does it, and for which generation.
            recorded: The revisions.
            removed: Kinds and names to take away.

        Returns:
            The generation after it.

        Raises:
            ConflictError: It is another generation by now; nothing is changed.
        """
        wanted: dict[Key, Revision | None] = dict.fromkeys(removed)
        wanted |= {revision.key: revision for revision in recorded}
        with self._database.write() as connection:
            return activate(connection, wanted, by)

    def snapshot(self) -> Snapshot:
        """Return what is active, all of one moment."""
        with self._database.read() as connection:
            return snapshot(connection)

    def check_generation(self, expected: int | None) -> None:
        """Refuse early what ``activate`` would refuse; None is any generation.

        Raises:
            ConflictError: It is another generation by now.
        """
        with self._database.read() as connection:
            check(connection, expected)

    def generation(self) -> Generation:
        """Return how often what is active was changed, and the digest of what is."""
        with self._database.read() as connection:
            return current(connection)

    def revisions(self, name: str, kind: Kind = "Policy") -> tuple[Revision, ...]:
        """Return all revisions of a name, newest first; none for an unknown name."""
        query = _of((kind, name)).order_by(revisions.c.revision.desc())
        with self._database.read() as connection:
            return tuple(revision_of(row) for row in connection.execute(query).mappings())

    def get(self, name: str, revision: int | None = None, kind: Kind = "Policy") -> Revision:
        """Return one revision of a name, the newest if no number is given.

        Raises:
            RevisionNotFoundError: It was never recorded.
        """
        found = self.revisions(name, kind)
        wanted = [r for r in found if revision is None or r.revision == revision]
        if not wanted:
            known = f"; there are 1 to {found[0].revision}" if found else ""
            number = f"@{revision}" if revision is not None else ""
            raise RevisionNotFoundError(f"no {kind} {name}{number} was recorded{known}")
        return wanted[0]

    def newest(self, keys: Iterable[Key]) -> dict[Key, Revision]:
        """Return the newest recorded revision of each name that has one."""
        with self._database.read() as connection:
            found = {key: _newest(connection, key) for key in keys}
        return {key: revision for key, revision in found.items() if revision is not None}

    def all_active(self) -> tuple[Revision, ...]:
        """Return the active revisions by kind and name."""
        with self._database.read() as connection:
            return active_revisions(connection)

    def removed(self) -> tuple[Key, ...]:
        """Return the names that were active once and were removed."""
        query = sa.select(active.c.kind, active.c.name).where(active.c.revision.is_(None))
        with self._database.read() as connection:
            return tuple((row.kind, row.name) for row in connection.execute(query))

    def add_artifact(
        self, source: Path | bytes, card: Mapping[str, Any], is_bounded: bool = True
    ) -> str:
        """As ``ArtifactStore.add``."""
        return self._artifacts.add(source, card, is_bounded)

    def artifact(self, digest: str) -> StoredArtifact:
        """As ``ArtifactStore.get``."""
        return self._artifacts.get(digest)

    def artifact_by_name(self, kind: str, name: str) -> tuple[StoredArtifact, ...]:
        """Return the artifacts of a kind and name, newest first."""
        return self._artifacts.by_name(kind, name)

    def all_artifacts(self) -> tuple[StoredArtifact, ...]:
        """Return every artifact, newest first."""
        return self._artifacts.all()

    def collector(self) -> Collector:
        """Return what takes away artifacts that nothing names."""
        return Collector(self._database, self.artifacts_folder, self._clock)


def _of(key: Key) -> sa.Select[Any]:
    return sa.select(revisions).where(revisions.c.kind == key[0], revisions.c.name == key[1])


def _newest(connection: Connection, key: Key) -> Revision | None:
    query = _of(key).order_by(revisions.c.revision.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return None if row is None else revision_of(row)


def _same(one: Revision, other: Revision) -> bool:
    return (one.digest, one.artifacts, one.owner) == (other.digest, other.artifacts, other.owner)
