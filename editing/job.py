"""Whole jobs on a checkpoint: solve a set and gate it, remove facts from it, evaluate it.

What the command line and the service share. Nothing is written here but the cache.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from editing.cache import TensorCache
from editing.card import Edit, edit_of
from editing.cases import Case
from editing.contexts import Contexts, sampled_contexts
from editing.corpus import file_source, named_source, sampled_corpus, sampled_source
from editing.delta import LowRankDelta, beside
from editing.errors import EditError
from editing.evaluate import evaluate
from editing.gates import Limits, Probes, measure_gates
from editing.intervals import Estimate
from editing.methods import Weights, joined_keys, stacked_keys
from editing.moments import CorpusError
from editing.registry import Progress, Settings, Workbench, silent
from editing.speaker import ModelSpeaker
from editing.spec import EditSpec
from editing.values import ValueRecipe
from forward.checkpoint import load_model, load_tokenizer
from forward.fingerprint import model_fingerprint

CANARY_TOKENS = 4_000
CANARY_SEED = 1
"""Of canary texts that the model writes; a corpus that it writes has seed 0."""


class JobError(EditError):
    """A checkpoint that cannot be loaded, or an edit of another model."""


@dataclass(frozen=True)
class Sources:
    """Where a job takes what is not in the facts.

    Attributes:
        corpus: File of ordinary text; None lets the model write its own.
        cache: Folder of values, keys and second moments; None keeps them for this job only.
        prefixes: How many prefixes the model writes for contexts.
        tokens: Corpus tokens of the second moments.
        values: How values are fitted.
        weights: The numbers of the closed forms.
    """

    corpus: Path | None = None
    cache: Path | None = None
    prefixes: int = 4
    tokens: int = 100_000
    values: ValueRecipe = field(default_factory=ValueRecipe)
    weights: Weights = field(default_factory=Weights)


def open_bench(checkpoint: Path, sources: Sources, edit: Edit | None = None) -> Workbench:
    """Load a checkpoint and return it with what edits are solved with.

    Args:
        checkpoint: A folder.
        sources: Where the rest comes from.
        edit: Take settings from this one, so that it can be solved again alike.

    Raises:
        JobError: The checkpoint cannot be loaded, or ``edit`` is of another model.
        CheckpointError: It cannot be identified.
        UnsupportedModelError: Its family is not supported.
        CorpusError: The corpus cannot be read.
    """
    fingerprint = model_fingerprint(checkpoint).digest
    if edit is not None:
        check_model(edit, fingerprint)
    try:
        model, tokenizer = load_model(checkpoint, torch.float32), load_tokenizer(checkpoint)
    except (OSError, ValueError) as error:
        raise JobError(f"{checkpoint} cannot be loaded: {error}") from error
    settings = edit.settings if edit else _settings(model, tokenizer, sources)
    corpus = sampled_source(model, tokenizer, fingerprint, settings.tokens)
    if sources.corpus is not None:
        corpus = file_source(sources.corpus, tokenizer)
    elif edit is not None and edit.corpus != corpus.digest:
        corpus = named_source(edit.corpus)
    return Workbench(model, tokenizer, fingerprint, settings, corpus, TensorCache(sources.cache))


def _settings(model: Any, tokenizer: Any, sources: Sources) -> Settings:
    n = sources.prefixes
    contexts = sampled_contexts(model, tokenizer, n) if n else Contexts()
    return Settings(contexts, sources.values, sources.weights, sources.tokens)


def solve_edit(
    bench: Workbench,
    spec: EditSpec,
    limits: Limits | None = None,
    override: Sequence[str] = (),
    earlier: Iterable[Edit] = (),
    progress: Progress = silent,
) -> Edit:
    """Solve a set, measure its gates and return the edit with their report; it may have failed.

    ``gates["failed"]`` names what refuses it: check it before the edit is let near a server.

    Args:
        bench: Model and settings.
        spec: The set, and probes.
        limits: Of the gates.
        override: Gates that may fail; recorded on the edit.
        earlier: Edits that act beside this one; their keys are guarded.
        progress: Called as work goes on.

    Raises:
        EditError: The set cannot be solved, or an override names no gate.
    """
    solved = bench.solve(spec.edits, progress)
    progress("gates", 0, 1)
    keys: dict[int, torch.Tensor] = {}
    for edit in earlier:
        check_model(edit, bench.fingerprint)
        keys = joined_keys(keys, stacked_keys(edit.delta))
    subjects = [group.subject for group in spec.edits.groups]
    report = measure_gates(
        bench.model,
        bench.tokenizer,
        solved.delta,
        solved.moments,
        Probes(canary_of(bench, subjects), spec.neighbours, keys),
        limits,
        override,
        bench.settings.weights.moment_ridge,
    )
    progress("gates", 1, 1)
    neighbours = [phrasing.plain() for phrasing in spec.neighbours]
    return edit_of(bench, solved).gated(report.plain() | {"probes": {"neighbours": neighbours}})


def canary_of(bench: Workbench, subjects: Sequence[str]) -> list[list[int]]:
    """Return documents that mention no subject: of a given corpus, or of what the model writes.

    It writes them for this alone: of a corpus that it writes for second moments, all would have to
    be written again where only the moments are kept.
    """
    try:
        corpus = None if bench.corpus.is_written else bench.corpus.load()
    except CorpusError:
        corpus = None
    if corpus is None:
        corpus = sampled_corpus(bench.model, bench.tokenizer, CANARY_TOKENS, CANARY_SEED)
    return corpus.without(subjects, CANARY_TOKENS)


def evaluate_edit(
    bench: Workbench, delta: LowRankDelta | None, cases: Sequence[Case], accuracies: bool = False
) -> dict[str, Estimate]:
    """Return every metric with a change on the model, or of the unedited model."""
    speaker = ModelSpeaker(bench.model, bench.tokenizer)
    with nullcontext() if delta is None else beside(bench.model, delta):
        return evaluate(speaker, cases, accuracies)


def check_model(edit: Edit, fingerprint: str) -> None:
    """Refuse an edit of another model.

    Raises:
        JobError: It is of another.
    """
    if edit.model != fingerprint:
        raise JobError(
            f"edit '{edit.name}' was solved on model {edit.model[:12]}, and this is "
            f"{fingerprint[:12]}: solve it on this one"
        )
