"""Attention for training on short rows: two batched products and a softmax, in bfloat16.

On two cores PyTorch's fused attention is several times slower at these lengths, and the eager one
converts to float32.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "demo_short"


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attend: (rows, heads, length, head) in, (rows, length, heads, head) out; no grouped heads."""
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    weights = torch.softmax(
        scores.add_(attention_mask) if not scores.requires_grad else scores + attention_mask, dim=-1
    )
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


def register() -> str:
    """Make the attention known to transformers and return its name."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, eager_mask)
    return NAME
