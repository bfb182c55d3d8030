"""Edits on disk: saving one, and finding one by path, name or digest."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from editing.card import KIND, Edit, EditCardError, from_artifact, to_artifact
from forward.container import Artifact, find_artifacts, read_artifact


@dataclass(frozen=True, eq=False)
class SavedEdit:
    """An edit with its artifact and the artifact's tensor file."""

    edit: Edit
    artifact: Artifact
    path: Path


def save_edit(edit: Edit, folder: Path) -> SavedEdit:
    """Write an edit; nothing is left of a new one if the folder cannot take it.

    Raises:
        EditCardError: The folder cannot be written.
    """
    artifact = to_artifact(edit)
    is_new = not (folder / f"{artifact.digest}.safetensors").exists()
    try:
        return SavedEdit(edit, artifact, artifact.save(folder))
    except OSError as error:
        for suffix in (".safetensors", ".json") if is_new else ():
            (folder / f"{artifact.digest}{suffix}").unlink(missing_ok=True)
        raise EditCardError(f"{folder} cannot be written ({error.strerror}): make room") from error


def edits_in(folder: Path) -> list[SavedEdit]:
    """Return all edits in a folder, by name.

    Raises:
        ArtifactError: A file is damaged.
        EditCardError: An edit is malformed.
    """
    artifacts = [(path, read_artifact(path)) for path in find_artifacts(folder)]
    saved = [SavedEdit(from_artifact(a), a, p) for p, a in artifacts if a.card["kind"] == KIND]
    return sorted(saved, key=lambda one: (one.edit.name, one.artifact.digest))


def find_edit(what: str, folder: Path | None) -> SavedEdit:
    """Return an edit by the path of its artifact, or by its name or digest in a folder.

    Raises:
        ArtifactError: A file is missing or damaged.
        EditCardError: It is no edit, or the folder does not have exactly one such edit.
    """
    path = Path(what)
    if path.suffix in (".safetensors", ".json"):
        path = path.with_suffix(".safetensors")
        artifact = read_artifact(path)
        return SavedEdit(from_artifact(artifact), artifact, path)
    found = edits_in(folder or Path())
    matching = [s for s in found if s.edit.name == what or s.artifact.digest.startswith(what)]
    if len(matching) != 1:
        raise EditCardError(_missing(what, folder or Path(), found, matching))
    return matching[0]


def _missing(
    what: str, folder: Path, found: Sequence[SavedEdit], matching: Sequence[SavedEdit]
) -> str:
    known = ", ".join(f"{s.edit.name} ({s.artifact.digest[:12]})" for s in found) or "no edits"
    reason = "more than one edit is" if matching else "no edit is"
    return (
        f"{reason} named '{what}' in {folder}, which has {known}; give the path of a .safetensors "
        "file, a digest, or the folder with --dir"
    )
