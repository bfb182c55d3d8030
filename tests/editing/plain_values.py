"""Value optimisation as ROME's authors wrote it: one fact, whole prompts, torch's own Adam."""

from typing import Any

import torch
from torch import Tensor

from editing.batches import IGNORED, batch_of, device_of, run
from editing.contexts import Rows
from editing.projections import Projection
from editing.spans import Row
from editing.values import ValueRecipe, frozen


def plain_value(model: Any, place: Projection, group: Rows, recipe: ValueRecipe) -> Tensor:
    """δ of one group, (d_out,)."""
    with frozen(model):
        return _descend(model, place, group, recipe)


def _descend(model: Any, place: Projection, group: Rows, recipe: ValueRecipe) -> Tensor:
    width = place.matrix.shape[0]
    delta = torch.zeros(width, device=device_of(model), dtype=place.matrix.dtype)
    adam = torch.optim.Adam([delta.requires_grad_()], lr=recipe.rate)
    limit, before = None, None
    for step in range(recipe.steps + 1):
        nll, logs, output = _told(model, place, group, delta)
        if limit is None or before is None:
            v0 = output.mean(0).norm().detach()
            limit, before = v0, logs.detach()
        apart = (before.exp() * (before - logs)).sum(-1)
        loss = nll + recipe.kl * apart[0] + recipe.decay * delta.norm() / limit.square()
        if len(apart) > 1:
            loss = loss + recipe.keep * apart[1:].mean()
        if step == recipe.steps or float(loss.detach()) < recipe.stop:
            break
        (delta.grad,) = torch.autograd.grad(loss, [delta])
        # The norm has no gradient at 0; the subgradient 0 is meant.
        delta.grad.nan_to_num_(0.0)
        adam.step()
        with torch.no_grad():
            delta *= (recipe.clamp * limit / delta.norm()).clamp_max(1)
    return delta.detach()


def _told(
    model: Any, place: Projection, group: Rows, delta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The targets' loss, log-probabilities that are to stay, and outputs without δ."""
    rows: list[Row] = [*group.stated, group.essence, *group.kept]
    batch, seen = batch_of(rows, device_of(model)), list[Tensor]()
    index = torch.arange(len(rows), device=delta.device)

    def hook(_: object, __: object, output: Tensor) -> Tensor:
        seen.append(output.detach()[index, batch.lookup])
        output = output.clone()
        output[index, batch.lookup] += delta
        return output

    handle = place.module.register_forward_hook(hook)
    logs = run(model, batch).log_softmax(-1)
    handle.remove()
    n = len(group.stated)
    labels = batch.labels[:n]
    real = labels != IGNORED
    taken = logs[:n].gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    nll = (-(taken * real).sum(-1) / real.sum(-1)).mean()
    return nll, logs[n:, -1], seen[0][:n]
