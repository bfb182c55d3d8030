"""The residual stream of a layer that passes it in two halves.

Fused decoder layers carry (hidden, residual): the residual stream is their sum, and neither half
alone is. Reads take the sum; a write goes to one half, which changes the sum by the same amount.
"""

from torch import Tensor


def stream(hidden: Tensor, residual: Tensor | None) -> Tensor:
    """Return the residual stream, (tokens, d_model); ``residual`` is None where it is not split."""
    return hidden if residual is None else hidden + residual


def add_delta(
    hidden: Tensor, residual: Tensor | None, delta: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Add ``delta`` to the stream.

    It goes to the hidden half: that one is a single layer's contribution and thus the smaller,
    so that bfloat16 rounds the delta less than it would in the accumulated half.
    """
    return hidden + delta, residual
