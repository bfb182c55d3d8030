"""What the store keeps: recorded revisions and artifacts, and how they are written as rows."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy.engine import RowMapping

from service.clock import now as now  # what is kept says when
from service.database import StoreError
from service.digest import canonical_json
from service.documents import Document, parse_content
from service.schemas import Kind

Owner = Literal["directory", "api"]
Key = tuple[Kind, str]


@dataclass(frozen=True, slots=True)
class Revision:
    """A recorded document: immutable, numbered from 1 by kind and name.

    ``artifacts`` pins the names in the document to digests: of the artifacts that were meant when
    it was recorded.
    """

    kind: Kind
    name: str
    revision: int
    digest: str
    content: Mapping[str, Any]
    artifacts: Mapping[str, str]
    owner: Owner
    created_at: str

    @property
    def key(self) -> Key:
        """Kind and name."""
        return (self.kind, self.name)

    def document(self) -> Document:
        """Return the document, checked against its schema and digest.

        Raises:
            DocumentsError: This version does not accept the content.
            StoreError: The content was changed after it was recorded.
        """
        document = parse_content(self.content, f"{self.name}@{self.revision}")
        if document.digest != self.digest:
            raise StoreError(
                f"{self.kind} {self.name}@{self.revision} has content {document.digest}, but was "
                f"recorded as {self.digest}; record the document again"
            )
        return document


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """An artifact of the store; ``path`` is its safetensors file, the card lies beside it."""

    digest: str
    kind: str
    name: str
    card: Mapping[str, Any]
    path: Path
    created_at: str


def revision_row(revision: Revision) -> dict[str, Any]:
    """Return a revision as a row of the table ``revisions``."""
    encoded = {name: canonical_json(getattr(revision, name)) for name in ("content", "artifacts")}
    return asdict(revision) | encoded


def revision_of(row: RowMapping) -> Revision:
    """Return the revision that a row of the table ``revisions`` holds."""
    values = {str(name): value for name, value in row.items()}
    decoded = {name: json.loads(row[name]) for name in ("content", "artifacts")}
    return Revision(**(values | decoded))


def artifact_of(row: RowMapping, folder: Path) -> StoredArtifact:
    """Return the artifact that a row of the table ``artifacts`` describes."""
    path = folder / f"{row['digest']}.safetensors"
    card = json.loads(row["card"])
    return StoredArtifact(row["digest"], row["kind"], row["name"], card, path, row["created_at"])
