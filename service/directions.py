"""The work behind ``trimtab direction``: making, importing and describing artifacts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from torch import nn

from forward.checkpoint import load_model, load_tokenizer
from forward.container import Artifact, ArtifactError, find_artifacts, read_artifact
from forward.families import UnsupportedModelError
from forward.fingerprint import CheckpointError, ModelFingerprint, model_fingerprint
from forward.hookpoints import HookName
from service.checkpoints import checkpoint_folder
from service.errors import ServiceError
from steering.card import from_artifact
from steering.defaults import ClauseError, Defaults, OpName, Unit, parse_clause
from steering.direction import NAME, Direction, DirectionError
from steering.extract import extract
from steering.fit import Method
from steering.formats import Format, FormatError, import_direction
from steering.library import save_direction
from steering.pairs import PairsError, TokenName, read_pairs

EXPECTED = (
    ServiceError,
    ArtifactError,
    CheckpointError,
    ClauseError,
    DirectionError,
    FormatError,
    PairsError,
    UnsupportedModelError,
)
"""Errors that an operator's input can cause; their texts are for people."""

Dtype = Literal["float32", "bfloat16"]


class DirectionCommandError(ServiceError):
    """An option of ``trimtab direction`` that cannot be followed."""


@dataclass(frozen=True, slots=True)
class CardOptions:
    """What the command line says about a direction's card; no layers: those are measured."""

    name: str
    layers: tuple[int, ...]
    op: OpName = "add"
    tokens: str = "all"
    coefficient: float = 1.0
    unit: Unit = "natural"

    def defaults(self, layers: tuple[int, ...]) -> Defaults:
        """Return the card's defaults at these layers.

        Raises:
            DirectionCommandError: They make no sense.
        """
        clause = {"from": int(self.tokens[5:])} if _is_from(self.tokens) else self.tokens
        try:
            return Defaults(layers, self.op, parse_clause(clause), self.coefficient, self.unit)
        except ValueError as error:
            raise DirectionCommandError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Saved:
    """A direction on disk."""

    direction: Direction
    artifact: Artifact
    path: Path


def extract_to(
    folder: Path,
    model: str,
    pairs: Path,
    card: CardOptions,
    method: Method,
    token: TokenName,
    hook: HookName,
    dtype: Dtype,
    progress: Progress,
) -> Saved:
    """Extract a direction from contrast pairs and save it.

    Raises:
        One of ``EXPECTED``.
    """
    contrast = read_pairs(pairs)
    checkpoint, fingerprint = _model(model, progress)
    _check(card, fingerprint)
    loaded, tokenizer = _load(checkpoint, dtype)
    task = progress.add_task("reading pairs", total=len(contrast))
    direction = extract(
        loaded,
        tokenizer,
        contrast,
        name=card.name,
        fingerprint=fingerprint.digest,
        method=method,
        token=token,
        hook=hook,
        defaults=card.defaults(card.layers) if card.layers else None,
        progress=lambda done, total: progress.update(task, completed=done, total=total),
    )
    return _save(direction, card, folder)


def import_to(
    folder: Path,
    path: Path,
    file_format: Format,
    model: str,
    card: CardOptions,
    hook: HookName,
    progress: Progress,
) -> Saved:
    """Import a direction from another program's file and save it.

    Raises:
        One of ``EXPECTED``.
    """
    if len(card.layers) > 1:
        raise DirectionCommandError("an import takes one --layer at most")
    _, fingerprint = _model(model, progress)
    _check(card, fingerprint)
    layer = card.layers[0] if card.layers else None
    direction = import_direction(
        path, file_format, fingerprint, name=card.name, hook=hook, layer=layer
    )
    return _save(direction, card, folder)


def find(what: str, folder: Path | None) -> Saved:
    """Return a direction by the path of its artifact, or by its name (or digest) in a folder.

    Raises:
        One of ``EXPECTED``.
    """
    path = Path(what)
    if path.suffix in (".safetensors", ".json"):
        return _opened(path.with_suffix(".safetensors"))
    artifacts = find_artifacts(folder or Path())
    found = [saved for saved in map(_opened_if_direction, artifacts) if saved is not None]
    matching = [s for s in found if what in (s.direction.name, s.artifact.digest)]
    if len(matching) != 1:
        names = ", ".join(sorted(s.direction.name for s in found)) or "no directions"
        reason = "more than one direction is" if matching else "no direction is"
        raise DirectionCommandError(
            f"{reason} named '{what}' in {folder or Path()}, which has {names}; give the path of a "
            ".safetensors file, or the folder with --dir"
        )
    return matching[0]


def description(saved: Saved) -> dict[str, Any]:
    """Return a saved direction as JSON values."""
    return {
        "name": saved.direction.name,
        "digest": saved.artifact.digest,
        "path": str(saved.path),
        "card": dict(saved.artifact.card),
    }


def progress_bar(console: Console) -> Progress:
    """Return the progress display of long work."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _model(model: str, progress: Progress) -> tuple[Path, ModelFingerprint]:
    task = progress.add_task("fingerprinting the model", total=None)
    checkpoint = checkpoint_folder(model)
    fingerprint = model_fingerprint(checkpoint)
    progress.update(task, completed=1, total=1)
    return checkpoint, fingerprint


def _load(checkpoint: Path, dtype: Dtype) -> tuple[nn.Module, Any]:
    precision = torch.float32 if dtype == "float32" else torch.bfloat16
    try:
        return load_model(checkpoint, precision), load_tokenizer(checkpoint)
    except (OSError, ValueError) as error:
        raise DirectionCommandError(f"{checkpoint} cannot be loaded: {error}") from error


def _check(card: CardOptions, model: ModelFingerprint) -> None:
    """Refuse before long work what would be refused after it."""
    if not NAME.fullmatch(card.name):
        raise DirectionCommandError(
            f"'{card.name}' is not a name: use lower-case letters, digits and hyphens"
        )
    if card.op in ("clamp", "rotate"):
        raise DirectionCommandError(
            f"a card cannot default to {card.op}, which needs numbers; write it in the policy"
        )
    wrong = [layer for layer in card.layers if not 0 <= layer < model.n_layers]
    if wrong:
        raise DirectionCommandError(
            f"layers {wrong} are outside the model: it has {model.n_layers}, 0 to "
            f"{model.n_layers - 1}"
        )
    card.defaults(card.layers or (0,))


def _save(direction: Direction, card: CardOptions, folder: Path) -> Saved:
    layers = direction.defaults.layers
    path = save_direction(replace(direction, defaults=card.defaults(layers)), folder)
    return _opened(path)


def _opened(path: Path) -> Saved:
    artifact = read_artifact(path)
    return Saved(from_artifact(artifact), artifact, path)


def _opened_if_direction(path: Path) -> Saved | None:
    artifact = read_artifact(path)
    if artifact.card["kind"] != "direction":
        return None
    return Saved(from_artifact(artifact), artifact, path)


def _is_from(tokens: str) -> bool:
    return tokens.startswith("from:") and tokens[5:].isdecimal()


def layer_rows(direction: Direction) -> Sequence[tuple[str, ...]]:
    """Return a table of what is known by layer, for people; the defaults' layers are starred."""
    rows: list[tuple[str, ...]] = []
    for layer in direction.layers:
        separation = direction.separation.get(layer)
        rows.append(
            (
                f"{layer}{'*' if layer in direction.defaults.layers else ''}",
                f"{direction.scale[layer]:.4g}",
                _number(direction.benign.get(layer)),
                _number(direction.target.get(layer)),
                _number(separation.auroc if separation else None),
                _number(separation.d_prime if separation else None),
            )
        )
    return rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
