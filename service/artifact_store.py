"""Artifacts as files named by content, and the rows that say which there are; imports no torch."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.clock import now
from service.collection import size_of
from service.database import Database, StoreError
from service.digest import canonical_json
from service.records import StoredArtifact, artifact_of
from service.tables import artifacts


class ArtifactNotFoundError(StoreError):
    """No such artifact was ever added, or its file is gone."""


class ArtifactRefusedError(StoreError):
    """Bytes that are no artifact, or not the one that their card describes."""


class QuotaError(StoreError):
    """An artifact for which there is no room."""

    def __init__(self, used: int, size: int, quota: int) -> None:
        """Say how much there is, how much is wanted, and how much is allowed; in bytes."""
        super().__init__(
            f"the artifact has {size} bytes, and {used} of the {quota} that --artifact-quota "
            "allows are used: take away what nothing names (trimtab artifact gc), or allow more"
        )
        self.used, self.size, self.quota = used, size, quota


class ArtifactStore:
    """Artifacts of a store. Blocking: call off the event loop."""

    def __init__(self, database: Database, folder: Path, quota: int | None = None) -> None:
        """Keep rows in ``database`` and files in ``folder``, no more than ``quota`` bytes."""
        self._database, self._folder, self.quota = database, folder, quota

    def add(self, source: Path | bytes, card: Mapping[str, Any], is_bounded: bool = True) -> str:
        """Add an artifact of a safetensors file's bytes and a card; return its digest.

        Its files are whole on disk before the row is; adding it again makes it the newest.

        Args:
            source: The file, or its bytes.
            card: The card.
            is_bounded: Whether the quota counts; it does not for what an operator put into the
                policy directory.

        Raises:
            ArtifactRefusedError: The bytes or the card are no artifact.
            QuotaError: The quota would be exceeded.
            StoreError: They cannot be kept: the disk is full, or the database is gone.
        """
        # Imported here: listing policies needs no torch.
        from forward.container import ArtifactError, parse_artifact

        try:
            data = source if isinstance(source, bytes) else source.read_bytes()
            artifact = parse_artifact(data, canonical_json(dict(card)).encode())
        except (ArtifactError, OSError) as error:
            raise ArtifactRefusedError(f"the artifact cannot be added: {error}") from error
        if is_bounded:
            self._check_quota(artifact.digest, len(data))
        try:
            path = artifact.save(self._folder)
            _sync_folder(self._folder)
            with self._database.write() as connection:
                if not path.is_file():  # it was there before, and was collected just now
                    artifact.save(self._folder)
                _insert(connection, artifact.digest, card)
        except OSError as error:
            raise StoreError(f"the artifact cannot be kept: {error}") from error
        return artifact.digest

    def get(self, digest: str) -> StoredArtifact:
        """Return an artifact by its digest.

        Raises:
            ArtifactNotFoundError: It was never added, or its file is gone.
        """
        found = self._select(artifacts.c.digest == digest)
        if not found:
            raise ArtifactNotFoundError(f"no artifact {digest} is in the store; import it first")
        if not found[0].path.is_file():
            raise ArtifactNotFoundError(f"{found[0].path} is gone; import the artifact again")
        return found[0]

    def by_name(self, kind: str, name: str) -> tuple[StoredArtifact, ...]:
        """Return the artifacts of a kind and name, newest first."""
        return self._select(artifacts.c.kind == kind, artifacts.c.name == name)

    def all(self) -> tuple[StoredArtifact, ...]:
        """Return every artifact, newest first."""
        return self._select()

    def _check_quota(self, digest: str, size: int) -> None:
        if self.quota is None:
            return
        used = sum(size_of(one) for one in self.all() if one.digest != digest)
        if used + size > self.quota:
            raise QuotaError(used, size, self.quota)

    def _select(self, *conditions: sa.ColumnElement[bool]) -> tuple[StoredArtifact, ...]:
        query = sa.select(artifacts).where(*conditions).order_by(artifacts.c.position.desc())
        with self._database.read() as connection:
            rows = connection.execute(query).mappings()
            return tuple(artifact_of(row, self._folder) for row in rows)


def _insert(connection: Connection, digest: str, card: Mapping[str, Any]) -> None:
    connection.execute(artifacts.delete().where(artifacts.c.digest == digest))
    highest = connection.execute(sa.select(sa.func.max(artifacts.c.position))).scalar() or 0
    connection.execute(
        artifacts.insert().values(
            digest=digest,
            position=highest + 1,
            kind=card["kind"],
            name=card["name"],
            card=canonical_json(dict(card)),
            created_at=now(),
        )
    )


def _sync_folder(folder: Path) -> None:
    """Make the renames in a folder last through a loss of power, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
