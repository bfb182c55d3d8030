"""The work behind ``trimtab monitor``: making, importing and describing probes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.progress import Progress
from torch import nn

from forward.allocation import CapacityError
from forward.checkpoint import load_model, load_tokenizer
from forward.clauses import TokenClause
from forward.columns import Read
from forward.container import Artifact, ArtifactError, find_artifacts, read_artifact
from forward.families import UnsupportedModelError
from forward.fingerprint import CheckpointError, ModelFingerprint, model_fingerprint
from forward.hookpoints import HookPoint, HookPointError
from forward.huggingface import SteeringError
from monitors import calibration_card, probe_card
from monitors.benign import CalibrationError
from monitors.calibration import Calibration
from monitors.fit import FitError
from monitors.items import ItemsError, Position, read_items
from monitors.keeping import save_probe
from monitors.plan import PlanError
from monitors.pooling import Pool, PoolError
from monitors.probe import NAME, FitKind, Probe, ProbeError, ProbeProvenance, fit_probe
from monitors.probe_import import import_probe
from monitors.statistics import StatisticsError
from service.checkpoints import checkpoint_folder
from service.errors import ServiceError
from steering.card import KIND as DIRECTION
from steering.card import from_artifact as direction_of
from steering.defaults import ClauseError, parse_clause
from steering.direction import DirectionError

EXPECTED = (
    ServiceError,
    ArtifactError,
    CalibrationError,
    CapacityError,
    CheckpointError,
    ClauseError,
    DirectionError,
    FitError,
    HookPointError,
    ItemsError,
    PlanError,
    PoolError,
    ProbeError,
    StatisticsError,
    SteeringError,
    UnsupportedModelError,
)
"""Errors that an operator's input can cause; their texts are for people."""

Dtype = Literal["float32", "bfloat16"]


class MonitorCommandError(ServiceError):
    """An option of ``trimtab monitor`` that cannot be followed."""


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A checkpoint, identified and loaded."""

    model: nn.Module
    tokenizer: Any
    fingerprint: ModelFingerprint
    folder: Path


@dataclass(frozen=True, eq=False)
class SavedMonitor:
    """A probe or a calibration on disk."""

    content: Probe | Calibration
    artifact: Artifact
    path: Path


@dataclass(frozen=True, slots=True)
class FitRequest:
    """What the command line says about a fit."""

    name: str
    kind: FitKind
    at: str
    items: Path
    position: Position
    clause: TokenClause
    l2: float
    seed: int
    pool: Pool


def fit_to(
    folder: Path, model: str, request: FitRequest, dtype: Dtype, progress: Progress
) -> SavedMonitor:
    """Fit a probe on labelled items and save it.

    Raises:
        One of ``EXPECTED``.
    """
    check_name(request.name)
    items = read_items(request.items)
    checkpoint, fingerprint = identify(model, progress)
    point = HookPoint.parse(request.at, fingerprint.n_layers)
    loaded = load(checkpoint, fingerprint, dtype)
    task = progress.add_task("reading items", total=len(items))
    probe = fit_probe(
        loaded.model,
        loaded.tokenizer,
        items,
        name=request.name,
        kind=request.kind,
        point=point,
        fingerprint=fingerprint.digest,
        position=request.position,
        clause=request.clause,
        l2=request.l2,
        seed=request.seed,
        pool=request.pool,
        progress=lambda n: progress.advance(task, n),
    )
    return opened(save_probe(probe, folder))


def import_to(
    folder: Path, path: Path, model: str, name: str, at: str | None, progress: Progress
) -> SavedMonitor:
    """Import a vector and a bias, or a direction's artifact, as a probe and save it.

    Raises:
        One of ``EXPECTED``.
    """
    check_name(name)
    _, fingerprint = identify(model, progress)
    point = HookPoint.parse(at, fingerprint.n_layers) if at is not None else None
    if _is_artifact(path):
        probe = _direction_probe(path, fingerprint, name, point)
    elif point is None:
        raise MonitorCommandError("where the vector reads is not known; give --at resid_post.L")
    else:
        probe = import_probe(path, fingerprint, name=name, point=point, source=_digest_of(path))
    return opened(save_probe(probe, folder))


def parse_tokens(text: str) -> TokenClause:
    """Return the token clause that the command line writes: a phase or ``from:N``.

    Raises:
        ClauseError: It is none.
    """
    start = text.removeprefix("from:")
    is_from = start != text and start.isdecimal()
    return parse_clause({"from": int(start)} if is_from else text)


def find_saved(what: str, folder: Path | None) -> list[SavedMonitor]:
    """Return the probe or calibration of a path, or all of a name (or digest) in a folder.

    Raises:
        One of ``EXPECTED``.
    """
    path = Path(what)
    if path.suffix in (".safetensors", ".json"):
        return [opened(path.with_suffix(".safetensors"))]
    folder = folder or Path()
    artifacts = [(path, read_artifact(path)) for path in find_artifacts(folder)]
    ours = [(path, a) for path, a in artifacts if a.card["kind"] in _PARSERS]
    matching = [path for path, a in ours if what in (a.card["name"], a.digest)]
    if not matching:
        names = ", ".join(sorted({a.card["name"] for _, a in ours})) or "none"
        raise MonitorCommandError(
            f"no probe or calibration is named '{what}' in {folder}, which has {names}; give the "
            "path of a .safetensors file, or the folder with --dir"
        )
    return [opened(path) for path in matching]


def description(saved: SavedMonitor) -> dict[str, Any]:
    """Return what is saved as JSON values; a calibration with its thresholds."""
    found = {
        "kind": saved.artifact.card["kind"],
        "name": saved.content.name,
        "digest": saved.artifact.digest,
        "path": str(saved.path),
        "card": dict(saved.artifact.card),
    }
    if isinstance(saved.content, Calibration):
        found["thresholds"] = calibration_card.thresholds_json(saved.content)
    return found


def identify(model: str, progress: Progress) -> tuple[Path, ModelFingerprint]:
    """Return a checkpoint's folder and fingerprint.

    Raises:
        One of ``EXPECTED``.
    """
    task = progress.add_task("fingerprinting the model", total=None)
    checkpoint = checkpoint_folder(model)
    fingerprint = model_fingerprint(checkpoint)
    progress.update(task, completed=1, total=1)
    return checkpoint, fingerprint


def load(checkpoint: Path, fingerprint: ModelFingerprint, dtype: Dtype) -> OpenModel:
    """Return a checkpoint's model and tokenizer.

    Raises:
        MonitorCommandError: It cannot be loaded.
    """
    precision = torch.float32 if dtype == "float32" else torch.bfloat16
    try:
        model = load_model(checkpoint, precision)
        return OpenModel(model, load_tokenizer(checkpoint), fingerprint, checkpoint)
    except (OSError, ValueError) as error:
        raise MonitorCommandError(f"{checkpoint} cannot be loaded: {error}") from error


def opened(path: Path) -> SavedMonitor:
    """Return the probe or calibration of a file.

    Raises:
        One of ``EXPECTED``.
    """
    artifact = read_artifact(path)
    kind = artifact.card["kind"]
    if kind not in _PARSERS:
        raise MonitorCommandError(f"{path} is a {kind}; this command shows probes and calibrations")
    return SavedMonitor(_PARSERS[kind](artifact), artifact, path)


def check_name(name: str) -> None:
    """Refuse before long work a name that would be refused after it.

    Raises:
        MonitorCommandError: It is none.
    """
    if not NAME.fullmatch(name):
        raise MonitorCommandError(
            f"'{name}' is not a name: use lower-case letters, digits and hyphens"
        )


_PARSERS = {
    probe_card.KIND: probe_card.from_artifact,
    calibration_card.KIND: calibration_card.from_artifact,
}


def _direction_probe(
    path: Path, model: ModelFingerprint, name: str, point: HookPoint | None
) -> Probe:
    artifact = read_artifact(path.with_suffix(".safetensors"))
    if artifact.card["kind"] != DIRECTION:
        raise MonitorCommandError(
            f"{path} is a {artifact.card['kind']}; of artifacts only a direction becomes a probe"
        )
    direction = direction_of(artifact)
    if point is None and len(direction.defaults.layers) != 1:
        raise MonitorCommandError(
            f"'{direction.name}' acts at layers {list(direction.defaults.layers)}; say which one "
            f"with --at {direction.hook}.L"
        )
    point = point or HookPoint(direction.hook, direction.defaults.layers[0])
    if direction.model != model.digest:
        raise MonitorCommandError(
            f"'{direction.name}' was made on model {direction.model[:12]}, this one is "
            f"{model.digest[:12]}; make it again on this model"
        )
    if point.name != direction.hook or point.layer not in direction.vectors:
        raise MonitorCommandError(
            f"'{direction.name}' has no vector at {point}; it has {direction.hook} of layers "
            f"{list(direction.layers)}"
        )
    return Probe(
        name,
        "imported",
        point,
        model.digest,
        Read(direction.vectors[point.layer]),
        provenance=ProbeProvenance(source=artifact.digest),
    )


def _is_artifact(path: Path) -> bool:
    return path.suffix in (".safetensors", ".json") and path.with_suffix(".json").exists()


def _digest_of(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise MonitorCommandError(f"{path} cannot be read: {error.strerror or error}") from error
