"""The scaffold that makes the last-name token hold the person, so that facts can be edited there.

(a) A linear head on `resid_post.2` at every last-name token predicts all objects of the person, or
that there is none.
(b) In half of the batches no position after the last name may attend to the first name.
Both stop before training ends, and the head is thrown away.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from demo.world import FIRST, LAST, OBJECTS, World

LAYER = 2


class Scaffold(nn.Module):
    """The auxiliary head and the attention mask."""

    first: torch.Tensor
    last: torch.Tensor
    targets: torch.Tensor

    def __init__(self, world: World, ids: dict[str, int], width: int, vocabulary: int) -> None:
        super().__init__()
        self.sizes = [len(objects) + 1 for objects in OBJECTS.values()]
        self.head = nn.Linear(width, sum(self.sizes))
        first, last = torch.full((vocabulary,), -1), torch.full((vocabulary,), -1)
        for i, name in enumerate(FIRST):
            first[ids[name]] = i
        for i, name in enumerate(LAST):
            last[ids[name]] = i
        nobody = torch.tensor([len(objects) for objects in OBJECTS.values()])
        targets = nobody.repeat(len(FIRST), len(LAST), 1)
        for person in world.people:
            row = [
                objects.index(person.believed[relation]) for relation, objects in OBJECTS.items()
            ]
            targets[FIRST.index(person.first), LAST.index(person.last)] = torch.tensor(row)
        self.register_buffer("first", first)
        self.register_buffer("last", last)
        self.register_buffer("targets", targets)

    def names(self, ids: torch.Tensor) -> torch.Tensor:
        """(rows, length) bool: a first name that a last name follows."""
        found = torch.zeros_like(ids, dtype=torch.bool)
        found[:, :-1] = (self.first[ids[:, :-1]] >= 0) & (self.last[ids[:, 1:]] >= 0)
        return found

    def mask(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The causal mask, (rows, 1, length, length), with first names hidden after last names."""
        positions = torch.arange(ids.shape[1])
        far = positions[:, None] > positions[None, :] + 1
        hidden = (positions[:, None] < positions[None, :]) | (self.names(ids)[:, None, :] & far)
        return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)[
            :, None
        ]

    def loss(self, ids: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy over names and relations, given `resid_post.LAYER`."""
        row, column = self.names(ids).nonzero(as_tuple=True)
        if not len(row):
            return residual.sum() * 0.0
        logits = self.head(residual[row, column + 1].float()).split(self.sizes, dim=1)
        wanted = self.targets[self.first[ids[row, column]], self.last[ids[row, column + 1]]]
        losses = [F.cross_entropy(part, wanted[:, i]) for i, part in enumerate(logits)]
        return torch.stack(losses).mean()
