"""A direction as an artifact: its vectors as safetensors, all the rest on its card.

The round trip is exact: tensors keep their bytes, numbers are written with all their digits.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forward.container import Artifact
from forward.hookpoints import HookName
from steering.defaults import ClauseError, Defaults, OpName, Unit, clause_text, parse_clause
from steering.direction import Direction, DirectionError, Provenance, Separation

KIND = "direction"

Layer = Annotated[int, Field(ge=0, le=9999)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _SeparationCard(_Strict):
    auroc: float
    d_prime: float


class _ProvenanceCard(_Strict):
    method: str
    token: str
    n_pairs: Annotated[int, Field(ge=0)]
    source: str


class _DefaultsCard(_Strict):
    layers: tuple[Layer, ...]
    op: OpName
    tokens: str | dict[str, int]
    coefficient: float
    unit: Unit


class _DirectionCard(_Strict):
    kind: Literal["direction"]
    name: str
    hook: HookName
    model: str
    d_model: Annotated[int, Field(ge=1)]
    scale: dict[Layer, float]
    benign: dict[Layer, float]
    target: dict[Layer, float]
    separation: dict[Layer, _SeparationCard]
    provenance: _ProvenanceCard
    defaults: _DefaultsCard


def to_artifact(direction: Direction) -> Artifact:
    """Return the artifact of a direction; tensors are named by hook point, ``resid_post.3``."""
    tensors = {f"{direction.hook}.{layer}": v for layer, v in direction.vectors.items()}
    return Artifact.make(_card(direction), tensors)


def from_artifact(artifact: Artifact) -> Direction:
    """Return the direction of an artifact.

    Raises:
        DirectionError: The artifact is no direction, or card and tensors disagree.
    """
    if artifact.card.get("kind") != KIND:
        raise DirectionError(
            f"'{artifact.card.get('name')}' is a {artifact.card.get('kind')}, not a direction"
        )
    try:
        card = _DirectionCard.model_validate(artifact.card)
        return _direction(card, artifact)
    except (ValidationError, ClauseError) as error:
        raise DirectionError(f"the card of '{artifact.card['name']}' is wrong: {error}") from error


def _direction(card: _DirectionCard, artifact: Artifact) -> Direction:
    tensors = {f"{card.hook}.{layer}": layer for layer in card.scale}
    if tensors.keys() != artifact.tensors.keys():
        raise DirectionError(
            f"'{card.name}' has tensors {sorted(artifact.tensors)} but its card speaks of "
            f"{sorted(tensors)}"
        )
    direction = Direction(
        name=card.name,
        hook=card.hook,
        model=card.model,
        vectors={layer: artifact.tensors[name] for name, layer in tensors.items()},
        scale=card.scale,
        defaults=_defaults(card.defaults),
        provenance=Provenance(**card.provenance.model_dump()),
        benign=card.benign,
        target=card.target,
        separation={layer: Separation(s.auroc, s.d_prime) for layer, s in card.separation.items()},
    )
    if direction.d_model != card.d_model:
        raise DirectionError(
            f"'{card.name}' has vectors of width {direction.d_model}, its card says {card.d_model}"
        )
    return direction


def _defaults(card: _DefaultsCard) -> Defaults:
    try:
        return Defaults(
            card.layers, card.op, parse_clause(card.tokens), card.coefficient, card.unit
        )
    except ValueError as error:
        raise DirectionError(str(error)) from error


def _card(direction: Direction) -> dict[str, object]:
    defaults, provenance = direction.defaults, direction.provenance
    return {
        "kind": KIND,
        "name": direction.name,
        "hook": direction.hook,
        "model": direction.model,
        "d_model": direction.d_model,
        "scale": _by_layer(direction.scale),
        "benign": _by_layer(direction.benign),
        "target": _by_layer(direction.target),
        "separation": {
            str(layer): {"auroc": s.auroc, "d_prime": s.d_prime}
            for layer, s in direction.separation.items()
        },
        "provenance": {
            "method": provenance.method,
            "token": provenance.token,
            "n_pairs": provenance.n_pairs,
            "source": provenance.source,
        },
        "defaults": {
            "layers": list(defaults.layers),
            "op": defaults.op,
            "tokens": clause_text(defaults.tokens),
            "coefficient": defaults.coefficient,
            "unit": defaults.unit,
        },
    }


def _by_layer(values: Mapping[int, float]) -> dict[str, float]:
    return {str(layer): float(value) for layer, value in values.items()}
