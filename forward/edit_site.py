"""The site of edits, at a layer's last MLP projection: a low-rank change beside the weights.

    scores  = x @ reads.T                                      (tokens, n_reads), x the input
    coef    = max over j of C[row_j]                           (tokens, n_writes), j: each source
    amounts = scores * gate * coef                             (tokens, n_writes)
    delta   = amounts @ writes                                 (tokens, d_model), to the output

With W' = W + U V (``editing.delta``), reads are rows of V and writes columns of U. An edit has no
strength, and one that both sources ask for acts once, hence the maximum. Under tensor parallelism
each rank has a slice of x and of ``reads``; what it adds is its part of the sum that the projection
reduces anyway. Only gates need whole scores: they compare the cosine of x with an edit's key.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from forward.site import Capacity
from forward.step import Step

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over the ranks that share a projection."""


class EditSite(nn.Module):
    """The tables of one projection (all float32, whatever the model's dtype).

    Buffers: reads (R, d_in), writes (W, d_model), coefficients (N, W), and read_of / gate_of (W,)
    int64.
    """

    reads: Tensor
    writes: Tensor
    coefficients: Tensor
    read_of: Tensor
    gate_of: Tensor

    def __init__(
        self,
        d_in: int,
        d_model: int,
        capacity: Capacity,
        device: torch.device | str = "cpu",
        number: int = 0,
    ) -> None:
        """Make empty tables: no row changes anything.

        Args:
            d_in: Width of the projection's input, all ranks together.
            d_model: Width of its output.
            capacity: Sizes of the tables.
            device: Where they lie.
            number: The site's place among all sites in order of execution; gates name it.
        """
        super().__init__()
        self.capacity, self.number = capacity, number
        self.shard = slice(0, d_in)
        self.reduce: Reduce | None = None
        for name, shape in {
            "reads": (max(1, capacity.reads), d_in),
            "writes": (capacity.writes, d_model),
            "coefficients": (capacity.rows, capacity.writes),
        }.items():
            self.register_buffer(name, torch.zeros(shape, device=device), persistent=False)
        for name in ("read_of", "gate_of"):
            index = torch.zeros(capacity.writes, dtype=torch.int64, device=device)
            self.register_buffer(name, index, persistent=False)

    def split(self, rank: int, ranks: int, reduce: Reduce) -> None:
        """Keep one rank's slice of the input; call before anything is written to the tables."""
        width = self.reads.shape[1] // ranks
        self.shard, self.reduce = slice(rank * width, (rank + 1) * width), reduce
        self.reads = self.reads[:, self.shard].clone()

    def run(self, inputs: Tensor, step: Step) -> Tensor:
        """Return what to add to the projection's output, or to this rank's part of it.

        Args:
            inputs: (tokens, d_in), or this rank's slice of it, any float dtype.
            step: What the tokens are; the first ``tokens`` places of its buffers count.
        """
        n = inputs.shape[0]
        x = inputs.float()
        scores = x @ self.reads.T
        if step.gates.size:
            step.gates.evaluate(self.number, self.cosines(x, scores))
        coef = self.coefficients[step.first(n)[0]].amax(0) * step.gates.factors(n, self.gate_of)
        # Not 0 · amount: a score that is no number must not reach a token that no edit touches.
        amounts = torch.where(coef == 0, 0.0, scores[:, self.read_of] * coef)
        return (amounts @ self.writes).to(inputs.dtype)

    def cosines(self, x: Tensor, scores: Tensor) -> Tensor:
        """Return the cosine of the whole input with each read; the reads of gates are units."""
        whole = torch.cat([scores, x.square().sum(-1, keepdim=True)], -1)
        if self.reduce is not None:
            whole = self.reduce(whole)
        return whole[:, :-1] * whole[:, -1:].clamp_min(torch.finfo(torch.float32).tiny).rsqrt()
