"""Reads policy files: YAML 1.2, several documents a file, every complaint with its place."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from service.digest import content_digest
from service.errors import ServiceError
from service.explain import did_you_mean, explain, path_text, shown
from service.schemas import MODELS, Kind, Model
from service.steer_schema import content_of
from service.yaml_reader import Node, YamlError, place_of, plain, read_yaml

MAX_FILE_BYTES = 16 << 20
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a document; ``line`` and ``column`` count from 1."""

    message: str
    source: str | None = None
    line: int | None = None
    column: int | None = None
    path: str = ""

    def __str__(self) -> str:
        """Return ``file:line:column: path: message``."""
        place = ":".join(str(p) for p in (self.source, self.line, self.column) if p is not None)
        return ": ".join(part for part in (place, self.path, self.message) if part)

    def as_dict(self) -> dict[str, Any]:
        """Return the problem as JSON values."""
        return {
            "file": self.source,
            "line": self.line,
            "column": self.column,
            "path": self.path,
            "message": self.message,
        }


class DocumentsError(ServiceError):
    """Documents that do not parse or do not fit their schema."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Keep the problems; the text lists them all."""
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Document:
    """A document that fits its schema; its digest is that of its content."""

    kind: Kind
    name: str
    model: Model
    source: str | None
    digest: str

    @property
    def key(self) -> tuple[Kind, str]:
        """Kind and name, which identify a document among those active."""
        return (self.kind, self.name)

    @property
    def content(self) -> dict[str, Any]:
        """The document as JSON values."""
        return content_of(self.model)


def document_of(model: Model, source: str | None = None) -> Document:
    """Return the document of a validated model."""
    digest = content_digest(content_of(model))
    return Document(model.kind, model.metadata.name, model, source, digest)


def parse_documents(text: str | bytes, source: str | None = None) -> tuple[Document, ...]:
    """Return the documents of a text of YAML 1.2, and so of JSON.

    Raises:
        DocumentsError: Anything is wrong; then no document of the text counts.
    """
    documents: dict[tuple[Kind, str], Document] = {}
    problems: list[Problem] = []
    for root in _roots(text, source):
        try:
            document = _document(root, source)
        except DocumentsError as error:
            problems.extend(error.problems)
            continue
        if document.key in documents:
            place = place_of(root, ("metadata", "name"))
            problems.append(Problem(_named_twice(document), source, *place, "metadata.name"))
        documents[document.key] = document
    if problems:
        raise DocumentsError(problems)
    return tuple(documents.values())


def parse_content(content: object, source: str | None = None) -> Document:
    """Return the document of JSON values, as the store keeps them.

    Raises:
        DocumentsError: The content does not fit its schema.
    """
    return _validated(content, source, None)


def load_file(path: Path) -> tuple[Document, ...]:
    """Return the documents of one file.

    Raises:
        DocumentsError: The file cannot be read or something in it is wrong.
    """
    return parse_documents(read_bytes(path), str(path))


def load_paths(paths: Iterable[Path]) -> tuple[Document, ...]:
    """Return the documents of files and of all policy files in folders.

    Raises:
        DocumentsError: Lists the problems of all files, names given twice among them.
    """
    documents: dict[tuple[Kind, str], Document] = {}
    problems: list[Problem] = []
    for file in (file for path in paths for file in _files(path)):
        try:
            loaded = load_file(file)
        except DocumentsError as error:
            problems.extend(error.problems)
            continue
        for document in loaded:
            if document.key in documents:
                also = f"{_named_twice(document)}, here and in {documents[document.key].source}"
                problems.append(Problem(also, str(file)))
            documents.setdefault(document.key, document)
    if problems:
        raise DocumentsError(problems)
    return tuple(documents.values())


def policy_files(folder: Path) -> list[Path]:
    """Return the policy files of a folder by name; hidden files are left out."""
    found = (path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    return sorted(path for path in found if not path.name.startswith("."))


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        DocumentsError: It cannot be read or is too large.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DocumentsError([Problem(f"larger than {MAX_FILE_BYTES} bytes", str(path))])
        return path.read_bytes()
    except OSError as error:
        problem = Problem(f"cannot be read: {error.strerror or error}", str(path))
        raise DocumentsError([problem]) from error


def _files(path: Path) -> list[Path]:
    return policy_files(path) if path.is_dir() else [path]


def _named_twice(document: Document) -> str:
    return f"a {document.kind} named '{document.name}' is given twice"


def _roots(text: str | bytes, source: str | None) -> list[Node]:
    try:
        return read_yaml(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line = before.count(b"\n") + 1
        raise DocumentsError([Problem("not UTF-8 text", source, line)]) from error
    except YamlError as error:
        raise DocumentsError([Problem(str(error), source, error.line, error.column)]) from error


def _document(root: Node, source: str | None) -> Document:
    try:
        return _validated(plain(root), source, root)
    except YamlError as error:
        raise DocumentsError([Problem(str(error), source, error.line, error.column)]) from error


def _validated(content: object, source: str | None, root: Node | None) -> Document:
    message = _kind_problem(content)
    if message is not None or not isinstance(content, dict):
        path = ("kind",) if isinstance(content, dict) and "kind" in content else ()
        place = place_of(root, path) if root is not None else (None, None)
        raise DocumentsError([Problem(message or "", source, *place, path_text(path))])
    model = MODELS[content["kind"]]
    try:
        return document_of(model.model_validate(content), source)
    except ValidationError as error:
        problems: list[Problem] = []
        for complaint in explain(error, model):
            at = place_of(root, complaint.path, complaint.on_key) if root else (None, None)
            path = path_text(complaint.path)
            problems.append(Problem(complaint.message, source, *at, path))
        raise DocumentsError(problems) from error


def _kind_problem(content: object) -> str | None:
    """Return what is wrong with a document's kind, if anything is."""
    if not isinstance(content, dict):
        return f"a document is a mapping with apiVersion, kind, metadata and spec: {shown(content)}"
    kind = content.get("kind")
    *kinds, last = get_args(Kind)
    served = f"{', '.join(kinds)} and {last}"
    if isinstance(kind, str) and kind in MODELS:
        return None
    if kind is None:
        return f"field 'kind' is missing; this version serves {served}"
    guess = did_you_mean(str(kind), MODELS)
    return f"kind {shown(kind)} is not known; this version serves {served}{guess}"
