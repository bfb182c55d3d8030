"""Rows as a padded batch, and what is read off one forward pass.

Padded on the right: attention is causal, so no real token sees padding and no mask is needed. The
output head runs at the columns that are asked for only, since vocabularies are large.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from editing.projections import Projection
from editing.spans import Row
from forward.families import decoder_layers, family_of, text_config

IGNORED = -100
BATCH_TOKENS = 8192
"""Tokens a forward pass at most, padding counted."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows (n, longest) on a device.

    Attributes:
        ids: Token ids; 0 where padded.
        mask: Whether a token is real.
        lookup: Column of each row's subject token, (n,).
        columns: Columns whose logits are wanted, (n, width): those that predict the target, or the
            last token's; shorter targets stand at the end.
        labels: What they are to predict, (n, width); -100 for nothing.
    """

    ids: Tensor
    mask: Tensor
    lookup: Tensor
    columns: Tensor
    labels: Tensor


def batch_of(rows: Sequence[Row], device: torch.device) -> Batch:
    """Return rows as a batch; the last id of a target is predicted, never fed."""
    fed = [row.ids[:-1] if row.n_target else row.ids for row in rows]
    longest, width = max(map(len, fed)), max([1, *(row.n_target for row in rows)])
    ids = [[*row, *[0] * (longest - len(row))] for row in fed]
    mask = [[True] * len(row) + [False] * (longest - len(row)) for row in fed]
    labels = [[IGNORED] * (width - row.n_target) + list(row.target) for row in rows]
    columns = [[max(len(row) - width + i, 0) for i in range(width)] for row in fed]
    lookup = [row.lookup for row in rows]
    parts = (torch.tensor(part, device=device) for part in (ids, mask, lookup, columns, labels))
    return Batch(*parts)


def chunks(rows: Sequence[Row], tokens: int = BATCH_TOKENS) -> list[list[int]]:
    """Return indices of rows that run together: of similar length, at most so many tokens."""
    order = sorted(range(len(rows)), key=lambda index: (len(rows[index].ids), index))
    found: list[list[int]] = []
    for index in order:
        length = len(rows[index].ids)
        if not found or (len(found[-1]) + 1) * length > tokens:
            found.append([])
        found[-1].append(index)
    return found


def run(model: nn.Module, batch: Batch) -> Tensor:
    """Return the logits at ``batch.columns``, (n, width, vocabulary), float32 or wider.

    A row without target has its last token's in the last column.
    """
    return logits_at(model, encode_batch(model, batch), batch)


def logits_at(model: nn.Module, hidden: Tensor, batch: Batch) -> Tensor:
    """Return what the head makes of last hidden states (n, tokens, d) at ``batch.columns``."""
    rows = torch.arange(len(hidden), device=hidden.device).unsqueeze(-1)
    logits: Tensor = _head(model)(hidden[rows, batch.columns])
    cap = getattr(text_config(model.config), "final_logit_softcapping", None)
    if cap is not None:
        logits = (logits / cap).tanh() * cap
    return logits if logits.dtype == torch.float64 else logits.float()


def encode_batch(model: nn.Module, batch: Batch) -> Tensor:
    """Run the model without its head; return the last hidden states (n, tokens, d_model)."""
    base: Any = model.base_model
    return base(input_ids=batch.ids, use_cache=False).last_hidden_state


def _head(model: Any) -> Any:
    return model.get_output_embeddings()


@contextmanager
def projecting(places: Iterable[Projection]) -> Generator[dict[int, tuple[Tensor, Tensor]]]:
    """Yield what each pass fills: by layer, keys (n, tokens, d_in), outputs (n, tokens, d_out)."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(layer: int, _: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[layer] = (inputs[0].detach(), output.detach())

    handles = [place.module.register_forward_hook(partial(keep, place.layer)) for place in places]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def streaming(model: nn.Module, layer: int) -> Generator[list[Tensor]]:
    """Yield a list that each pass sets to [the layer's output], (n, tokens, d_model)."""
    seen: list[Tensor] = []

    def keep(_: object, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen[:] = [(output[0] if isinstance(output, tuple) else output).detach()]

    module = decoder_layers(model, family_of(model.config))[layer]
    handle = module.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters."""
    return next(model.parameters()).device
