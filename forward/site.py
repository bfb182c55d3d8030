"""A site: the tables of one hook point and the arithmetic on them. This screen is the runtime.

    scores  = residual @ reads.T + bias                       (tokens, n_reads)
    coef    = sum over j of strength_j * C[row_j]              (tokens, n_writes), j: each source
    amounts = kind(scores, norm) * gate(scores) * coef         (tokens, n_writes)
    delta   = amounts @ writes + sum over j of strength_j * offsets[row_j]

Row 0 of ``C`` and of ``offsets`` is zero and never written, so a token with row 0 gets a delta of
exactly zero. Shapes are fixed when the site is made; contents are data, so compiled graphs and
CUDA graphs stay valid while policies come and go.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forward.columns import PARAMETERS
from forward.step import Step


@dataclass(frozen=True, slots=True)
class Capacity:
    """Fixed sizes of a site's tables; ``rows`` counts row 0."""

    rows: int
    reads: int
    writes: int


class Site(nn.Module):
    """The tables of one hook point (all float32, whatever the model's dtype).

    Buffers: reads (R, d), bias (R,), writes (W, d), coefficients (N, W), offsets (N, d), one
    (W,) buffer for each of ``PARAMETERS``, and read_of / partner_of / gate_of (W,) int64.
    """

    reads: Tensor
    bias: Tensor
    writes: Tensor
    coefficients: Tensor
    offsets: Tensor
    read_of: Tensor
    partner_of: Tensor
    gate_of: Tensor
    constant: Tensor
    linear: Tensor
    cross: Tensor
    floor: Tensor
    low: Tensor
    high: Tensor
    by_norm: Tensor

    def __init__(
        self,
        d_model: int,
        capacity: Capacity,
        device: torch.device | str = "cpu",
        number: int = 0,
        first_column: int = 0,
    ) -> None:
        """Make empty tables: every row and every column does nothing.

        Args:
            d_model: Width of the residual.
            capacity: Sizes of the tables.
            device: Where they lie.
            number: The site's place among all sites in order of execution; gates name it.
            first_column: Where the site's scores begin among the exported ones.
        """
        super().__init__()
        self.capacity, self.number, self.first_column = capacity, number, first_column
        for name, shape in {
            "reads": (max(1, capacity.reads), d_model),  # columns without a read point at read 0
            "bias": (max(1, capacity.reads),),
            "writes": (capacity.writes, d_model),
            "coefficients": (capacity.rows, capacity.writes),
            "offsets": (capacity.rows, d_model),
        }.items():
            self.register_buffer(name, torch.zeros(shape, device=device), persistent=False)
        for name in ("read_of", "partner_of", "gate_of"):
            index = torch.zeros(capacity.writes, dtype=torch.int64, device=device)
            self.register_buffer(name, index, persistent=False)
        for name in PARAMETERS:
            fill = {"floor": -math.inf, "low": -math.inf, "high": math.inf}.get(name, 0.0)
            value = torch.full((capacity.writes,), fill, device=device)
            self.register_buffer(name, value, persistent=False)

    def run(self, residual: Tensor, step: Step) -> Tensor:
        """Return what to add to the residual of a step's tokens; scores and gates go to ``step``.

        Args:
            residual: (tokens, d_model), the whole stream at this hook point, any float dtype.
            step: What the tokens are; the first ``tokens`` places of its buffers count.
        """
        n = residual.shape[0]
        rows, strengths = step.first(n)
        delta = (strengths * self.offsets[rows]).sum(0)
        if self.capacity.reads or self.capacity.writes:
            stream = residual.float()
            scores = stream @ self.reads.T + self.bias
            if self.capacity.reads:
                step.export(self.first_column, scores)
                step.gates.evaluate(self.number, scores)
            coef = (strengths * self.coefficients[rows]).sum(0)
            coef = coef * step.gates.factors(n, self.gate_of)
            # Not 0 · amount: a score that is no number must not reach a token it does not steer.
            amounts = torch.where(coef == 0, 0.0, self.amounts(scores, stream) * coef)
            delta = delta + amounts @ self.writes
        return delta.to(residual.dtype)

    def amounts(self, scores: Tensor, stream: Tensor) -> Tensor:
        """Return the amount of every write column at coefficient 1, (tokens, n_writes)."""
        norm = stream.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        unit = torch.where(self.by_norm > 0, norm, 1.0)
        # Columns without a read, or a partner, point at read 0, whatever its score may be.
        is_read = (self.linear != 0) | (self.low > -math.inf) | (self.high < math.inf)
        score = torch.where(is_read, scores[:, self.read_of], 0.0) / unit
        partner = torch.where(self.cross != 0, scores[:, self.partner_of], 0.0) / unit
        active = torch.where(score > self.floor, score, 0.0)
        kept = active.clamp(self.low, self.high) - active
        return unit * (self.constant + self.linear * score + self.cross * partner + kept)
