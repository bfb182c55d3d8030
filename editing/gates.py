"""Gates: what is measured of an edit before it may act, and the limits that refuse it.

Each gate gives one figure. The norm of a change alone says little: on the demo model batches of 50
edits are four times the norm of the matrix and harm nothing, since they act on directions that
ordinary keys hardly use. ``shift`` weighs the change by those keys. An override is named gate
by gate and goes on the card.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from editing.batches import batch_of, chunks, device_of, run
from editing.delta import LowRankDelta, beside
from editing.errors import EditError
from editing.methods import Previous, Weights, stacked_keys
from editing.moments import SecondMoment
from editing.phrasings import Phrasing, word_whole
from editing.projections import projections
from editing.solve import Metric
from editing.spans import Row, locate


class GateError(EditError):
    """An edit that a gate refuses; ``report`` has all figures."""

    def __init__(self, report: "GateReport") -> None:
        """Say which gates failed, by how much, and how to override."""
        failed = [f"{name} {report.figures[name]:.4g}" for name in report.failed]
        super().__init__(
            f"the edit is refused: {', '.join(failed)} (limits: "
            f"{', '.join(f'{name} {report.limits[name]:g}' for name in report.failed)}). Use fewer "
            "facts, another layer or a larger weight on what is to stay; or override these gates "
            "by name"
        )
        self.report = report


@dataclass(frozen=True, slots=True)
class Limits:
    """The worst figure that each gate lets through.

    Attributes:
        finite: Values that are not finite (none may be).
        growth: ‖ΔW‖ / ‖W‖ (Frobenius), the largest of a layer.
        shift: sqrt(tr(Δ C Δᵀ) / tr(W C Wᵀ)): how far the outputs of ordinary tokens move, as a
            share of their size; the largest of a layer.
        denominator: Smallest cos(C⁻¹k, k) of a key: near zero, a rank-one change explodes.
        interference: Largest |cos| of a key with one of earlier edits, in the metric C⁻¹: of what
            an edit adds at its key, the share that it adds at the other.
        perplexity: Perplexity on unrelated text, after over before.
        neighbours: Smallest share of probe prompts whose likeliest next token stays.
    """

    finite: float = 0.0
    growth: float = 10.0
    shift: float = 1.0
    denominator: float = 1e-4
    interference: float = 0.5
    perplexity: float = 1.02
    neighbours: float = 0.95


GATES = tuple(Limits.__dataclass_fields__)
"""The names of the gates."""
AT_LEAST = ("denominator", "neighbours")
"""Gates whose figure must not be below its limit; the others' must not be above."""


@dataclass(frozen=True)
class GateReport:
    """Figures by gate (absent where nothing was given to measure on), limits and overrides."""

    figures: Mapping[str, float]
    limits: Mapping[str, float]
    overridden: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[str, ...]:
        """Gates that refuse the edit, those overridden left out."""
        return tuple(
            name
            for name, figure in self.figures.items()
            if name not in self.overridden and not _passes(name, figure, self.limits[name])
        )

    def plain(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "figures": dict(self.figures),
            "limits": dict(self.limits),
            "failed": list(self.failed),
            "overridden": list(self.overridden),
        }

    def require(self) -> None:
        """Raise if a gate fails.

        Raises:
            GateError: One does.
        """
        if self.failed:
            raise GateError(self)


@dataclass(frozen=True)
class Probes:
    """What gates are measured on besides the change itself.

    Attributes:
        canary: Documents of unrelated text, as token ids.
        neighbours: Prompts without slot, whose next token is to stay.
        earlier: Keys of edits that act already, by layer, (d_in, n).
    """

    canary: Sequence[Sequence[int]] = ()
    neighbours: Sequence[Phrasing] = ()
    earlier: Previous | None = None


def measure_gates(
    model: nn.Module,
    tokenizer: Any,
    delta: LowRankDelta,
    moments: Mapping[int, SecondMoment],
    probes: Probes,
    limits: Limits | None = None,
    override: Sequence[str] = (),
    ridge: float = Weights().moment_ridge,
) -> GateReport:
    """Return the figures of a change on the unedited model.

    Raises:
        EditError: An override names no gate.
    """
    worst = asdict(limits or Limits())
    unknown = sorted(set(override) - set(worst))
    if unknown:
        raise EditError(f"there is no gate '{unknown[0]}'; the gates are {', '.join(worst)}")
    figures = {"finite": float(_not_finite(delta))}
    if not figures["finite"]:
        figures |= _of_change(model, delta, moments, probes.earlier or {}, ridge)
        figures |= _of_model(model, tokenizer, delta, probes)
    return GateReport(figures, worst, tuple(sorted(set(override))))


def _of_change(
    model: nn.Module,
    delta: LowRankDelta,
    moments: Mapping[int, SecondMoment],
    earlier: Previous,
    ridge: float,
) -> dict[str, float]:
    found: dict[str, float] = {"growth": 0.0, "shift": 0.0}
    for layer, place in projections(model, delta.layers).items():
        factors, weight = delta.layers[layer], place.matrix.double().cpu()
        moment = moments[layer].matrix.double()
        moved = factors.v.double() @ moment @ factors.v.double().T
        shift = (factors.u.double().T @ factors.u.double() * moved).sum().clamp_min(0)
        usual = ((weight @ moment) * weight).sum()
        found["growth"] = max(found["growth"], factors.norm() / float(weight.norm()))
        found["shift"] = max(found["shift"], math.sqrt(float(shift / usual)))
    return found | _of_keys(stacked_keys(delta), moments, earlier, ridge)


def _of_keys(
    keys: Previous, moments: Mapping[int, SecondMoment], earlier: Previous, ridge: float
) -> dict[str, float]:
    found: dict[str, float] = {}
    for layer, new in keys.items():
        metric = Metric(moments[layer].ridged(ridge))
        whitened = metric.solve(new)
        size = (whitened * new).sum(0)
        cosine = float((size / (whitened.norm(dim=0) * new.norm(dim=0))).min())
        found["denominator"] = min(found.get("denominator", 1.0), cosine)
        old = earlier.get(layer)
        if old is not None and old.numel():
            shared = whitened.T @ old.double()
            other = (metric.solve(old) * old.double()).sum(0)
            close = float((shared / (size[:, None] * other).sqrt()).abs().max())
            found["interference"] = max(found.get("interference", 0.0), close)
    return found


def _of_model(
    model: nn.Module, tokenizer: Any, delta: LowRankDelta, probes: Probes
) -> dict[str, float]:
    found: dict[str, float] = {}
    canary = [Row(tuple(ids), 0, len(ids) - 1) for ids in probes.canary if len(ids) > 1]
    prompts = [locate(tokenizer, word_whole(p, tokenizer)) for p in probes.neighbours]
    before = perplexity(model, canary), _next_tokens(model, prompts)
    with beside(model, delta):
        after = perplexity(model, canary), _next_tokens(model, prompts)
    if canary:
        found["perplexity"] = after[0] / before[0]
    if prompts:
        same = [a == b for a, b in zip(before[1], after[1], strict=True)]
        found["neighbours"] = sum(same) / len(same)
    return found


@torch.inference_mode()
def perplexity(model: nn.Module, rows: Sequence[Row]) -> float:
    """Return the perplexity a target token over rows; 1 of none."""
    total, count = 0.0, 0
    for chunk in chunks(rows, tokens=2048):
        batch = batch_of([rows[i] for i in chunk], device_of(model))
        logs = run(model, batch).log_softmax(-1)
        real = batch.labels >= 0
        taken = logs.gather(-1, batch.labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        total -= float((taken * real).double().sum())
        count += int(real.sum())
    return math.exp(total / count) if count else 1.0


@torch.inference_mode()
def _next_tokens(model: nn.Module, rows: Sequence[Row]) -> list[int]:
    found: dict[int, int] = {}
    for chunk in chunks(rows):
        batch = batch_of([rows[i] for i in chunk], device_of(model))
        likeliest: Tensor = run(model, batch)[:, -1].argmax(-1)
        found.update(zip(chunk, likeliest.tolist(), strict=True))
    return [found[index] for index in range(len(rows))]


def _not_finite(delta: LowRankDelta) -> int:
    parts = [t for factors in delta.layers.values() for t in (factors.u, factors.v)]
    return sum(int((~torch.isfinite(t)).sum()) for t in parts)


def _passes(name: str, figure: float, limit: float) -> bool:
    return figure >= limit if name in AT_LEAST else figure <= limit
