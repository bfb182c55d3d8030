"""The residuals that probes are fitted on, captured at the hook points that are served."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from forward.capture import capturing, pad_right
from forward.clauses import TokenClause
from forward.hookpoints import HookPoint
from forward.prompts import Tokenizer
from monitors.averages import SINGLE, averages, is_average
from monitors.items import (
    Item,
    ItemsError,
    Position,
    TokenSequence,
    position_index,
    token_sequence,
)
from monitors.plan import covers
from monitors.pooling import Pool

BATCH = 32
"""Sequences a forward pass."""

Progress = Callable[[int], None]
"""Called with the number of sequences just finished."""


def covered(sequence: TokenSequence, clause: TokenClause) -> list[int]:
    """Return the absolute positions of a clause's tokens, ascending."""
    positions = range(len(sequence.ids))
    return [p for p in positions if covers(clause, p, sequence.prompt_length)]


def item_residuals(
    model: nn.Module,
    tokenizer: Tokenizer,
    items: Sequence[Item],
    point: HookPoint,
    position: Position = "last_prompt",
    clause: TokenClause = TokenClause("all"),
    progress: Progress | None = None,
    pool: Pool = SINGLE,
) -> list[Tensor]:
    """Return the residuals that stand for each item, (rows, d_model) float64 an item.

    One row, or with position ``every`` one a token of the clause. Under a pool that averages, a
    row is the average up to its token over the clause's.

    Args:
        model: A Hugging Face causal language model.
        tokenizer: Its tokenizer.
        items: What to read; an item's own position comes first.
        point: Where to read.
        position: Which token, for items that do not say.
        clause: Whose tokens ``every`` means, and over whose a pool averages.
        progress: Told of finished items.
        pool: How the scores will be pooled.

    Raises:
        ItemsError: There are no items, or one has no such token, or none of the clause.
        PoolError: The pool's weights depend on the scores.
        HookPointError: The hook point lies outside the model.
    """
    if not items:
        raise ItemsError("no items: there is nothing to read")
    sequences = [token_sequence(tokenizer, item) for item in items]
    positions: list[Position] = [
        position if item.position is None else item.position for item in items
    ]
    if is_average(pool) and "mean_prompt" in positions:
        raise ItemsError("mean_prompt is an average already; fit it with the pool left out")
    rows = [_rows(s, p, clause) for s, p in zip(sequences, positions, strict=True)]
    if is_average(pool):
        spans = [_span(s, taken, clause) for s, taken in zip(sequences, rows, strict=True)]
        found = residuals(model, sequences, point, spans, progress)
        return [
            averages(x, pool)[[token in taken for token in span]]
            for x, span, taken in zip(found, spans, map(set, rows), strict=True)
        ]
    found = residuals(model, sequences, point, rows, progress)
    return [
        taken.mean(0, keepdim=True) if position == "mean_prompt" else taken
        for taken, position in zip(found, positions, strict=True)
    ]


def residuals(
    model: nn.Module,
    sequences: Sequence[TokenSequence],
    point: HookPoint,
    rows: Sequence[Sequence[int]],
    progress: Progress | None = None,
) -> list[Tensor]:
    """Return the residuals of some tokens of each sequence, (rows, d_model) float64."""
    return residuals_at(model, sequences, [point], rows, progress)[point]


@torch.inference_mode()
def residuals_at(
    model: nn.Module,
    sequences: Sequence[TokenSequence],
    points: Sequence[HookPoint],
    rows: Sequence[Sequence[int]],
    progress: Progress | None = None,
) -> dict[HookPoint, list[Tensor]]:
    """Return the same at several hook points, from one pass over the sequences.

    Sequences of similar length go together, padded on the right: attention is causal.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index].ids))
    found: dict[HookPoint, dict[int, Tensor]] = {point: {} for point in points}
    for start in range(0, len(order), BATCH):
        chunk = order[start : start + BATCH]
        ids, mask = pad_right([sequences[index].ids for index in chunk], device)
        with capturing(model, points) as seen:
            model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
        for point in points:
            for row, index in enumerate(chunk):
                taken = seen[point][row, list(rows[index])]
                found[point][index] = taken.to("cpu", torch.float64)
        if progress:
            progress(len(chunk))
    return {point: [taken[i] for i in range(len(sequences))] for point, taken in found.items()}


def _rows(sequence: TokenSequence, position: Position, clause: TokenClause) -> list[int]:
    if position == "last_prompt":
        return [sequence.prompt_length - 1]
    if position == "mean_prompt":
        return list(range(sequence.prompt_length))
    if position != "every":
        return [position_index(sequence, position)]
    tokens = covered(sequence, clause)
    if not tokens:
        raise ItemsError(f"an item has no tokens of the clause '{clause}'; give it an 'answer'")
    return tokens


def _span(sequence: TokenSequence, rows: Sequence[int], clause: TokenClause) -> list[int]:
    """Return the positions that a pool has taken once it has taken some rows."""
    tokens = covered(sequence, clause)
    strange = sorted(set(rows) - set(tokens))
    if strange:
        raise ItemsError(
            f"token {strange[0]} of an item stands for it but is none of the clause '{clause}', so "
            "no pool over the clause's tokens reaches it"
        )
    return [token for token in tokens if token <= max(rows)]
