"""Which policies apply to a request: pure rules over a snapshot of the catalog."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from service.binding_schema import NO_POLICY, Canary, StrengthRange
from service.bindings import BindingRevision, Stacked, in_share, replaced
from service.callers import ANONYMOUS, Caller
from service.catalog import Catalog, PolicyRevision
from service.errors import ServiceError
from service.explain import did_you_mean, shown

HEADER = "X-Trimtab-Policy"

Side = Literal["canary", "stable"]


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

    Attributes:
        mandatory: The operator's policies that are not off.
        chosen: The client's policy, or the binding's for who names none.
        strength: What multiplies the chosen policy's ``steer``.
        binding: The binding that decided.
        stack: The names of all that is mandatory, those that are off among them.
        side: Which side of the binding's canary the request is on; None where it touches nothing.
        tenant: Whose key the request came with; empty for nobody's in particular.
    """

    mandatory: tuple[PolicyRevision, ...]
    chosen: PolicyRevision | None
    strength: float
    binding: BindingRevision = field(default_factory=BindingRevision)
    stack: Stacked = ()
    side: Side | None = None
    tenant: str = ""

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
    *,
    caller: Caller = ANONYMOUS,
    request: str = "",
) -> Selection:
    """Return what applies to a request.

    Args:
        catalog: The snapshot that the request is to keep.
        alias: The policy in the model's name, as ``parse_model`` gives it.
        body: The body's field ``policy``; null counts as absent.
        header: The header ``X-Trimtab-Policy``.
        strength: The body's field ``strength``; null counts as absent.
        caller: Whose request it is.
        request: The request's own name, which draws its side of a canary.

    Raises:
        SelectionError: Two different policies are named (400), one is unknown or off (404) or not
            allowed (403), or the strength is no number in the policy's range (400).
    """
    binding = catalog.bindings.of(caller)
    view = _View(catalog, binding)
    named = _named({"model": alias, "policy": body, HEADER: header})
    chosen = view.default() if named is None else view.choose(*named)
    stack, canary = binding.mandatory, view.canary
    side: Side | None = None
    if canary is not None and canary.replaces in (*stack, chosen.name if chosen else ""):
        side = _side(binding.name, canary, caller, request)
    if canary is not None and side == "canary":
        stack = replaced(stack, canary)
        if chosen is not None and chosen.name == canary.replaces:
            chosen = catalog.policies[canary.policy]
    operators = (catalog.policies[name] for name in stack)
    mandatory = tuple(policy for policy in operators if policy.spec.mode != "off")
    scale = _strength(chosen, strength, binding.spec.strength)
    return Selection(mandatory, chosen, scale, binding, stack, side, caller.tenant or "")


def choices(catalog: Catalog, caller: Caller = ANONYMOUS) -> tuple[PolicyRevision, ...]:
    """Return the policies that a client may choose by name, as ``/v1/models`` lists them."""
    view = _View(catalog, catalog.bindings.of(caller))
    return view.choices()


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


@dataclass(frozen=True, slots=True)
class _View:
    """The catalog as one binding shows it to its clients."""

    catalog: Catalog
    binding: BindingRevision

    @property
    def canary(self) -> Canary | None:
        """The canary that runs: one whose policy is off would only take the other away."""
        found = self.binding.canary
        is_off = found is not None and self.catalog.policies[found.policy].spec.mode == "off"
        return None if is_off else found

    def choices(self) -> tuple[PolicyRevision, ...]:
        return tuple(p for p in self.catalog.policies.values() if self.refusal(p) is None)

    def choose(self, name: str, param: str) -> PolicyRevision | None:
        if name == NO_POLICY:
            return self._choose_none(param)
        policy = self.catalog.policies.get(name)
        if policy is None:
            guess = did_you_mean(name, (p.name for p in self.choices()))
            message = f"there is no policy {shown(name)}{guess}"
            raise SelectionError(404, "policy_not_found", message, param)
        if policy.spec.mode == "off":
            message = f"policy '{name}' is switched off"
            raise SelectionError(404, "policy_not_found", message, param)
        refusal = self.refusal(policy)
        if refusal is not None:
            raise SelectionError(403, "policy_not_allowed", f"policy '{name}' {refusal}", param)
        return policy

    def default(self) -> PolicyRevision | None:
        """Return the binding's policy for who names none; one switched off is none."""
        name = self.binding.spec.policy
        policy = None if name == NO_POLICY else self.catalog.policies[name]
        return None if policy is None or policy.spec.mode == "off" else policy

    def refusal(self, policy: PolicyRevision) -> str | None:
        """Return why a client may not choose a policy, if so."""
        allowed = self.binding.spec.choices
        if policy.spec.mode == "off":
            return "is switched off"
        if policy.name in self.binding.mandatory:
            return "is mandatory: it applies already"
        if not policy.spec.selectable:
            return "is not selectable"
        if allowed is not None and policy.name not in allowed:
            return f"is not among the choices; {self._allowed()}"
        if any(policy.name in stack for stack in self.binding.stacks):
            return "is mandatory in a share of the requests: it applies there already"
        return None

    def _choose_none(self, param: str) -> None:
        allowed = self.binding.spec.choices
        if allowed is not None and NO_POLICY not in allowed:
            message = f"choosing no policy is not allowed; {self._allowed()}"
            raise SelectionError(403, "policy_not_allowed", message, param)

    def _allowed(self) -> str:
        return "allowed: " + (", ".join(self.binding.spec.choices or ()) or "nothing")


def _side(binding: str, canary: Canary, caller: Caller, request: str) -> Side:
    """Draw by a key's name, which rotation keeps, or by the request's own name."""
    unit = f"key {caller.name}" if canary.by == "key" else f"request {request}"
    return "canary" if in_share(binding, canary, unit) else "stable"


def _strength(chosen: PolicyRevision | None, given: object, bound: StrengthRange | None) -> float:
    if chosen is None:
        if given is None:
            return 1.0
        message = "'strength' scales a chosen policy, and none is chosen: name one, or leave it out"
        raise _strength_error(message)
    allowed = chosen.spec.strength
    low, high = allowed.min, allowed.max
    if bound is not None:
        low, high = max(low, bound.min), min(high, bound.max)
    if given is None:
        return min(max(allowed.default, low), high)
    value = _as_number(given)
    if not low <= value <= high:
        whose = f"policy '{chosen.name}' allows" if bound is None else "you are allowed"
        raise _strength_error(f"strength {value:g} is out of range: {whose} {low:g} to {high:g}")
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
