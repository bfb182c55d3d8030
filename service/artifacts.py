"""Directions of the store, read once by digest and found by name."""

from collections.abc import Mapping
from pathlib import Path

from forward.container import find_artifacts, read_artifact
from service.store import ArtifactNotFoundError, Store
from steering.card import KIND
from steering.library import Found, by_name


class ArtifactLibrary:
    """What policies can name. Blocking: call off the event loop."""

    def __init__(self, store: Store) -> None:
        """Read from ``store``."""
        self._store = store
        self._read: dict[str, Found] = {}

    def adopt(self, folder: Path) -> dict[str, Found]:
        """Add every artifact of a folder to the store and return the folder's directions by name.

        Raises:
            ArtifactError: A file is damaged.
            DirectionError: A direction is malformed, or two have one name.
            StoreError: It cannot be kept.
        """
        known = {stored.digest for stored in self._store.all_artifacts()}
        artifacts = [read_artifact(path) for path in find_artifacts(folder)]
        directions = by_name(artifacts)
        for artifact in artifacts:
            if artifact.digest not in known:
                path = folder / f"{artifact.digest}.safetensors"
                self._store.add_artifact(path, artifact.card)
        return directions

    def newest(self) -> dict[str, Found]:
        """Return the newest direction of each name."""
        newest: dict[str, str] = {}
        for stored in self._store.all_artifacts():
            if stored.kind == KIND:
                newest.setdefault(stored.name, stored.digest)
        return {name: self._found(name, digest) for name, digest in newest.items()}

    def pinned(self, artifacts: Mapping[str, str]) -> dict[str, Found]:
        """Return the directions that a recorded revision was pinned to.

        Raises:
            ArtifactNotFoundError: One is gone.
        """
        return {name: self._found(name, digest) for name, digest in artifacts.items()}

    def _found(self, name: str, digest: str) -> Found:
        if digest not in self._read:
            stored = self._store.artifact(digest)
            directions = by_name([read_artifact(stored.path)])
            if name not in directions:
                raise ArtifactNotFoundError(f"artifact {digest} is not a direction named '{name}'")
            self._read[digest] = directions[name]
        return self._read[digest]
