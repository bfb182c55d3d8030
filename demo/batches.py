"""Documents to batches: one document a row, like lengths together, tokens a batch bounded."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import islice

import torch

from demo.documents import Document

POOL = 1024  # documents sorted by length at a time
Batch = tuple[torch.Tensor, torch.Tensor]
"""Ids and target weights, each (rows, length), padded on the right."""


def collate(documents: list[Document], pad: int) -> Batch:
    """Pad documents to the longest, rounded up to a multiple of four."""
    length = -(-max(len(d.ids) for d in documents) // 4) * 4
    ids = torch.tensor([d.ids + [pad] * (length - len(d.ids)) for d in documents])
    weights = torch.tensor([d.weights + [0.0] * (length - len(d.weights)) for d in documents])
    return ids, weights


def batches(documents: Iterable[Document], tokens: int, pad: int, seed: int) -> Iterator[Batch]:
    """Yield batches without end, each of at most `tokens` positions, shuffled within a pool."""
    rng, stream = random.Random(f"batches {seed}"), iter(documents)
    while pool := list(islice(stream, POOL)):
        rng.shuffle(pool)
        pool.sort(key=lambda d: len(d.ids) // 4)
        groups: list[list[Document]] = [[]]
        for document in pool:
            if (len(groups[-1]) + 1) * (-(-len(document.ids) // 4) * 4) > tokens and groups[-1]:
                groups.append([])
            groups[-1].append(document)
        rng.shuffle(groups)
        yield from (collate(group, pad) for group in groups)
