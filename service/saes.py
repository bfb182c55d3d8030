"""The work behind ``trimtab sae``: training, importing and describing dictionaries."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import nn

from forward.checkpoint import load_model, load_tokenizer
from forward.container import Artifact, ArtifactError, find_artifacts, read_artifact
from forward.families import UnsupportedModelError, model_shape
from forward.fingerprint import CheckpointError, ModelFingerprint, model_fingerprint
from forward.hookpoints import HookPoint, HookPointError
from monitors.sae import Sae
from monitors.sae_card import KIND, NAME, from_artifact, save_sae
from monitors.sae_coder import SaeError
from monitors.sae_fit import (
    Fit,
    check_fit,
    estimate_threshold,
    fit_report,
    siblings,
    typical_activations,
)
from monitors.sae_formats.files import Options
from monitors.sae_formats.importers import import_sae
from monitors.sae_formats.saelens import save_saelens
from monitors.sae_spans import Firing, top_spans
from monitors.sae_stream import collect, special_ids
from monitors.sae_texts import read_texts, texts_digest, token_documents
from monitors.sae_train import Recipe, train_sae
from service.checkpoints import checkpoint_folder
from service.errors import ServiceError

EXPECTED = (
    ServiceError,
    ArtifactError,
    CheckpointError,
    HookPointError,
    SaeError,
    UnsupportedModelError,
)
"""Errors that an operator's input can cause; their texts are for people."""

GATE_TOKENS = 8192
"""Held-out tokens that the gate reads."""


class SaeCommandError(ServiceError):
    """An option of ``trimtab sae`` that cannot be followed."""


@dataclass(frozen=True, slots=True)
class SavedSae:
    """A dictionary on disk."""

    sae: Sae
    artifact: Artifact
    path: Path


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What the command line says about an import."""

    path: Path
    name: str
    file_format: str | None = None
    at: str | None = None
    k: int | None = None
    input_scale: float | None = None
    threshold: float | None = None
    texts: Path | None = None
    max_fvu: float = 0.5
    l0_factor: float = 3.0


@dataclass(frozen=True, slots=True)
class Gated:
    """What the gate measured: the fit at each hook point it looked at."""

    saved: SavedSae
    report: dict[HookPoint, Fit]


@dataclass(frozen=True, slots=True)
class _Loaded:
    model: nn.Module
    tokenizer: Any
    fingerprint: ModelFingerprint


def train_to(
    folder: Path,
    model: str,
    texts: Path,
    name: str,
    at: str,
    recipe: Recipe,
    sae_lens: Path | None,
    progress: Progress,
) -> SavedSae:
    """Train a dictionary on texts and save it, in SAELens' format too if a folder is given.

    Raises:
        One of ``EXPECTED``.
    """
    _check_name(name)
    found = read_texts(texts)
    checkpoint, fingerprint = _fingerprint(model, progress)
    point = HookPoint.parse(at, fingerprint.n_layers)
    loaded = _load(checkpoint, fingerprint)
    task = progress.add_task("training", total=recipe.tokens)

    def told(done: int, total: int, fvu: float) -> None:
        progress.update(task, completed=done, total=total, description=f"training, FVU {fvu:.3f}")

    sae = train_sae(
        loaded.model,
        token_documents(loaded.tokenizer, found),
        point,
        recipe,
        name=name,
        fingerprint=fingerprint.digest,
        skip=special_ids(loaded.tokenizer),
        source=texts_digest(found),
        progress=told,
    )
    if sae_lens is not None:
        save_saelens(sae, sae_lens, checkpoint.name)
    return _opened(save_sae(sae, folder))


def import_to(folder: Path, model: str, request: ImportRequest, progress: Progress) -> Gated:
    """Import a dictionary, measure it on held-out texts, and save it if it fits.

    Without texts nothing is measured, which the card then shows.

    Raises:
        One of ``EXPECTED``.
    """
    _check_name(request.name)
    checkpoint, fingerprint = _fingerprint(model, progress)
    at = HookPoint.parse(request.at, fingerprint.n_layers) if request.at else None
    sae, declared = import_sae(
        request.path,
        fingerprint,
        name=request.name,
        file_format=request.file_format,
        at=at,
        options=Options(request.k, request.input_scale, request.threshold),
    )
    report: dict[HookPoint, Fit] = {}
    if request.texts is not None:
        loaded = _load(checkpoint, fingerprint)
        sae, report = _gate(sae, declared, loaded, request.texts, request, progress)
    return Gated(_opened(save_sae(sae, folder)), report)


def find_sae(what: str, folder: Path | None) -> SavedSae:
    """Return a dictionary by the path of its artifact, or by its name (or digest) in a folder.

    Raises:
        One of ``EXPECTED``.
    """
    path = Path(what)
    if path.suffix in (".safetensors", ".json"):
        return _opened(path.with_suffix(".safetensors"))
    folder = folder or Path()
    artifacts = [(path, read_artifact(path)) for path in find_artifacts(folder)]
    ours = [(path, a) for path, a in artifacts if a.card["kind"] == KIND]
    matching = [path for path, a in ours if what in (a.card["name"], a.digest)]
    if len(matching) != 1:
        names = ", ".join(sorted(a.card["name"] for _, a in ours)) or "none"
        reason = "more than one dictionary is" if matching else "no dictionary is"
        raise SaeCommandError(
            f"{reason} named '{what}' in {folder}, which has {names}; give the path of a "
            ".safetensors file, or the folder with --dir"
        )
    return _opened(matching[0])


def spans_of(
    saved: SavedSae, model: str, texts: Path, index: int, n: int, progress: Progress
) -> Firing:
    """Return where one feature of a dictionary fires most in texts.

    Raises:
        One of ``EXPECTED``.
    """
    feature = saved.sae.feature(index)
    found = read_texts(texts)
    checkpoint, fingerprint = _fingerprint(model, progress)
    if fingerprint.digest != saved.sae.model:
        raise SaeCommandError(
            f"'{saved.sae.name}' is for the model {saved.sae.model[:12]} and {model} is "
            f"{fingerprint.digest[:12]}; give the checkpoint that it was made for"
        )
    loaded = _load(checkpoint, fingerprint)
    task = progress.add_task("reading texts", total=len(found))
    return top_spans(
        loaded.model,
        token_documents(loaded.tokenizer, found),
        feature,
        loaded.tokenizer.convert_ids_to_tokens,
        skip=special_ids(loaded.tokenizer),
        n=n,
        progress=lambda done, total: progress.update(task, completed=done, total=total),
    )


def width_of(model: str) -> int:
    """Return the width of a model's residual stream, as its configuration states it.

    Raises:
        One of ``EXPECTED``.
    """
    config = checkpoint_folder(model) / "config.json"
    try:
        return model_shape(json.loads(config.read_bytes())).d_model
    except (OSError, ValueError) as error:
        raise SaeCommandError(f"{config} says no width: {error}") from error


def sae_description(saved: SavedSae) -> dict[str, Any]:
    """Return a saved dictionary as JSON values."""
    return {
        "name": saved.sae.name,
        "digest": saved.artifact.digest,
        "path": str(saved.path),
        "card": dict(saved.artifact.card),
    }


def firing_description(firing: Firing) -> dict[str, Any]:
    """Return where a feature fires as JSON values."""
    return {
        "tokens": firing.tokens,
        "active": firing.active,
        "spans": [
            {
                "document": span.document,
                "start": span.start,
                "peak": span.peak,
                "tokens": list(span.tokens),
                "activations": list(span.activations),
            }
            for span in firing.spans
        ],
    }


def fit_rows(report: dict[HookPoint, Fit]) -> list[tuple[str, str, str]]:
    """Return a table of fits by hook point."""
    return [(str(p), f"{f.fvu:.4g}", f"{f.l0:.4g}") for p, f in report.items()]


def _gate(
    sae: Sae,
    declared: float | None,
    loaded: _Loaded,
    texts: Path,
    request: ImportRequest,
    progress: Progress,
) -> tuple[Sae, dict[HookPoint, Fit]]:
    """Return the dictionary with its measures, if it passes, and all that was measured."""
    if sae.is_transcoder:
        raise SaeCommandError(
            f"'{sae.name}' is a transcoder: what it reconstructs is at {sae.hook_out}, which is "
            "not read here, so it cannot be measured; import it without texts"
        )
    task = progress.add_task("measuring the fit", total=None)
    documents = token_documents(loaded.tokenizer, read_texts(texts))
    points = siblings(sae.point, loaded.fingerprint.n_layers)
    x = collect(loaded.model, documents, points, special_ids(loaded.tokenizer), GATE_TOKENS)
    report = fit_report(sae, x)
    own = check_fit(sae, report, declared, request.max_fvu, request.l0_factor)
    sae = sae.measured(fvu=own.fvu, l0=own.l0, tokens=own.tokens)
    sae = replace(sae, typical=typical_activations(sae.coder, x[sae.point]))
    if sae.coder.architecture in ("topk", "batchtopk") and sae.coder.threshold is None:
        threshold, f1 = estimate_threshold(sae, x[sae.point])
        sae = sae.with_threshold(threshold, f"estimated on {own.tokens} tokens")
        sae = sae.measured(threshold_f1=f1)
    progress.update(task, completed=1, total=1)
    return sae, report


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise SaeCommandError(f"'{name}' is not a name: use lower-case letters, digits and hyphens")


def _fingerprint(model: str, progress: Progress) -> tuple[Path, ModelFingerprint]:
    task = progress.add_task("fingerprinting the model", total=None)
    checkpoint = checkpoint_folder(model)
    found = model_fingerprint(checkpoint)
    progress.update(task, completed=1, total=1)
    return checkpoint, found


def _load(checkpoint: Path, fingerprint: ModelFingerprint) -> _Loaded:
    try:
        model = load_model(checkpoint, torch.float32)
        return _Loaded(model, load_tokenizer(checkpoint), fingerprint)
    except (OSError, ValueError) as error:
        raise SaeCommandError(f"{checkpoint} cannot be loaded: {error}") from error


def _opened(path: Path) -> SavedSae:
    artifact = read_artifact(path)
    return SavedSae(from_artifact(artifact), artifact, path)
