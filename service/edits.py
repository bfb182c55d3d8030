"""Edit sets and what solves them: documents of the store matched with its edit artifacts.

An artifact solves a document if its card names the same set (method, layers and facts), the model
that is served, and gates that it passed or that somebody overrode. Names do not count.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from editing.card import KIND, edit_set_of
from editing.errors import EditError
from editing.spec import EditSpec, parse_spec
from forward.fingerprint import ModelFingerprint
from service.documents import Document
from service.errors import ServiceError
from service.library import pin_key
from service.records import Revision, StoredArtifact
from service.store import Store

MAX_SPECS = 64
"""Parsed documents that are held."""

Content = Mapping[str, Any]


class EditNotFoundError(ServiceError):
    """No document and no artifact is an edit of this name."""


class NotSolvedError(ServiceError):
    """An edit set that no artifact of the store solves."""


class EditSetError(ServiceError):
    """Facts that cannot be what an edit makes true."""


@dataclass(frozen=True, eq=False)
class KeptEdit:
    """An edit artifact and the digest of the set that it solves."""

    stored: StoredArtifact
    solves: str

    @property
    def card(self) -> Content:
        """The artifact's card."""
        return self.stored.card


@dataclass(frozen=True, eq=False)
class EditEntry:
    """An edit as it is listed: a document, an artifact, or both.

    Attributes:
        name: The document's name, or else the artifact's.
        solves: Digest of the set.
        revision: The active document, if there is one.
        kept: The artifact that the document means, or the one that is listed by itself.
        policies: Names of the active policies that use the document.
    """

    name: str
    solves: str
    revision: Revision | None
    kept: KeptEdit | None
    policies: tuple[str, ...] = ()


class EditShelf:
    """The edits of a store, as a model sees them. Blocking: call off the event loop."""

    def __init__(self, store: Store, model: ModelFingerprint) -> None:
        """Read from ``store`` for ``model``."""
        self._store, self._model = store, model
        self._solves: dict[str, str] = {}
        self._specs: dict[str, EditSpec] = {}

    def spec_of(self, document: Document) -> EditSpec:
        """Return the set that a document describes on this model.

        Raises:
            EditSetError: Its facts cannot be.
        """
        if document.digest not in self._specs:
            try:
                spec = parse_spec(document.content, n_layers=self._model.n_layers)
            except EditError as error:
                raise EditSetError(f"EditSet '{document.name}': {error}") from error
            if len(self._specs) >= MAX_SPECS:
                self._specs.clear()
            self._specs[document.digest] = spec
        return self._specs[document.digest]

    def find(self, solves: str) -> KeptEdit | None:
        """Return the newest usable artifact that solves a set, if there is one."""
        return next((k for k in self.kept() if k.solves == solves and self.is_usable(k)), None)

    def kept(self) -> list[KeptEdit]:
        """Return every edit artifact, newest first; a malformed one is left out."""
        stored = [one for one in self._store.all_artifacts() if one.kind == KIND]
        return [KeptEdit(one, solves) for one in stored if (solves := self._solved_by(one))]

    def is_usable(self, kept: KeptEdit) -> bool:
        """Whether an artifact is of this model, let through by its gates, and whole."""
        card = kept.card
        passed = not card["gates"].get("failed", ["unmeasured"])
        return passed and card["model"] == self._model.digest and kept.stored.path.is_file()

    def entries(self) -> list[EditEntry]:
        """Return every active edit set and every edit artifact that no such set names, by name."""
        kept = self.kept()
        active = self._store.all_active()
        listed = [self._entry(r, kept, active) for r in active if r.kind == "EditSet"]
        named = {entry.kept.stored.digest for entry in listed if entry.kept is not None}
        rest = [
            EditEntry(one.stored.name, one.solves, None, one)
            for one in kept
            if one.stored.digest not in named
        ]
        return sorted([*listed, *rest], key=lambda entry: (entry.name, entry.revision is None))

    def entry(self, name: str) -> EditEntry:
        """Return the edit of a name: the document's, or else the newest artifact's.

        Raises:
            EditNotFoundError: Neither has it.
        """
        found = [entry for entry in self.entries() if entry.name == name]
        if not found:
            raise EditNotFoundError(
                f"there is no edit '{name}': POST /trimtab/v1/edits solves and adds one"
            )
        return found[0]

    def solution(self, name: str) -> KeptEdit:
        """Return the usable artifact of an edit.

        Raises:
            EditNotFoundError: There is no such edit.
            NotSolvedError: Nothing solves it on this model.
        """
        entry = self.entry(name)
        if entry.kept is None or not self.is_usable(entry.kept):
            raise NotSolvedError(
                f"edit '{name}' is not solved on the model that is served: POST its document to "
                "/trimtab/v1/edits"
            )
        return entry.kept

    def _entry(
        self, revision: Revision, kept: list[KeptEdit], active: tuple[Revision, ...]
    ) -> EditEntry:
        solves = self.spec_of(revision.document()).edits.digest
        pinned = revision.artifacts.get(pin_key(KIND, revision.name))
        found = next((one for one in kept if one.stored.digest == pinned), None)
        users = tuple(
            r.name
            for r in active
            if r.kind == "Policy" and revision.name in r.content["spec"].get("edits", ())
        )
        return EditEntry(revision.name, solves, revision, found, users)

    def _solved_by(self, stored: StoredArtifact) -> str:
        """Return the digest of the set that an artifact solves; empty for a malformed card."""
        if stored.digest not in self._solves:
            try:
                digest = edit_set_of(stored.card).digest
            except (KeyError, TypeError, ValueError):  # an EditError is a ValueError
                digest = ""
            self._solves[stored.digest] = digest
        return self._solves[stored.digest]
