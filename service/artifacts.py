"""Artifacts of the store: found by kind and name, each read once by its digest."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from editing import card as edit_card
from editing.errors import EditError
from forward.container import Artifact, ArtifactError, find_artifacts, read_artifact
from monitors import calibration_card, probe_card, sae_card
from monitors.benign import CalibrationError
from monitors.probe import ProbeError
from monitors.sae_coder import SaeError
from service.artifact_store import ArtifactNotFoundError
from service.library import Kept, Library, Shelf
from service.store import Store
from steering import card as direction_card
from steering.library import Found

DIRECTION, PROBE, SAE = direction_card.KIND, probe_card.KIND, sae_card.KIND
CALIBRATION, EDIT = calibration_card.KIND, edit_card.KIND
KINDS = (DIRECTION, PROBE, SAE, CALIBRATION, EDIT)
"""What documents can name, directly or through a monitor or an edit set."""
BOUND = (CALIBRATION, EDIT)
"""Kinds that go by what they are bound to, not by their names."""

Names = Mapping[tuple[str, str], str]
"""Kind and name to digest."""


def parse(artifact: Artifact) -> Any:
    """Return what an artifact of one of ``KINDS`` holds: a ``Found`` or a ``Kept``.

    Raises:
        DirectionError: It is a malformed direction.
        ArtifactError: It is malformed, or of another kind.
    """
    kind, digest = artifact.card["kind"], artifact.digest
    try:
        if kind == DIRECTION:
            return Found(direction_card.from_artifact(artifact), digest)
        if kind == PROBE:
            return Kept(probe_card.from_artifact(artifact), digest)
        if kind == SAE:
            return Kept(sae_card.from_artifact(artifact), digest)
        if kind == CALIBRATION:
            return Kept(calibration_card.from_artifact(artifact), digest)
        if kind == EDIT:
            return Kept(edit_card.from_artifact(artifact), digest)
    except (ProbeError, SaeError, CalibrationError, EditError) as error:
        raise ArtifactError(str(error)) from error
    raise ArtifactError(f"artifacts of kind '{kind}' are not served; this version has {_listed()}")


def library_of_folder(folder: Path) -> Library:
    """Return what the artifacts of a folder hold.

    Raises:
        ArtifactError, DirectionError: One is damaged or malformed, or two have one name.
    """
    artifacts = [read_artifact(path) for path in find_artifacts(folder)]
    known = {a.digest: parse(a) for a in artifacts if a.card["kind"] in KINDS}
    cards = [(a.card["kind"], a.card["name"], a.digest) for a in artifacts if a.digest in known]
    _check_names(cards)

    def get(kind: str, name: str, digest: str) -> Any:
        return known[digest]

    return _library(cards, get)


class ArtifactLibrary:
    """What documents can name. Blocking: call off the event loop."""

    def __init__(self, store: Store) -> None:
        """Read from ``store``."""
        self._store = store
        self._read: dict[str, Any] = {}

    def adopt(self, folder: Path) -> Library:
        """Add every artifact of a folder to the store and return what the folder holds.

        Raises:
            ArtifactError: A file is damaged, or two artifacts of a kind have one name.
            DirectionError: A direction is malformed.
            StoreError: It cannot be kept.
        """
        known = {stored.digest for stored in self._store.all_artifacts()}
        cards: list[tuple[str, str, str]] = []
        for path in find_artifacts(folder):
            artifact = read_artifact(path)
            kind = str(artifact.card["kind"])
            if kind in KINDS:
                self._read.setdefault(artifact.digest, parse(artifact))
                cards.append((kind, str(artifact.card["name"]), artifact.digest))
            if artifact.digest not in known:
                self._store.add_artifact(path, artifact.card, is_bounded=False)
        _check_names(cards)
        return self._library(cards)

    def newest(self) -> Library:
        """Return the newest artifact of each kind and name, and all of ``BOUND``, newest first."""
        stored = self._store.all_artifacts()
        there = {one.digest for one in stored}
        self._read = {digest: read for digest, read in self._read.items() if digest in there}
        return self._library([(s.kind, s.name, s.digest) for s in stored if s.kind in KINDS])

    def pinned(self, artifacts: Mapping[str, str]) -> Library:
        """Return the artifacts that a recorded revision was pinned to.

        Reading one raises ``ArtifactNotFoundError`` if it is gone.
        """
        keys = [(*_kind_and_name(key), digest) for key, digest in artifacts.items()]
        return self._library([key for key in keys if key[0] in KINDS])

    def _library(self, cards: Iterable[tuple[str, str, str]]) -> Library:
        return _library(list(cards), self._get)

    def _get(self, kind: str, name: str, digest: str) -> Any:
        if digest not in self._read:
            stored = self._store.artifact(digest)
            if stored.kind != kind or (stored.name != name and kind not in BOUND):
                raise ArtifactNotFoundError(f"artifact {digest} is not a {kind} named '{name}'")
            self._read[digest] = parse(read_artifact(stored.path))
        return self._read[digest]


def _library(cards: Sequence[tuple[str, str, str]], get: Any) -> Library:
    names = _by_name(cards)

    def shelf(kind: str) -> Shelf[Any]:
        digests = {name: digest for (k, name), digest in names.items() if k == kind}
        return Shelf(digests, partial(get, kind))

    def bound(kind: str) -> tuple[Any, ...]:
        return tuple(get(kind, "", digest) for k, _, digest in cards if k == kind)

    return Library(
        shelf(DIRECTION), shelf(PROBE), shelf(SAE), bound(CALIBRATION), solved=bound(EDIT)
    )


def _by_name(cards: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str], str]:
    """Return the first digest of each kind and name."""
    names: dict[tuple[str, str], str] = {}
    for kind, name, digest in cards:
        names.setdefault((kind, name), digest)
    return names


def _check_names(cards: Iterable[tuple[str, str, str]]) -> None:
    """Refuse two of a kind under one name, except where names do not count."""
    seen: dict[tuple[str, str], str] = {}
    for kind, name, digest in cards:
        other = seen.setdefault((kind, name), digest)
        if other != digest and kind not in BOUND:
            raise ArtifactError(
                f"two {kind}s are named '{name}' ({other[:12]} and {digest[:12]}); remove one "
                "artifact or give it another name"
            )


def _kind_and_name(key: str) -> tuple[str, str]:
    kind, slash, name = key.partition("/")
    return (kind, name) if slash else (DIRECTION, key)


def _listed() -> str:
    return f"{', '.join(KINDS[:-1])} and {KINDS[-1]}"
