"""Directions: a unit vector a layer with its natural scale, as a value with algebra.

The vector that a direction stands for at a layer is ``scale · unit``. Sums act on those vectors
and are normalised again; multiplying by a number touches only scale and sign, so it is exact.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from forward.digest import tensor_digest, values_digest
from forward.hookpoints import HookName
from steering.defaults import Defaults

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
UNIT_TOLERANCE = 1e-4
"""How far from 1 the float32 norm of a unit vector may be."""
CANCELLED = 1e-6
"""A sum shorter than this part of its summands has no direction left in float32."""

ByLayer = Mapping[int, float]


class DirectionError(ValueError):
    """A direction that is malformed, or two that do not go together."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a direction comes from.

    Attributes:
        method: ``mean``, ``pca``, ``gguf``, ``safetensors``, ``npz`` or ``algebra``.
        token: Token position of the activations, empty when not known.
        n_pairs: Contrast pairs it was made of, 0 when imported.
        source: Digest of the pairs or of the imported file.
    """

    method: str
    token: str = ""
    n_pairs: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class Separation:
    """How well projections tell the two classes apart, measured on pairs held out of the fit.

    Attributes:
        auroc: Probability that a positive projects higher than a negative, ties counted half.
        d_prime: Difference of the class means over the pooled standard deviation.
    """

    auroc: float
    d_prime: float


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction in one model's residual stream at one kind of hook point.

    Equality is by content (``digest``): model, hook, vectors, scales and class means; names,
    provenance and defaults do not count.

    Attributes:
        name: Lower-case letters, digits and hyphens.
        hook: ``resid_pre`` or ``resid_post``; which activations it was taken from.
        model: Fingerprint digest of the model.
        vectors: Layer to unit vector, (d_model,) float32.
        scale: Layer to natural scale, in units of the residual.
        defaults: What a policy that says nothing gets.
        provenance: Where it comes from.
        benign: Layer to mean projection of the negative class on the unit, where known.
        target: Layer to mean projection of the positive class, where known.
        separation: Layer to held-out separation, where known.
    """

    name: str
    hook: HookName
    model: str
    vectors: Mapping[int, Tensor]
    scale: ByLayer
    defaults: Defaults
    provenance: Provenance
    benign: ByLayer = field(default_factory=dict[int, float])
    target: ByLayer = field(default_factory=dict[int, float])
    separation: Mapping[int, Separation] = field(default_factory=dict[int, Separation])

    def __post_init__(self) -> None:
        """Refuse malformed directions; fix the order of layers."""
        _check(self)
        for name in ("vectors", "scale", "benign", "target", "separation"):
            object.__setattr__(self, name, dict(sorted(getattr(self, name).items())))

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that have a vector, ascending."""
        return tuple(self.vectors)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return next(iter(self.vectors.values())).shape[0]

    @cached_property
    def digest(self) -> str:
        """Identity of the content, 64 hex digits."""
        parts = (
            (layer, tensor_digest(vector), self.scale[layer])
            for layer, vector in self.vectors.items()
        )
        means = (tuple(self.benign.items()), tuple(self.target.items()))
        return values_digest(self.hook, self.model, tuple(parts), means)

    def __eq__(self, other: object) -> bool:
        """Whether the contents are the same."""
        return isinstance(other, Direction) and self.digest == other.digest

    def __hash__(self) -> int:
        """Hash of the content."""
        return hash(self.digest)

    def natural(self, layer: int) -> Tensor:
        """Return ``scale · unit`` at a layer, (d_model,) float64."""
        return self.scale[layer] * self.vectors[layer].to(torch.float64)

    def renamed(self, name: str) -> "Direction":
        """Return the same content under another name."""
        return replace(self, name=name)

    def __neg__(self) -> "Direction":
        """Turn around: units and class means change sign, exactly."""
        return replace(
            self,
            vectors={layer: -vector for layer, vector in self.vectors.items()},
            benign=_mapped(self.benign, lambda mean: -mean),
            target=_mapped(self.target, lambda mean: -mean),
            separation={
                layer: Separation(1.0 - found.auroc, -found.d_prime)
                for layer, found in self.separation.items()
            },
        )

    def __mul__(self, factor: float) -> "Direction":
        """Multiply the natural scale; a negative factor also turns the units around."""
        return self._scaled(factor, lambda scale: scale * abs(factor))

    __rmul__ = __mul__

    def __truediv__(self, factor: float) -> "Direction":
        """Divide the natural scale; ``(d * x) / x`` is exact when ``d * x`` is."""
        return self._scaled(factor, lambda scale: scale / abs(factor))

    def __add__(self, other: "Direction") -> "Direction":
        """Add natural vectors layer by layer."""
        return self._combined(other, 1.0, "plus")

    def __sub__(self, other: "Direction") -> "Direction":
        """Subtract natural vectors layer by layer."""
        return self._combined(other, -1.0, "minus")

    def _scaled(self, factor: float, change: Callable[[float], float]) -> "Direction":
        if not math.isfinite(factor) or factor == 0:
            raise DirectionError(
                f"'{self.name}' times or divided by {factor} is no direction; to switch it off use "
                "coefficient 0"
            )
        base = -self if factor < 0 else self
        return replace(base, scale=_mapped(base.scale, change))

    def _combined(self, other: "Direction", sign: float, word: str) -> "Direction":
        _check_compatible(self, other)
        totals = {layer: self.natural(layer) + sign * other.natural(layer) for layer in self.layers}
        scale = {layer: float(total.norm()) for layer, total in totals.items()}
        for layer, length in scale.items():
            if length <= CANCELLED * (self.scale[layer] + other.scale[layer]):
                raise DirectionError(
                    f"'{self.name}' and '{other.name}' cancel at layer {layer}: nothing is left to "
                    "point anywhere"
                )
        return replace(
            self,
            name=f"{self.name}-{word}-{other.name}"[:63],
            vectors={layer: (total / scale[layer]).float() for layer, total in totals.items()},
            scale=scale,
            provenance=_joint_provenance(self, other),
            benign=self._joint_mean("benign", other, sign, scale),
            target=self._joint_mean("target", other, sign, scale),
            separation={},
        )

    def _joint_mean(self, name: str, other: "Direction", sign: float, scale: ByLayer) -> ByLayer:
        """Projections add linearly, but only those of the same data."""
        if not self.provenance.source or self.provenance.source != other.provenance.source:
            return {}
        mine: ByLayer = getattr(self, name)
        theirs: ByLayer = getattr(other, name)
        return {
            layer: (self.scale[layer] * mine[layer] + sign * (other.scale[layer] * theirs[layer]))
            / scale[layer]
            for layer in mine.keys() & theirs.keys()
        }


def from_natural(vectors: Mapping[int, Tensor]) -> tuple[dict[int, Tensor], dict[int, float]]:
    """Split natural vectors into unit vectors (float32) and scales.

    Args:
        vectors: Layer to (d_model,) vector of any float dtype.

    Raises:
        DirectionError: A vector is zero, not finite or not a vector.
    """
    units: dict[int, Tensor] = {}
    scale: dict[int, float] = {}
    for layer, vector in vectors.items():
        if vector.dim() != 1:
            raise DirectionError(f"layer {layer} has shape {tuple(vector.shape)}, not a vector")
        exact = vector.detach().to(torch.float64)
        length = float(exact.norm())
        if not math.isfinite(length):
            raise DirectionError(f"the vector of layer {layer} has values that are not finite")
        if length == 0:
            raise DirectionError(f"the vector of layer {layer} is zero: it has no direction")
        units[layer], scale[layer] = (exact / length).float(), length
    return units, scale


def _mapped(values: ByLayer, change: Callable[[float], float]) -> ByLayer:
    return {layer: change(value) for layer, value in values.items()}


def _joint_provenance(a: Direction, b: Direction) -> Provenance:
    same = a.provenance.source == b.provenance.source
    source = a.provenance.source if same else ""
    token = a.provenance.token if a.provenance.token == b.provenance.token else ""
    return Provenance("algebra", token, a.provenance.n_pairs if same else 0, source)


def _check_compatible(a: Direction, b: Direction) -> None:
    for what, mine, theirs in (
        ("models", a.model, b.model),
        ("hook points", a.hook, b.hook),
        ("layers", a.layers, b.layers),
        ("widths", a.d_model, b.d_model),
    ):
        if mine != theirs:
            raise DirectionError(
                f"'{a.name}' and '{b.name}' have different {what} ({mine} and {theirs}) and do not "
                "combine"
            )


def _check(direction: Direction) -> None:
    name = direction.name
    if not NAME.fullmatch(name):
        raise DirectionError(
            f"'{name}' is not a name: use lower-case letters, digits and hyphens, at most 63"
        )
    if not direction.vectors or min(direction.vectors) < 0:
        raise DirectionError(f"'{name}' needs a vector at one layer at least, counted from 0")
    if direction.vectors.keys() != direction.scale.keys():
        raise DirectionError(f"'{name}' has scales for other layers than vectors")
    for layer, vector in direction.vectors.items():
        _check_vector(name, layer, vector, direction.d_model)
    for what in ("scale", "benign", "target"):
        _check_numbers(direction, what)
    if not set(direction.separation) <= set(direction.vectors):
        raise DirectionError(f"'{name}' has a separation at layers without a vector")
    missing = [layer for layer in direction.defaults.layers if layer not in direction.vectors]
    if missing:
        raise DirectionError(
            f"'{name}' defaults to layers {missing} but has vectors at {list(direction.layers)}"
        )


def _check_vector(name: str, layer: int, vector: Tensor, width: int) -> None:
    if vector.dtype != torch.float32 or vector.shape != (width,):
        raise DirectionError(
            f"'{name}' layer {layer} is {vector.dtype} of shape {tuple(vector.shape)}; needed are "
            f"float32 vectors of one width ({width})"
        )
    if not abs(float(vector.to(torch.float64).norm()) - 1.0) <= UNIT_TOLERANCE:
        raise DirectionError(f"'{name}' layer {layer} is not a finite unit vector")


def _check_numbers(direction: Direction, what: str) -> None:
    values: ByLayer = getattr(direction, what)
    for layer, value in values.items():
        if layer not in direction.vectors:
            raise DirectionError(f"'{direction.name}' has a {what} at layer {layer} but no vector")
        if not math.isfinite(value) or (what == "scale" and value <= 0):
            raise DirectionError(f"'{direction.name}' layer {layer} has {what} {value}")
