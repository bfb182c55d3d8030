"""The schemas of the documents that operators write; imports no torch."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    StringConstraints,
    TypeAdapter,
    model_validator,
)

from service.binding_schema import DEFAULT, BindingSpec, Names, PolicyName
from service.edit_schema import EditSetSpec
from service.monitor_schema import MonitorSpec
from service.steer_schema import Name, Rate, Steer, Strict

API_VERSION = "trimtab/v1"

Kind = Literal["Policy", "Monitor", "EditSet", "Binding"]
Mode = Literal["off", "shadow", "enforce"]
Action = Literal["log", "alert", "steer", "refuse", "stop"]
OnError = Literal["block", "pass"]

Text = Annotated[str, StringConstraints(max_length=4096)]


class Strength(Strict):
    """The range in which a client may scale a policy's ``steer``; nothing beyond it is allowed."""

    default: float = 1.0
    min: float = 0.0
    max: float = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"'min' {self.min:g} is above 'max' {self.max:g}")
        if not self.min <= self.default <= self.max:
            raise ValueError(
                f"'default' {self.default:g} is outside 'min' {self.min:g} to 'max' {self.max:g}"
            )
        return self


class MonitorUse(Strict):
    """How a policy uses a monitor; a monitor that fails blocks unless told to pass.

    It fires above a raw score (``above``), or above the one that the monitor's calibration gives a
    false-positive rate (``fpr``).
    """

    mode: Mode
    fpr: Rate | None = None
    above: float | None = None
    do: Action
    on_error: OnError = "block"

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        if (self.fpr is None) == (self.above is None):
            raise ValueError("a monitor has one threshold: give either 'fpr' or 'above'")
        return self


class PolicySpec(Strict):
    """What a policy does; with ``capture`` its monitors' events keep text and tokens' scores."""

    mode: Mode = "enforce"
    selectable: bool = True
    strength: Strength = Strength()
    refusal: Annotated[Text, Field(min_length=1)] | None = None
    steer: Annotated[tuple[Steer, ...], Field(strict=False, max_length=256)] = ()
    edits: Names = ()
    capture: bool = False
    monitors: Annotated[dict[Name, MonitorUse], Field(max_length=256, default_factory=dict)]

    @model_validator(mode="after")
    def _gates_are_monitored(self) -> Self:
        named = {steer.when.monitor: i for i, steer in enumerate(self.steer) if steer.when}
        for name in named.keys() - self.monitors.keys():
            raise ValueError(
                f"steer[{named[name]}].when names monitor '{name}', which is not under 'monitors' "
                f"(there: {', '.join(self.monitors) or 'none'}); add it there"
            )
        for name, use in self.monitors.items():
            if use.do == "steer" and name not in named:
                raise ValueError(
                    f"monitors.{name} is to steer, but no entry of 'steer' waits for it: write "
                    f"when: {{monitor: {name}, ...}} in one"
                )
        return self


class PolicyMetadata(Strict):
    """A policy's name and what it is for."""

    name: PolicyName
    description: Text = ""


class BindingMetadata(Strict):
    """A binding's name and what it is for."""

    name: PolicyName
    description: Text = ""


class MonitorMetadata(Strict):
    """A monitor's name and what it is for."""

    name: Name
    description: Text = ""


class EditSetMetadata(Strict):
    """An edit set's name and what it is for."""

    name: Name
    description: Text = ""


class Policy(Strict):
    """A document of kind Policy."""

    apiVersion: Literal["trimtab/v1"]
    kind: Literal["Policy"]
    metadata: PolicyMetadata
    spec: PolicySpec


class Monitor(Strict):
    """A document of kind Monitor."""

    apiVersion: Literal["trimtab/v1"]
    kind: Literal["Monitor"]
    metadata: MonitorMetadata
    spec: MonitorSpec


class EditSet(Strict):
    """A document of kind EditSet."""

    apiVersion: Literal["trimtab/v1"]
    kind: Literal["EditSet"]
    metadata: EditSetMetadata
    spec: EditSetSpec


class Binding(Strict):
    """A document of kind Binding."""

    apiVersion: Literal["trimtab/v1"]
    kind: Literal["Binding"]
    metadata: BindingMetadata
    spec: BindingSpec

    @model_validator(mode="after")
    def _is_for_somebody(self) -> Self:
        if (self.spec.match is None) != (self.metadata.name == DEFAULT):
            raise ValueError(
                "spec.for says whose requests a binding is for: every binding has it but "
                f"'{DEFAULT}', which is for all others"
            )
        return self


Model = Policy | Monitor | EditSet | Binding
MODELS: dict[Kind, type[Model]] = {
    "Policy": Policy,
    "Monitor": Monitor,
    "EditSet": EditSet,
    "Binding": Binding,
}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of one document, for editors and for ``trimtab policy schema``."""
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[Model, Field(discriminator="kind")])
    schema = adapter.json_schema(by_alias=True, mode="validation")
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Trimtab documents",
    }
    return head | schema


def field_names(model: type[BaseModel]) -> Sequence[str]:
    """Return the fields of a model as documents write them."""
    return [field.alias or name for name, field in model.model_fields.items()]
