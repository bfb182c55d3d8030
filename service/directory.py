"""The policy directory: what its files say now, and what they said when they were last right.

A bad file keeps the documents of its last good content and is reported; the others are unaffected.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from service.digest import content_digest
from service.documents import (
    Document,
    DocumentsError,
    Problem,
    parse_documents,
    policy_files,
    read_bytes,
)
from service.records import Key

POLL_SECONDS = 0.5
SETTLE_SECONDS = 0.05
ARTIFACTS = "artifacts"
ARTIFACT_SUFFIXES = (".json", ".safetensors")


@dataclass(frozen=True, slots=True)
class FileState:
    """A file's content digest, the documents that count, and what is wrong with it now."""

    digest: str
    documents: tuple[Document, ...] = ()
    errors: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class DirectoryState:
    """A directory at one moment; ``digest`` covers its files and the names of its artifacts."""

    folder: Path
    digest: str
    files: Mapping[str, FileState] = field(default_factory=lambda: MappingProxyType({}))
    folder_error: Problem | None = None

    @property
    def documents(self) -> tuple[Document, ...]:
        """The documents that count, in the order of files."""
        return tuple(document for file in self.files.values() for document in file.documents)

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What is wrong now, in the order of files."""
        folder = (self.folder_error,) if self.folder_error is not None else ()
        return folder + tuple(error for file in self.files.values() for error in file.errors)

    def holding(self, documents: Iterable[Document]) -> "DirectoryState":
        """Return the state in which it has these documents and no others."""
        files = MappingProxyType({"": FileState("", tuple(documents))})
        return replace(self, digest="", files=files, folder_error=None)

    @property
    def artifacts_folder(self) -> Path:
        """Where the directory keeps its artifacts: named by content, never changed in place."""
        return self.folder / ARTIFACTS


@dataclass(frozen=True, slots=True)
class _Content:
    """What lies in a directory: each file's bytes or the reason why it could not be read."""

    files: Mapping[str, bytes | DocumentsError]
    artifacts: tuple[str, ...]
    error: Problem | None = None

    @property
    def digest(self) -> str:
        files = {name: _file_digest(content) for name, content in self.files.items()}
        error = self.error.message if self.error is not None else None
        return content_digest({"files": files, "artifacts": self.artifacts, "error": error})


def load_directory(folder: Path, previous: DirectoryState | None = None) -> DirectoryState:
    """Return the state of a directory; ``previous`` holds the last good documents of bad files."""
    return _state(folder, _read(folder), previous)


async def watch(
    state: DirectoryState, poll: float = POLL_SECONDS, settle: float = SETTLE_SECONDS
) -> AsyncIterator[DirectoryState]:
    """Yield a new state whenever the directory's content changes, for ever.

    A change counts once two readings ``settle`` seconds apart agree, so that a file which is
    being written is not taken for whole. Files are read off the event loop.
    """
    while True:
        await asyncio.sleep(poll)
        content = await asyncio.to_thread(_read, state.folder)
        if content.digest == state.digest:
            continue
        await asyncio.sleep(settle)
        again = await asyncio.to_thread(_read, state.folder)
        if again.digest == content.digest:
            state = await asyncio.to_thread(_state, state.folder, again, state)
            yield state


def _read(folder: Path) -> _Content:
    try:
        files = {path.name: _bytes_or_error(path) for path in policy_files(folder)}
        artifacts = tuple(
            sorted(
                f"{path.name} {path.stat().st_size}"
                for path in (folder / ARTIFACTS).glob("*.*")
                if path.suffix in ARTIFACT_SUFFIXES
            )
        )
    except OSError as error:
        message = f"the policy directory cannot be read: {error.strerror or error}"
        return _Content({}, (), Problem(message, str(folder)))
    return _Content(files, artifacts)


def _bytes_or_error(path: Path) -> bytes | DocumentsError:
    try:
        return read_bytes(path)
    except DocumentsError as error:
        return error


def _file_digest(content: bytes | DocumentsError) -> str:
    return sha256(content if isinstance(content, bytes) else f"!{content}".encode()).hexdigest()


def _state(folder: Path, content: _Content, previous: DirectoryState | None) -> DirectoryState:
    old: Mapping[str, FileState] = previous.files if previous is not None else {}
    if content.error is not None:
        return DirectoryState(folder, content.digest, old, content.error)
    if old and not content.files:
        message = (
            "the policy directory holds no policy file any more; its last documents stay active: "
            "take them away one file at a time, or start anew"
        )
        return DirectoryState(folder, content.digest, old, Problem(message, str(folder)))
    files: dict[str, FileState] = {}
    taken: dict[Key, str] = {}
    for name, data in content.files.items():
        state = _file(folder / name, data, old.get(name))
        files[name] = _without_taken(str(folder / name), state, taken, old.get(name))
        taken |= dict.fromkeys((document.key for document in files[name].documents), name)
    return DirectoryState(folder, content.digest, MappingProxyType(files))


def _file(path: Path, data: bytes | DocumentsError, old: FileState | None) -> FileState:
    digest = _file_digest(data)
    if old is not None and old.digest == digest and not old.errors:
        return old
    try:
        return FileState(digest, _documents(path, data))
    except DocumentsError as error:
        return FileState(digest, old.documents if old is not None else (), error.problems)


def _documents(path: Path, data: bytes | DocumentsError) -> tuple[Document, ...]:
    if isinstance(data, DocumentsError):
        raise data
    if not data.strip():
        message = "the file is empty; to take its policies away, remove the file"
        raise DocumentsError([Problem(message, str(path))])
    return parse_documents(data, str(path))


def _without_taken(
    source: str, state: FileState, taken: Mapping[Key, str], old: FileState | None
) -> FileState:
    """Return the file's state with the names that an earlier file has taken as errors.

    What is left is the file's last good content, again without names that are taken.
    """
    errors = tuple(
        Problem(f"{d.kind} '{d.name}' is already in {taken[d.key]}", source)
        for d in state.documents
        if d.key in taken
    )
    if not errors:
        return state
    kept = old.documents if old is not None else ()
    free = tuple(document for document in kept if document.key not in taken)
    return FileState(state.digest, free, state.errors + errors)
