"""Directions in a folder of artifacts, found by name."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from forward.container import Artifact, find_artifacts, read_artifact
from steering.card import KIND, from_artifact, to_artifact
from steering.direction import Direction, DirectionError


@dataclass(frozen=True, slots=True)
class Found:
    """A direction, and the digest of the artifact that holds it."""

    direction: Direction
    digest: str


def read_directions(folder: Path) -> dict[str, Found]:
    """Return the directions of a folder by name; artifacts of other kinds are passed over.

    Raises:
        ArtifactError: A file is damaged.
        DirectionError: A direction is malformed, or two have one name.
    """
    return by_name(read_artifact(path) for path in find_artifacts(folder))


def by_name(artifacts: Iterable[Artifact]) -> dict[str, Found]:
    """Return the directions among artifacts by name.

    Raises:
        DirectionError: A direction is malformed, or two have one name.
    """
    found: dict[str, Found] = {}
    for artifact in artifacts:
        if artifact.card.get("kind") != KIND:
            continue
        direction = from_artifact(artifact)
        other = found.get(direction.name)
        if other is not None and other.digest != artifact.digest:
            raise DirectionError(
                f"two directions are named '{direction.name}' ({other.digest[:12]} and "
                f"{artifact.digest[:12]}); remove one artifact or give it another name"
            )
        found[direction.name] = Found(direction, artifact.digest)
    return found


def save_direction(direction: Direction, folder: Path) -> Path:
    """Write a direction into a folder, in place of others of its name; return the tensors' path.

    Raises:
        ArtifactError: An artifact already in the folder is damaged.
    """
    saved = to_artifact(direction).save(folder)
    for path in find_artifacts(folder):
        card = read_artifact(path).card
        if path != saved and (card["kind"], card["name"]) == (KIND, direction.name):
            path.unlink()
            path.with_suffix(".json").unlink()
    return saved
