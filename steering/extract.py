"""Extraction: contrast pairs and a model in, a direction on all layers out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from forward.families import model_shape
from forward.hookpoints import HookName, HookPoint
from forward.prompts import Tokenizer
from steering.defaults import Defaults
from steering.direction import Direction, DirectionError, Provenance, Separation, from_natural
from steering.fit import Method, fit, held_out_separation
from steering.pairs import ContrastPair, PairsError, TokenName, activations, pairs_digest

BATCH = 32
"""Pairs a step; progress is told after each."""

ByLayer = Mapping[int, Tensor]
Progress = Callable[[int, int], None]


def extract(
    model: nn.Module,
    tokenizer: Tokenizer,
    pairs: Sequence[ContrastPair],
    *,
    name: str,
    fingerprint: str,
    method: Method = "mean",
    token: TokenName = "last_prompt",
    hook: HookName = "resid_post",
    defaults: Defaults | None = None,
    progress: Progress | None = None,
) -> Direction:
    """Return the direction from negative to positive prompts at every layer of a model.

    Args:
        model: A Hugging Face causal language model of a supported family.
        tokenizer: Its tokenizer.
        pairs: At least one; from eight on the separation is measured as well.
        name: Name of the direction.
        fingerprint: Digest of the model's fingerprint.
        method: ``mean`` (difference of the class means) or ``pca``.
        token: Which residual stands for a prompt.
        hook: Where in a layer to read.
        defaults: What the card recommends; without it one ``add`` at the layer that separates
            held-out pairs best.
        progress: Called with pairs done and pairs in all.

    Raises:
        PairsError: There are no pairs, or one cannot be rendered.
        DirectionError: The two classes have the same activations.
    """
    if not pairs:
        raise PairsError("no contrast pairs: there is nothing to extract a direction from")
    points = [HookPoint(hook, layer) for layer in range(model_shape(model.config).n_layers)]
    positive, negative = _activations(model, tokenizer, pairs, points, token, progress)
    provenance = Provenance(method, token, len(pairs), pairs_digest(pairs))
    return from_activations(
        positive,
        negative,
        name=name,
        fingerprint=fingerprint,
        hook=hook,
        method=method,
        provenance=provenance,
        defaults=defaults,
    )


def from_activations(
    positive: ByLayer,
    negative: ByLayer,
    *,
    name: str,
    fingerprint: str,
    hook: HookName,
    method: Method,
    provenance: Provenance,
    defaults: Defaults | None = None,
) -> Direction:
    """Return the direction between two classes of activations, (pairs, d_model) by layer.

    Layers at which the classes do not differ get no vector.

    Raises:
        DirectionError: They differ at no layer, or not at one that ``defaults`` names.
    """
    fitted = {layer: fit(positive[layer], negative[layer], method) for layer in positive}
    natural = {layer: vector for layer, vector in fitted.items() if vector is not None}
    if not natural:
        raise DirectionError(
            "positive and negative prompts have the same activations at every layer: there is no "
            "direction between them at this token position"
        )
    vectors, scale = from_natural(natural)
    separation = {
        layer: found
        for layer in natural
        if (found := held_out_separation(positive[layer], negative[layer], method)) is not None
    }
    return Direction(
        name=name,
        hook=hook,
        model=fingerprint,
        vectors=vectors,
        scale=scale,
        defaults=defaults or Defaults((best_layer(separation),)),
        provenance=provenance,
        benign=_mean_projection(negative, vectors),
        target=_mean_projection(positive, vectors),
        separation=separation,
    )


def best_layer(separation: Mapping[int, Separation]) -> int:
    """Return the layer that separates held-out pairs best: by AUROC, then by d'.

    Raises:
        PairsError: Nothing was measured, for want of pairs.
    """
    if not separation:
        raise PairsError(
            "too few pairs to choose a layer by held-out separation (eight at least); name the "
            "layer"
        )
    return max(separation, key=lambda layer: (separation[layer].auroc, separation[layer].d_prime))


def with_layers(direction: Direction, layers: Sequence[int]) -> Direction:
    """Return the direction with other default layers."""
    defaults = replace(direction.defaults, layers=tuple(sorted(set(layers))))
    return replace(direction, defaults=defaults)


def _activations(
    model: nn.Module,
    tokenizer: Tokenizer,
    pairs: Sequence[ContrastPair],
    points: Sequence[HookPoint],
    token: TokenName,
    progress: Progress | None,
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    parts: list[dict[HookPoint, Tensor]] = []
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        prompts = [pair.positive for pair in batch] + [pair.negative for pair in batch]
        parts.append(activations(model, tokenizer, prompts, points, token))
        if progress:
            progress(start + len(batch), len(pairs))
    halves = [{p: part[p].chunk(2) for p in points} for part in parts]
    positive, negative = (
        {p.layer: torch.cat([half[p][side] for half in halves]) for p in points} for side in (0, 1)
    )
    return positive, negative


def _mean_projection(activation: ByLayer, vectors: ByLayer) -> dict[int, float]:
    return {
        layer: float(activation[layer].mean(0) @ vectors[layer].to(torch.float64))
        for layer in vectors
    }
