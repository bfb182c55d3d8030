"""The schemas of a monitor: what it reads, which tokens, how it pools; imports no torch."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from service.steer_schema import Layer, Name, Strict, Tokens

PoolName = Literal["max", "mean", "last", "attention"]
Index = Annotated[int, Field(ge=0)]
Indices = Annotated[tuple[Index, ...], Field(strict=False, min_length=1, max_length=256)]
Weight = Annotated[float, Field(ge=-1e6, le=1e6)]
Weights = Annotated[tuple[Weight, ...], Field(strict=False, max_length=256)]


class FeatureRead(Strict):
    """One latent of a sparse autoencoder, or a weighted sum of several."""

    sae: Name
    index: Index | None = None
    indices: Indices | None = None
    weights: Weights | None = None

    @model_validator(mode="after")
    def _one_or_many(self) -> Self:
        if (self.index is None) == (self.indices is None):
            raise ValueError("give either 'index' or 'indices'")
        if self.indices is not None and len(set(self.indices)) < len(self.indices):
            raise ValueError("'indices' names the same latent twice")
        if self.weights is not None and len(self.weights) != len(self.latents):
            raise ValueError(
                f"'weights' has {len(self.weights)} numbers for {len(self.latents)} latents"
            )
        if self.weights is not None and not all(self.weights):
            raise ValueError("a weight of 0 reads nothing: leave the latent out")
        return self

    @property
    def latents(self) -> tuple[int, ...]:
        """The latents that are read."""
        return self.indices if self.indices is not None else (self.index or 0,)


class Reading(Strict):
    """What a monitor reads: one probe, one direction at a layer, or features of one SAE."""

    probe: Name | None = None
    direction: Name | None = None
    feature: FeatureRead | None = None
    layer: Layer | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [n for n in ("probe", "direction", "feature") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError("a monitor reads one of 'probe', 'direction' and 'feature'")
        if self.layer is not None and self.direction is None:
            raise ValueError(f"'layer' belongs to a direction; a {given[0]} has a layer of its own")
        return self


class PoolWith(Strict):
    """A pool with a parameter: ``{ema: 0.5}``, ``{rolling: 10}`` or ``{softmax: 1.0}``."""

    ema: Annotated[float, Field(gt=0, le=1)] | None = None
    rolling: Annotated[int, Field(ge=1, le=4096)] | None = None
    softmax: Annotated[float, Field(ge=1e-6, le=1e6)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(getattr(self, kind) is not None for kind in ("ema", "rolling", "softmax")) != 1:
            raise ValueError("a pool with a parameter is one of 'ema', 'rolling' and 'softmax'")
        return self


def _name_or_map(value: object) -> str:
    return "<map>" if isinstance(value, (dict, PoolWith)) else "<name>"


Pooling = Annotated[
    Annotated[PoolName, Tag("<name>")] | Annotated[PoolWith, Tag("<map>")],
    Discriminator(_name_or_map),
]


class Said(Strict):
    """One message of a probe."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(min_length=1, max_length=16384)]


def _text_or_talk(value: object) -> str:
    return "<text>" if isinstance(value, str) else "<messages>"


Question = Annotated[str, Field(min_length=1, max_length=16384)]
Talk = Annotated[tuple[Said, ...], Field(strict=False, min_length=1, max_length=64)]
Asked = Annotated[
    Annotated[Question, Tag("<text>")] | Annotated[Talk, Tag("<messages>")],
    Discriminator(_text_or_talk),
]
"""What a probe asks: a user's message, or a conversation."""
Askings = Annotated[tuple[Asked, ...], Field(strict=False, max_length=16)]


class Probes(Strict):
    """What the server asks itself now and then: the monitor is to fire on ``bad``, not on ``good``.

    ``tokens`` is how long an answer is read where the monitor reads answers.
    """

    bad: Annotated[Askings, Field(min_length=1)]
    good: Askings = ()
    every_seconds: Annotated[float, Field(ge=1, le=86400)] = 300.0
    tokens: Annotated[int, Field(ge=1, le=1024)] = 32


class MonitorSpec(Strict):
    """What a monitor reads, on which tokens, how their scores become one, and how it is probed."""

    read: Reading
    tokens: Tokens = "all"
    pool: Pooling = "max"
    probes: Probes | None = None
