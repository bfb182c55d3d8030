"""A site: the tables of one hook point and the arithmetic on them. This screen is the runtime.

    scores  = residual @ reads.T + bias                       (tokens, n_reads)
    coef    = sum over j of strength_j * C[row_j]              (tokens, n_writes), j: each source
    amounts = kind(scores, norm) * coef                        (tokens, n_writes)
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

N_SOURCES = 2
"""Each token carries two (row, strength) pairs: the operator's and the client's."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Fixed sizes of a site's tables; ``rows`` counts row 0."""

    rows: int
    reads: int
    writes: int


class TokenRows(nn.Module):
    """The rows and strengths of the tokens in the current step, shared by all sites.

    Buffers: ``rows`` (2, max_tokens + 1) int64, ``strengths`` (2, max_tokens + 1) float32. The one
    more keeps a step of ``max_tokens`` from being a special case to the compiler.
    """

    rows: Tensor
    strengths: Tensor

    def __init__(self, max_tokens: int, device: torch.device | str = "cpu") -> None:
        """Make buffers for ``max_tokens`` tokens, all on row 0."""
        super().__init__()
        shape = (N_SOURCES, max_tokens + 1)
        rows = torch.zeros(shape, dtype=torch.int64, device=device)
        self.register_buffer("rows", rows, persistent=False)
        strengths = torch.zeros(shape, dtype=torch.float32, device=device)
        self.register_buffer("strengths", strengths, persistent=False)

    def first(self, n_tokens: int) -> tuple[Tensor, Tensor]:
        """Return rows and strengths of the first ``n_tokens`` tokens, (2, n_tokens) each."""
        # Not a slice: that clamps, and a compiler cannot tell n_tokens from the clamped size.
        return self.rows.narrow(1, 0, n_tokens), self.strengths.narrow(1, 0, n_tokens)


class Site(nn.Module):
    """The tables of one hook point (all float32, whatever the model's dtype).

    Buffers: reads (R, d), bias (R,), writes (W, d), coefficients (N, W), offsets (N, d), one
    (W,) buffer for each of ``PARAMETERS``, and read_of / partner_of (W,) int64.
    """

    reads: Tensor
    bias: Tensor
    writes: Tensor
    coefficients: Tensor
    offsets: Tensor
    read_of: Tensor
    partner_of: Tensor
    constant: Tensor
    linear: Tensor
    cross: Tensor
    floor: Tensor
    low: Tensor
    high: Tensor
    by_norm: Tensor

    def __init__(self, d_model: int, capacity: Capacity, device: torch.device | str = "cpu"):
        """Make empty tables: every row and every column does nothing."""
        super().__init__()
        self.capacity = capacity
        for name, shape in {
            "reads": (max(1, capacity.reads), d_model),  # columns without a read point at read 0
            "bias": (max(1, capacity.reads),),
            "writes": (capacity.writes, d_model),
            "coefficients": (capacity.rows, capacity.writes),
            "offsets": (capacity.rows, d_model),
        }.items():
            self.register_buffer(name, torch.zeros(shape, device=device), persistent=False)
        for name in ("read_of", "partner_of"):
            index = torch.zeros(capacity.writes, dtype=torch.int64, device=device)
            self.register_buffer(name, index, persistent=False)
        for name in PARAMETERS:
            fill = {"floor": -math.inf, "low": -math.inf, "high": math.inf}.get(name, 0.0)
            value = torch.full((capacity.writes,), fill, device=device)
            self.register_buffer(name, value, persistent=False)

    def delta(self, residual: Tensor, rows: Tensor, strengths: Tensor) -> Tensor:
        """Return what to add to the residual.

        Args:
            residual: (tokens, d_model), the whole stream at this hook point, any float dtype.
            rows: (2, tokens) int64.
            strengths: (2, tokens) float32.
        """
        strength = strengths.unsqueeze(-1)
        delta = (strength * self.offsets[rows]).sum(0)
        if self.capacity.writes:
            coef = (strength * self.coefficients[rows]).sum(0)
            delta = delta + (self.amounts(residual.float()) * coef) @ self.writes
        return delta.to(residual.dtype)

    def amounts(self, residual: Tensor) -> Tensor:
        """Return the amount of every write column at coefficient 1, (tokens, n_writes)."""
        scores = residual @ self.reads.T + self.bias
        norm = residual.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        unit = torch.where(self.by_norm > 0, norm, 1.0)
        score, partner = scores[:, self.read_of] / unit, scores[:, self.partner_of] / unit
        active = torch.where(score > self.floor, score, 0.0)
        kept = active.clamp(self.low, self.high) - active
        return unit * (self.constant + self.linear * score + self.cross * partner + kept)
