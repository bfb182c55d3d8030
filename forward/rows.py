"""Token rows: from the absolute positions of a step's tokens to their table rows, on the device.

A request uploads, for each of its two sources, one row per region and the starts of its
generation regions; nothing per token crosses from the host.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_GENERATION_REGIONS = 4
"""Generation regions a policy may have: {from: n} clauses plus one."""

N_REGIONS = 2 + MAX_GENERATION_REGIONS
NEVER = torch.iinfo(torch.int32).max
"""Start of an unused generation region."""


@dataclass(frozen=True, slots=True)
class RowSpan:
    """What one source asks for in one request: a row per region, and a strength.

    Attributes:
        rows: Row of the prompt, of its last token, then of each generation region.
        starts: Start of each generation region in generated tokens, ascending, the first 0.
        strength: Multiplies the rows' contents.
    """

    rows: tuple[int, ...]
    starts: tuple[int, ...]
    strength: float

    def packed(self) -> tuple[list[int], list[int]]:
        """Return rows and starts padded to the fixed sizes (N_REGIONS, MAX_GENERATION_REGIONS)."""
        pad = MAX_GENERATION_REGIONS - len(self.starts)
        return list(self.rows) + [0] * pad, list(self.starts) + [NEVER] * pad


UNSTEERED = RowSpan((0, 0, 0), (0,), 0.0)


def token_rows(
    positions: Tensor, request_of: Tensor, prompt_lengths: Tensor, rows: Tensor, starts: Tensor
) -> Tensor:
    """Return the row of every token for every source.

    Args:
        positions: (tokens,) absolute positions.
        request_of: (tokens,) index of each token's request.
        prompt_lengths: (requests,) original prompt lengths.
        rows: (sources, requests, N_REGIONS) row of each region.
        starts: (sources, requests, MAX_GENERATION_REGIONS) region starts, NEVER where unused.

    Returns:
        (sources, tokens) int64.
    """
    generated = positions - prompt_lengths[request_of]
    started = (generated.unsqueeze(-1) >= starts[:, request_of]).sum(-1)
    # Regions before a token: the prompt once it is at the prompt's last token, then each started.
    region = started + (generated >= -1)
    return rows.flatten(1).gather(1, request_of * rows.shape[-1] + region)
