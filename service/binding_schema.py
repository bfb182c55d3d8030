"""What a document of kind Binding says: whose requests run under which policies. No torch."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from service.steer_schema import Name, Rate, Strict

NO_POLICY = "none"
DEFAULT = "default"

Metric = Literal["fired", "ended", "fault", "failed"]
Unit = Literal["key", "request"]


def _not_reserved(name: str) -> str:
    if name == NO_POLICY:
        raise ValueError("'none' is reserved: it is how a request chooses no policy")
    return name


def _no_repeats(names: tuple[str, ...]) -> tuple[str, ...]:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"'{repeated[0]}' is named twice")
    return names


PolicyName = Annotated[Name, AfterValidator(_not_reserved)]
Names = Annotated[
    tuple[Name, ...], Field(strict=False, max_length=256), AfterValidator(_no_repeats)
]
PolicyNames = Annotated[
    tuple[PolicyName, ...], Field(strict=False, max_length=256), AfterValidator(_no_repeats)
]


class Match(Strict):
    """Whose requests a binding is for: keys by their names, or all keys of a tenant."""

    keys: Names = ()
    tenants: Names = ()

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.keys and not self.tenants:
            raise ValueError("name at least one of 'keys' and 'tenants'")
        return self


class StrengthRange(Strict):
    """What is left of the chosen policies' own ranges of strength."""

    min: float = 0.0
    max: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"'min' {self.min:g} is above 'max' {self.max:g}")
        return self


class Rule(Strict):
    """What ends a canary: a share of its requests, once there were enough.

    ``fired``: a monitor fired, in shadow too (``monitor`` narrows it to one). ``ended``: a verdict
    refused or stopped the answer. ``fault``: a monitor could not be trusted. ``failed``: the server
    did not answer.
    """

    metric: Metric
    monitor: Name | None = None
    above: Rate
    at_least: Annotated[int, Field(ge=1, le=1_000_000)] = 50

    @model_validator(mode="after")
    def _monitor_fires(self) -> Self:
        if self.monitor is not None and self.metric not in ("fired", "fault"):
            raise ValueError(f"'monitor' narrows 'fired' and 'fault', not '{self.metric}'")
        return self


class Canary(Strict):
    """A policy that takes the place of another in a share of requests.

    ``by: key`` keeps a key on its side; ``by: request`` draws for each request.
    """

    policy: PolicyName
    replaces: PolicyName
    share: Annotated[float, Field(gt=0, le=1)]
    by: Unit = "request"
    rollback: Annotated[tuple[Rule, ...], Field(strict=False, max_length=16)] = ()

    @model_validator(mode="after")
    def _another(self) -> Self:
        if self.policy == self.replaces:
            raise ValueError(f"'{self.policy}' cannot take its own place")
        return self


class BindingSpec(Strict):
    """Which policies apply to requests: always, by default, and by choice.

    The binding ``default`` is for whoever no other is ``for``. What is mandatory in it is mandatory
    in every other too, unless that says ``inherit: false``. ``choices`` absent means every
    selectable policy and ``none``.
    """

    match: Annotated[Match | None, Field(alias="for")] = None
    inherit: bool = True
    mandatory: PolicyNames = ()
    policy: Name = NO_POLICY
    choices: Names | None = None
    strength: StrengthRange | None = None
    canary: Canary | None = None

    @model_validator(mode="after")
    def _mandatory_applies_once(self) -> Self:
        for name in (self.policy, *(self.choices or ())):
            if name in self.mandatory:
                raise ValueError(
                    f"'{name}' is mandatory, so it applies already; as a default or a choice it "
                    "would apply twice"
                )
        return self
