"""What a store is given to begin with: documents that belong to the API from then on.

A policy directory owns its documents, and nobody else changes them. The demo's are there to be
played with: switched in the dashboard, set, rolled back. So they are applied once, where the store
has nothing of their names and never had.
"""

from collections.abc import Iterable
from pathlib import Path

from service.artifacts import ArtifactLibrary
from service.directory import load_directory
from service.documents import Document, DocumentsError
from service.store import Store


def seed_of(folder: Path | None, library: ArtifactLibrary) -> tuple[Document, ...]:
    """Return the documents of a folder; its artifacts are added to the store.

    Raises:
        DocumentsError: One is malformed.
        ArtifactError, StoreError: An artifact is damaged or cannot be kept.
    """
    if folder is None:
        return ()
    state = load_directory(folder)
    if state.errors:
        raise DocumentsError(state.errors)
    library.adopt(state.artifacts_folder)
    return tuple(state.documents)


def unseen(seed: Iterable[Document], store: Store) -> tuple[Document, ...]:
    """Return the documents that the API never had, whatever a directory had. Blocking."""
    known = {revision.key for revision in store.all_active() if revision.owner == "api"}
    known |= set(store.removed())
    return tuple(document for document in seed if document.key not in known)
