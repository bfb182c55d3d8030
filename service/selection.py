"""Which policies apply to a request: pure rules over a snapshot of the catalog."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from service.catalog import Catalog, PolicyRevision
from service.errors import ServiceError
from service.explain import did_you_mean, shown
from service.schemas import NO_POLICY

HEADER = "X-Trimtab-Policy"


class SelectionError(ServiceError):
    """A request whose choice is refused, in the terms of OpenAI's error shape."""

    def __init__(self, status: int, code: str, message: str, param: str | None) -> None:
        """Keep status, code, message and the parameter at fault."""
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param


@dataclass(frozen=True, slots=True)
class Selection:
    """The policies of a request: the operator's, and the client's at its strength.

    ``mandatory`` and ``chosen`` may hold policies in shadow, which change no answer: rows are
    stamped only for those whose ``applied`` is true.
    """

    mandatory: tuple[PolicyRevision, ...]
    chosen: PolicyRevision | None
    strength: float

    @property
    def applied(self) -> bool:
        """Whether there is a chosen policy and it changes the answer."""
        return self.chosen is not None and self.chosen.applied

    @property
    def policies(self) -> tuple[PolicyRevision, ...]:
        """All of them, the operator's first."""
        return self.mandatory if self.chosen is None else (*self.mandatory, self.chosen)


def select(
    catalog: Catalog,
    alias: object = None,
    body: object = None,
    header: object = None,
    strength: object = None,
) -> Selection:
    """Return what applies to a request.

    Args:
        catalog: The snapshot that the request is to keep.
        alias: The policy in the model's name, as ``parse_model`` gives it.
        body: The body's field ``policy``; null counts as absent.
        header: The header ``X-Trimtab-Policy``.
        strength: The body's field ``strength``; null counts as absent.

    Raises:
        SelectionError: Two different policies are named (400), one is unknown or off (404) or not
            allowed (403), or the strength is no number in the policy's range (400).
    """
    named = _named({"model": alias, "policy": body, HEADER: header})
    chosen = _default(catalog) if named is None else _choose(catalog, *named)
    operators = (catalog.policies[name] for name in catalog.binding.spec.mandatory)
    mandatory = tuple(policy for policy in operators if policy.spec.mode != "off")
    return Selection(mandatory, chosen, _strength(chosen, strength))


def choices(catalog: Catalog) -> tuple[PolicyRevision, ...]:
    """Return the policies that a client may choose by name, as ``/v1/models`` lists them."""
    return tuple(p for p in catalog.policies.values() if _refusal(catalog, p) is None)


def parse_model(model: str, models: Iterable[str]) -> tuple[str, str | None]:
    """Split ``<model>:<policy>`` into the model and the policy, if one is named.

    ``models`` are the served names and those of adapters. They may hold ':', so the longest one
    that fits is the model. A model that is none of them is returned whole, for vLLM to refuse.
    """
    for name in sorted(models, key=len, reverse=True):
        if model == name:
            return name, None
        if model.startswith(f"{name}:"):
            return name, model.removeprefix(f"{name}:")
    return model, None


def _named(given: dict[str, object]) -> tuple[str, str] | None:
    """Return the one policy that is named and the parameter that names it."""
    names: dict[str, str] = {}
    for param, value in given.items():
        if value is not None:
            names[param] = _as_name(value, param)
    if len(set(names.values())) > 1:
        listed = ", ".join(f"{param} names '{name}'" for param, name in names.items())
        message = f"the request names different policies ({listed}): name one"
        raise SelectionError(400, "conflicting_policies", message, list(names)[-1])
    return next(((name, param) for param, name in names.items()), None)


def _as_name(value: object, param: str) -> str:
    if not isinstance(value, str):
        message = f"a policy is named by a string, not {shown(value)}"
        raise SelectionError(400, "invalid_policy", message, param)
    return value


def _choose(catalog: Catalog, name: str, param: str) -> PolicyRevision | None:
    if name == NO_POLICY:
        return _choose_none(catalog, param)
    policy = catalog.policies.get(name)
    if policy is None:
        guess = did_you_mean(name, (p.name for p in choices(catalog)))
        message = f"there is no policy {shown(name)}{guess}"
        raise SelectionError(404, "policy_not_found", message, param)
    if policy.spec.mode == "off":
        message = f"policy '{name}' is switched off"
        raise SelectionError(404, "policy_not_found", message, param)
    refusal = _refusal(catalog, policy)
    if refusal is not None:
        raise SelectionError(403, "policy_not_allowed", f"policy '{name}' {refusal}", param)
    return policy


def _choose_none(catalog: Catalog, param: str) -> None:
    allowed = catalog.binding.spec.choices
    if allowed is not None and NO_POLICY not in allowed:
        message = f"choosing no policy is not allowed; {_allowed(catalog)}"
        raise SelectionError(403, "policy_not_allowed", message, param)


def _refusal(catalog: Catalog, policy: PolicyRevision) -> str | None:
    """Return why a client may not choose a policy, if so."""
    binding = catalog.binding.spec
    if policy.spec.mode == "off":
        return "is switched off"
    if policy.name in binding.mandatory:
        return "is mandatory: it applies already"
    if not policy.spec.selectable:
        return "is not selectable"
    if binding.choices is not None and policy.name not in binding.choices:
        return f"is not among the choices; {_allowed(catalog)}"
    return None


def _allowed(catalog: Catalog) -> str:
    return "allowed: " + (", ".join(catalog.binding.spec.choices or ()) or "nothing")


def _default(catalog: Catalog) -> PolicyRevision | None:
    """Return the binding's policy for requests that name none; one switched off is none."""
    name = catalog.binding.spec.policy
    policy = None if name == NO_POLICY else catalog.policies[name]
    return None if policy is None or policy.spec.mode == "off" else policy


def _strength(chosen: PolicyRevision | None, given: object) -> float:
    if given is None:
        return chosen.spec.strength.default if chosen is not None else 1.0
    if chosen is None:
        message = "'strength' scales a chosen policy, and none is chosen: name one, or leave it out"
        raise _strength_error(message)
    value = _as_number(given)
    allowed = chosen.spec.strength
    if not allowed.min <= value <= allowed.max:
        message = (
            f"strength {value:g} is out of range: policy '{chosen.name}' allows {allowed.min:g} to "
            f"{allowed.max:g}"
        )
        raise _strength_error(message)
    return value


def _as_number(given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise _strength_error(f"'strength' is a number, not {shown(given)}")
    try:
        value = float(given)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise _strength_error("'strength' is a finite number")
    return value


def _strength_error(message: str) -> SelectionError:
    return SelectionError(400, "invalid_strength", message, "strength")
