"""What must be known before an engine starts: the model, the policies, the size of the tables.

Capacity is fixed at start from what is to be active, as if all of it were enforced, plus head-room;
sites are those that it uses, those that known artifacts are for, and those asked for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from forward.container import ArtifactError
from forward.families import UnsupportedModelError
from forward.fingerprint import CheckpointError, ModelFingerprint, model_fingerprint
from forward.hookpoints import HookPoint, HookPointError
from forward.program import Program
from forward.site import Capacity
from service.artifacts import ArtifactLibrary
from service.capacity import required, required_gates
from service.checkpoints import checkpoint_folder
from service.desired import compile_desired, wanted_now
from service.directory import DirectoryState, load_directory
from service.documents import Document, DocumentsError
from service.library import Library
from service.prompting import UNREAD, Prompting, read_prompting
from service.seeding import seed_of, unseen
from service.settings import Headroom, Settings, SettingsError
from service.store import Store
from steering.direction import Direction, DirectionError

PREPARE_REFUSALS = (
    CheckpointError,
    UnsupportedModelError,
    HookPointError,
    ArtifactError,
    DirectionError,
)
"""What ``prepare`` refuses with, beside the errors of the service itself."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything that the engine and the governor are made of."""

    settings: Settings
    checkpoint: Path
    model: ModelFingerprint
    store: Store
    library: ArtifactLibrary
    directory: DirectoryState | None
    capacities: Mapping[HookPoint, Capacity]
    gates: int = 0
    prompting: Prompting = UNREAD
    seed: tuple[Document, ...] = ()


def prepare(settings: Settings) -> Prepared:
    """Read the model, the store and the policy directory and size the tables.

    Raises:
        ServiceError: Something in them is wrong; nothing was started.
        CheckpointError, UnsupportedModelError: The model cannot be served.
    """
    checkpoint = checkpoint_folder(settings.model)
    model = model_fingerprint(checkpoint)
    _check_layers(settings.merge_layers, model)
    directory = _directory(settings.policies)
    store = _store(settings)
    library = ArtifactLibrary(store)
    prompting = read_tokenizer(checkpoint)
    seed = seed_of(settings.seed, library)
    documents = wanted_now(store, library, directory, unseen(seed, store))
    desired = compile_desired(documents, library, model, prompting)
    asked = [HookPoint.parse_site(site, model.n_layers) for site in settings.sites]
    read = [monitored.plan.reader.point for monitored in desired.monitors.values()]
    edited = [point for one in desired.edits.values() for point in one.sites]
    extra = [*asked, *read, *edited, *artifact_sites(library.newest(), model)]
    headroom = settings.headroom
    capacities = size_tables(desired.every_mode, extra, headroom)
    gates = required_gates(desired.every_mode) + headroom.gates
    return Prepared(
        settings, checkpoint, model, store, library, directory, capacities, gates, prompting, seed
    )


def reopened(
    settings: Settings,
    checkpoint: Path,
    model: ModelFingerprint,
    capacities: Mapping[HookPoint, Capacity],
    gates: int,
    prompting: Prompting,
) -> Prepared:
    """Return what another process of the same server works with; the sizes are decided already.

    Raises:
        ServiceError: The directory is not what it was, or the store cannot be opened.
    """
    store = _store(settings)
    directory = _directory(settings.policies)
    library = ArtifactLibrary(store)
    seed = seed_of(settings.seed, library)
    return Prepared(
        settings, checkpoint, model, store, library, directory, capacities, gates, prompting, seed
    )


def read_tokenizer(checkpoint: Path) -> Prompting:
    """Return how the checkpoint makes tokens of text, which calibrations are bound to.

    Raises:
        SettingsError: It has no tokenizer.
    """
    try:
        return read_prompting(checkpoint)
    except (OSError, ValueError) as error:
        raise SettingsError(f"the tokenizer of {checkpoint} cannot be read: {error}") from error


def artifact_sites(library: Library, model: ModelFingerprint) -> list[HookPoint]:
    """Return where the artifacts made on this model read or write unless told otherwise."""
    directions = [found.direction for found in library.directions.values()]
    probes = [kept.content for kept in library.probes.values()]
    saes = [kept.content for kept in library.saes.values()]
    return [
        *(HookPoint(d.hook, k) for d in directions for k in _layers(d, model)),
        *(probe.point for probe in probes if probe.model == model.digest),
        *(sae.point for sae in saes if sae.model == model.digest and is_served(sae.hook)),
    ]


def is_served(hook: str) -> bool:
    """Whether a place in the model is a hook point with a site."""
    try:
        HookPoint.parse(hook)
    except HookPointError:
        return False
    return True


def _layers(direction: Direction, model: ModelFingerprint) -> tuple[int, ...]:
    return direction.defaults.layers if direction.model == model.digest else ()


def size_tables(
    programs: Iterable[Program], extra: Iterable[HookPoint], headroom: Headroom
) -> dict[HookPoint, Capacity]:
    """Return the capacity of every site: what the programs need at once, plus head-room."""
    needed = required(list(programs))
    rows = max((c.rows for c in needed.values()), default=1) + headroom.rows
    points = sorted({*needed, *extra})
    sizes = {point: needed.get(point, Capacity(1, 0, 0)) for point in points}
    return {point: _with_headroom(point, rows, size, headroom) for point, size in sizes.items()}


def _with_headroom(point: HookPoint, rows: int, size: Capacity, headroom: Headroom) -> Capacity:
    """Return the size of a site's tables; an edit takes a read and a write a rank."""
    if point.is_edit:
        return Capacity(rows, size.reads + headroom.ranks, size.writes + headroom.ranks)
    return Capacity(rows, size.reads + headroom.reads, size.writes + headroom.writes)


def _check_layers(layers: Iterable[int], model: ModelFingerprint) -> None:
    outside = sorted(layer for layer in layers if not 0 <= layer < model.n_layers)
    if outside:
        raise SettingsError(
            f"--merge-layers names {', '.join(map(str, outside))}, outside the model: it has "
            f"{model.n_layers} layers, 0 to {model.n_layers - 1}"
        )


def _directory(folder: Path | None) -> DirectoryState | None:
    if folder is None:
        return None
    state = load_directory(folder)
    if state.errors:
        raise DocumentsError(state.errors)
    return state


def _store(settings: Settings) -> Store:
    if settings.state is None:
        return Store.ephemeral(settings.artifact_quota)
    quota = settings.artifact_quota
    return Store.open(settings.state, settings.artifacts_folder, artifact_quota=quota)
