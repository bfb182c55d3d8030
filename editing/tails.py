"""Rows cut at their subjects: what stands before one is run once, what follows as often as wanted.

Attention is causal, so what is added at a subject changes nothing before it: its keys and values
there are kept, and a pass runs the tails alone. Heads are padded on the left and tails on the
right, so that a row's real tokens stand side by side, as windows of attention count columns.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from editing.batches import Batch, batch_of, device_of, logits_at
from editing.spans import Row


@dataclass(frozen=True, eq=False)
class Tails:
    """Rows (n, longest tail) from their subjects' last tokens on.

    Attributes:
        batch: The tails as a batch; the subject stands in column 0.
        mask: What may be attended to, (n, longest head + longest tail): all but what pads heads.
        positions: The position of each token of a tail in its row, (n, longest tail).
        heads: The model's cache of what stands before; None if nothing does.
    """

    batch: Batch
    mask: Tensor
    positions: Tensor
    heads: DynamicCache | None


def tail(row: Row) -> Row:
    """Return a row from its subject's last token on."""
    return Row(row.ids[row.lookup :], 0, row.n_target)


@torch.no_grad()
def tails_of(model: nn.Module, rows: Sequence[Row]) -> Tails:
    """Run the heads of rows and return their tails."""
    device = device_of(model)
    batch = batch_of([tail(row) for row in rows], device)
    lengths = torch.tensor([[row.lookup] for row in rows], device=device)
    longest = int(lengths.max())
    real = torch.arange(longest, device=device) >= longest - lengths
    positions = lengths + torch.arange(batch.ids.shape[1], device=device)
    heads = _heads(model, rows, longest - lengths) if longest else None
    mask = torch.cat([real, torch.ones_like(batch.mask)], 1)
    return Tails(batch, mask, positions, heads)


def run_tails(model: nn.Module, tails: Tails) -> Tensor:
    """Return the logits at ``tails.batch.columns``, (n, width, vocabulary), float32 or wider."""
    return logits_at(model, encode_tails(model, tails), tails.batch)


def encode_tails(model: nn.Module, tails: Tails) -> Tensor:
    """Run the tails without the head of the model; return last hidden states (n, tokens, d)."""
    base: Any = model.base_model
    return base(
        input_ids=tails.batch.ids,
        attention_mask=tails.mask,
        position_ids=tails.positions,
        past_key_values=_again(tails.heads),
        use_cache=tails.heads is not None,
    ).last_hidden_state


def _heads(model: nn.Module, rows: Sequence[Row], shift: Tensor) -> DynamicCache:
    """Return what attention keeps of the heads, each moved right to where its tail begins.

    Run padded on the right and moved afterwards (positions are in the keys): padding on the left
    would leave tokens that may attend to nothing, which some arithmetic makes not a number.
    """
    base: Any = model.base_model
    longest = max(row.lookup for row in rows)
    ids = [[*row.ids[: row.lookup], *[0] * (longest - row.lookup)] for row in rows]
    # Without the model's configuration: no layer drops what has left its window.
    cache = DynamicCache()
    base(input_ids=torch.tensor(ids, device=shift.device), past_key_values=cache, use_cache=True)
    columns = (torch.arange(longest, device=shift.device) - shift).clamp_min(0)
    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer)  # noqa: S101 -- what a bare cache is made of
        layer.keys, layer.values = _moved(layer.keys, columns), _moved(layer.values, columns)
    return cache


def _moved(kept: Tensor | None, columns: Tensor) -> Tensor:
    """Return (n, heads, tokens, size) with each row's tokens taken from its columns."""
    assert kept is not None  # noqa: S101 -- every layer has run
    index = columns[:, None, :, None].expand(-1, kept.shape[1], -1, kept.shape[3])
    return kept.gather(2, index)


def _again(heads: DynamicCache | None) -> DynamicCache | None:
    """Return a cache that a pass may extend: its layers replace their tensors, never write them."""
    if heads is None:
        return None
    fresh = copy(heads)
    fresh.layers = [copy(layer) for layer in heads.layers]
    return fresh
