"""Capture: the residual at hook points of a Hugging Face model.

A captured residual is what the hook point has when its own hooks run: hooks installed earlier at
the same point (a site's write) are already in it, later ones are not.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from forward.hookpoints import HookPoint
from forward.hooks import hook_residual

TokenPosition = Literal["last_prompt", "mean_prompt"] | int
"""The last token, the mean over all tokens, or a token counted from the end (-1 is the last)."""


class TokenPositionError(ValueError):
    """A token position that some prompt does not have."""


@contextmanager
def capturing(model: nn.Module, points: Iterable[HookPoint]) -> Generator[dict[HookPoint, Tensor]]:
    """Yield a dictionary that each forward pass fills with (batch, tokens, d_model) residuals."""
    seen: dict[HookPoint, Tensor] = {}

    def keep(point: HookPoint, residual: Tensor) -> None:
        seen[point] = residual.detach().clone()

    transforms = {point: lambda residual, p=point: keep(p, residual) for point in points}
    with hook_residual(model, transforms):
        yield seen


def capture(
    model: nn.Module, ids: Sequence[int], points: Iterable[HookPoint]
) -> dict[HookPoint, Tensor]:
    """Return the residual of every token, (tokens, d_model) at each hook point."""
    batch = torch.tensor([list(ids)], device=_device(model))
    with torch.inference_mode(), capturing(model, points) as seen:
        model(input_ids=batch, use_cache=False, logits_to_keep=1)
    return {point: residual[0] for point, residual in seen.items()}


def capture_at(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    points: Iterable[HookPoint],
    position: TokenPosition = "last_prompt",
    batch_size: int = 32,
) -> dict[HookPoint, Tensor]:
    """Return one residual a prompt, (prompts, d_model) at each hook point.

    Prompts are padded on the right: attention is causal, so a real token never sees the padding.

    Args:
        model: A Hugging Face causal language model.
        prompts: Token ids of each prompt (of prompt and answer, to read inside the answer).
        points: Where to read.
        position: Which token.
        batch_size: Prompts a forward pass.

    Raises:
        TokenPositionError: There is no prompt, or one is too short for ``position``.
    """
    points = list(points)
    _check_position(prompts, position)
    taken: dict[HookPoint, list[Tensor]] = {point: [] for point in points}
    for start in range(0, len(prompts), batch_size):
        ids, mask = pad_right(prompts[start : start + batch_size], _device(model))
        with torch.inference_mode(), capturing(model, points) as seen:
            model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
        for point in points:
            taken[point].append(_take(seen[point], mask, position))
    return {point: torch.cat(parts) for point, parts in taken.items()}


def pad_right(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids (prompts, longest), 0 where padded, and the mask of real tokens."""
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longest = int(lengths.max())
    ids = torch.tensor([[*p, *[0] * (longest - len(p))] for p in prompts], device=device)
    mask = torch.arange(longest, device=device) < lengths.unsqueeze(-1)
    return ids, mask.to(torch.int64)


def _take(residual: Tensor, mask: Tensor, position: TokenPosition) -> Tensor:
    lengths = mask.sum(-1)
    if position == "mean_prompt":
        summed = (residual * mask.unsqueeze(-1)).sum(1)
        return summed / lengths.unsqueeze(-1)
    from_end = -1 if position == "last_prompt" else int(position)
    return residual[torch.arange(len(residual), device=residual.device), lengths + from_end]


def _check_position(prompts: Sequence[Sequence[int]], position: TokenPosition) -> None:
    if not prompts:
        raise TokenPositionError("no prompts: there is nothing to read")
    if isinstance(position, int) and position >= 0:
        raise TokenPositionError(
            f"position {position} counts from the end, so write -1 for the last token, -2 for the "
            "one before"
        )
    needed = -position if isinstance(position, int) else 1
    shortest = min(len(prompt) for prompt in prompts)
    if shortest < needed:
        raise TokenPositionError(f"position {position} needs {needed} tokens; one has {shortest}")


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
