"""Probes: a vector and a bias that read one thing off the residual, fitted on labelled items."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from forward.clauses import TokenClause
from forward.columns import Read
from forward.digest import values_digest
from forward.hookpoints import HookPoint
from forward.prompts import Tokenizer
from monitors.activations import Progress, item_residuals
from monitors.averages import SINGLE, is_average
from monitors.fit import (
    L2,
    Attention,
    FitError,
    Linear,
    fit_attention,
    fit_logistic,
    fit_mean_difference,
)
from monitors.items import Item, Position, items_digest
from monitors.pooling import Pool
from monitors.reader import Reader, attention_reader, linear_reader
from monitors.statistics import Interval, auroc

ProbeKind = Literal["logistic", "mean-difference", "attention", "imported"]
FitKind = Literal["logistic", "mean-difference", "attention"]

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
FOLDS = 4
"""One item in so many is held out to measure how well a fit separates."""
MOST_NORM = 1e6
"""A longer vector would drown the residual in rounding."""


class ProbeError(ValueError):
    """A probe that is malformed, or cannot be fitted as asked."""


@dataclass(frozen=True, slots=True)
class ProbeProvenance:
    """Where a probe comes from.

    Attributes:
        position: Which token stood for an item, as the command line writes it; empty if imported.
        n_positive: Items of label 1.
        n_negative: Items of label 0.
        source: Digest of the items or of the imported file.
        held_out: Area under the curve on items held out of a fit on the others; None when there
            were too few.
    """

    position: str = ""
    n_positive: int = 0
    n_negative: int = 0
    source: str = ""
    held_out: Interval | None = None


@dataclass(frozen=True, eq=False)
class Probe:
    """What reads one thing at one hook point of one model; equal if its content is.

    Attributes:
        name: Lower-case letters, digits and hyphens.
        kind: How it was made.
        point: Where it reads.
        model: Digest of the model's fingerprint.
        value: The score of a token; for ``attention`` the value.
        query: Weighs tokens; only for ``attention``.
        provenance: Where it comes from.
    """

    name: str
    kind: ProbeKind
    point: HookPoint
    model: str
    value: Read
    query: Read | None = None
    provenance: ProbeProvenance = ProbeProvenance()

    def __post_init__(self) -> None:
        """Refuse malformed probes."""
        if not NAME.fullmatch(self.name):
            raise ProbeError(
                f"'{self.name}' is not a name: use lower-case letters, digits and hyphens, at most "
                "63"
            )
        if self.kind not in get_args(ProbeKind):
            raise ProbeError(f"'{self.kind}' is not a kind of probe")
        if (self.kind == "attention") != (self.query is not None):
            raise ProbeError("an attention probe has a query, and no other probe has one")
        for read in (self.value, *([self.query] if self.query else [])):
            _check_read(self.name, read, self.d_model)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.value.vector.shape[0]

    @cached_property
    def digest(self) -> str:
        """Identity of the content, 64 hex digits; name and provenance do not count."""
        query = self.query.digest if self.query else None
        return values_digest(self.kind, str(self.point), self.model, self.value.digest, query)

    def __eq__(self, other: object) -> bool:
        """Whether the contents are the same."""
        return isinstance(other, Probe) and self.digest == other.digest

    def __hash__(self) -> int:
        """Hash of the content."""
        return hash(self.digest)

    def reader(self) -> Reader:
        """Return what reads this probe."""
        if self.query is not None:
            return attention_reader(self.point, self.query, self.value)
        return linear_reader(self.point, self.value)


def fit_probe(
    model: nn.Module,
    tokenizer: Tokenizer,
    items: Sequence[Item],
    *,
    name: str,
    kind: FitKind,
    point: HookPoint,
    fingerprint: str,
    position: Position = "last_prompt",
    clause: TokenClause = TokenClause("all"),
    l2: float = L2,
    seed: int = 0,
    progress: Progress | None = None,
    pool: Pool = SINGLE,
) -> Probe:
    """Return a probe fitted on labelled items.

    Args:
        model: A Hugging Face causal language model.
        tokenizer: Its tokenizer.
        items: Both labels.
        name: Name of the probe.
        kind: ``logistic``, ``mean-difference`` or ``attention``.
        point: Where to read.
        fingerprint: Digest of the model's fingerprint.
        position: Which token stands for an item that does not say; ``attention`` takes ``every``.
        clause: Whose tokens ``every`` means, and over whose ``pool`` averages.
        l2: Regularisation of logistic and attention probes.
        seed: Of attention probes.
        progress: Called with the number of items just read.
        pool: What the monitor will pool by: a probe is fitted on what a pool that averages makes
            of the residuals, which is what decides when it is served.

    Raises:
        ItemsError: An item cannot be rendered or has no such token.
        FitError: Nothing can be fitted.
        PoolError: The pool's weights depend on the scores.
        ProbeError: An attention probe at one position or with a pool, or a name that is none.
    """
    positions = {position, *(item.position for item in items)} - {None}
    if kind == "attention" and positions != {"every"}:
        raise ProbeError("an attention probe weighs many tokens: fit it at position 'every'")
    if kind == "attention" and pool != SINGLE:
        raise ProbeError("an attention probe pools by its own query: leave the pool out")
    found = item_residuals(model, tokenizer, items, point, position, clause, progress, pool)
    labels = torch.tensor([item.label for item in items])
    fit = _fitter(kind, l2, seed)
    value, query = _reads(fit(found, labels))
    provenance = ProbeProvenance(
        position=_where(position, clause, pool),
        n_positive=int(labels.sum()),
        n_negative=int((labels == 0).sum()),
        source=items_digest(items),
        held_out=held_out(fit, found, labels),
    )
    return Probe(name, kind, point, fingerprint, value, query, provenance)


Fitted = Linear | Attention
Fitter = Callable[[Sequence[Tensor], Tensor], Fitted]


def held_out(fit: Fitter, sequences: Sequence[Tensor], labels: Tensor) -> Interval | None:
    """Return the area under the curve on every fourth item of each label, fitted on the others.

    An item with many tokens scores by its mean, with attention by its pool.
    """
    order = torch.cat([torch.nonzero(labels == label).flatten() for label in (0, 1)])
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    is_test[order[FOLDS - 1 :: FOLDS]] = True
    rest = [index for index in range(len(labels)) if not is_test[index]]
    try:
        fitted = fit([sequences[index] for index in rest], labels[rest])
    except FitError:
        return None
    scores = torch.stack([_item_score(fitted, sequence) for sequence in sequences])
    positive, negative = (scores[is_test & (labels == label)] for label in (1, 0))
    return auroc(positive.numpy(), negative.numpy()) if len(positive) and len(negative) else None


def _fitter(kind: FitKind, l2: float, seed: int) -> Fitter:
    def fit(sequences: Sequence[Tensor], labels: Tensor) -> Fitted:
        if kind == "attention":
            return fit_attention(sequences, labels, l2, seed)
        x = torch.cat(list(sequences))
        y = torch.cat([label.expand(len(s)) for s, label in zip(sequences, labels, strict=True)])
        return fit_logistic(x, y, l2) if kind == "logistic" else fit_mean_difference(x, y)

    return fit


def _item_score(fitted: Fitted, sequence: Tensor) -> Tensor:
    return fitted(sequence) if isinstance(fitted, Attention) else fitted(sequence).mean()


def _reads(fitted: Fitted) -> tuple[Read, Read | None]:
    """Return the value read and the query read, rounded to float32."""
    if isinstance(fitted, Attention):
        query = Read(fitted.query.vector, fitted.query.bias)
        return Read(fitted.value.vector, fitted.value.bias), query
    return Read(fitted.vector, fitted.bias), None


def _where(position: Position, clause: TokenClause, pool: Pool) -> str:
    """Return which token stood for an item, as the command line writes it."""
    token = f"every token of {clause}" if position == "every" else str(position)
    return f"{token}, averaged by {pool}" if is_average(pool) else token


def _check_read(name: str, read: Read, width: int) -> None:
    norm = float(read.vector.to(torch.float64).norm())
    if read.vector.shape != (width,) or not 0 < norm <= MOST_NORM:
        raise ProbeError(
            f"probe '{name}' has a vector of shape {tuple(read.vector.shape)} and norm {norm:g}; "
            f"needed is a vector of {width} finite numbers, not all 0, of norm {MOST_NORM:g} at "
            "most"
        )
    if not abs(read.bias) < float("inf"):
        raise ProbeError(f"probe '{name}' has bias {read.bias}, which is not finite")
