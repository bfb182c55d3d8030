"""Which binding a caller falls under, and what it makes mandatory; imports no torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from types import MappingProxyType

from service.binding_schema import DEFAULT, NO_POLICY, BindingSpec, Canary
from service.callers import Caller
from service.digest import content_digest
from service.errors import ServiceError
from service.explain import did_you_mean
from service.records import Owner
from service.schemas import PolicySpec
from service.steer_schema import content_of

Stacked = tuple[str, ...]
"""Names of mandatory policies, those that are off among them, in the order they are stacked."""


class BindingError(ServiceError):
    """Bindings that cannot hold together; ``code`` is that of the answer, its status 400."""

    def __init__(self, code: str, message: str) -> None:
        """Keep the code and the message."""
        super().__init__(message)
        self.code, self.message, self.status = code, message, 400


@dataclass(frozen=True, slots=True)
class BindingRevision:
    """An active revision of a binding; revision 0 is the implicit default one.

    Attributes:
        revision: Its number.
        spec: What its document says.
        owner: Who owns it; None for the implicit one.
        name: Its name.
        mandatory: What it makes mandatory, with what it inherits.
        halted: Why its canary was ended, if it was.
    """

    revision: int = 0
    spec: BindingSpec = field(default_factory=BindingSpec, hash=False)
    owner: Owner | None = None
    name: str = DEFAULT
    mandatory: Stacked = ()
    halted: str | None = None

    @property
    def label(self) -> str:
        """Name and revision, such as ``default@2``."""
        return f"{self.name}@{self.revision}"

    @property
    def canary(self) -> Canary | None:
        """The canary that runs; None when there is none or it was ended."""
        return self.spec.canary if self.halted is None else None

    @property
    def stacks(self) -> tuple[Stacked, ...]:
        """The lists of mandatory policies that its requests can have, ended canaries included."""
        return stacks_of(self.mandatory, self.spec.canary)


@dataclass(frozen=True, slots=True)
class Bindings:
    """All of them; the default one stands for whoever no other is for."""

    by_name: Mapping[str, BindingRevision] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def default(self) -> BindingRevision:
        """The default binding, the implicit one if none is written."""
        return self.by_name.get(DEFAULT) or BindingRevision()

    @property
    def all(self) -> tuple[BindingRevision, ...]:
        """The default one first."""
        return (self.default, *(b for name, b in self.by_name.items() if name != DEFAULT))

    def of(self, caller: Caller) -> BindingRevision:
        """Return the binding for a caller: by its key's name, else by its tenant."""
        others = self.all[1:]
        by_key = (b for b in others if caller.key and caller.name in _keys(b.spec))
        by_tenant = (b for b in others if caller.tenant in _tenants(b.spec))
        return next(by_key, None) or next(by_tenant, None) or self.default

    def naming(self, policy: str) -> tuple[str, ...]:
        """Return the names of the bindings that name a policy."""
        return tuple(b.name for b in self.all if policy in referenced(b.spec))


def mandatory_of(spec: BindingSpec, default: BindingSpec) -> Stacked:
    """Return what a binding makes mandatory: what the default one does first, unless told not to.

    Raises:
        BindingError: A policy that it inherits is its default or among its choices.
    """
    inherited = default.mandatory if spec.match is not None and spec.inherit else ()
    found = tuple(dict.fromkeys((*inherited, *spec.mandatory)))
    for name in (spec.policy, *(spec.choices or ())):
        if name in found:
            raise BindingError(
                "applies_twice",
                f"'{name}' is mandatory in the binding '{DEFAULT}', so it applies already; as a "
                "default or a choice it would apply twice: leave it out, or say inherit: false",
            )
    return found


def stacks_of(mandatory: Stacked, canary: Canary | None) -> tuple[Stacked, ...]:
    """Return a list of mandatory policies, and the one with the canary in its place."""
    if canary is None or canary.replaces not in mandatory:
        return (mandatory,)
    return (mandatory, replaced(mandatory, canary))


def replaced(names: Stacked, canary: Canary) -> Stacked:
    """Return names with the canary's policy in the place of the one that it replaces."""
    return tuple(canary.policy if name == canary.replaces else name for name in names)


def canary_digest(binding: str, canary: Canary) -> str:
    """Return the identity of a canary as it was declared: another declaration is another one."""
    return content_digest({"binding": binding, "canary": content_of(canary)})


def in_share(binding: str, canary: Canary, unit: str) -> bool:
    """Whether a unit (a key's name, or a request) is in a canary's share.

    What is in a share is in every larger one: the draw depends on the policies, not on the share.
    """
    drawn = sha256(f"{binding}\0{canary.policy}\0{canary.replaces}\0{unit}".encode()).digest()
    return int.from_bytes(drawn[:8]) < canary.share * 2**64


def referenced(spec: BindingSpec) -> tuple[str, ...]:
    """Return the names of the policies that a binding names."""
    canary = (spec.canary.policy, spec.canary.replaces) if spec.canary is not None else ()
    names = (*spec.mandatory, spec.policy, *(spec.choices or ()), *canary)
    return tuple(dict.fromkeys(name for name in names if name != NO_POLICY))


def check_references(spec: BindingSpec, policies: Iterable[str]) -> None:
    """Refuse a binding that names unknown policies.

    Raises:
        BindingError: It does.
    """
    known = set(policies)
    for name in referenced(spec):
        if name not in known:
            message = f"the binding names policy '{name}', which is not there"
            guess = did_you_mean(name, known) or "; apply that policy first"
            raise BindingError("unknown_policy", message + guess)


def check_bindings(
    bindings: Mapping[str, BindingSpec], policies: Mapping[str, PolicySpec]
) -> dict[str, Stacked]:
    """Refuse bindings that do not hold together or with the policies; return what each mandates.

    Raises:
        BindingError: Says which does not, and why.
    """
    check_together(bindings)
    default = bindings.get(DEFAULT) or BindingSpec()
    found: dict[str, Stacked] = {}
    for name, spec in bindings.items():
        check_references(spec, policies)
        found[name] = mandatory_of(spec, default)
        check_canary(spec, found[name])
        check_ranges(spec, policies)
    return found


def check_together(bindings: Mapping[str, BindingSpec]) -> None:
    """Refuse two bindings that are for the same key or tenant.

    Raises:
        BindingError: Names both.
    """
    for what, of in (("key", _keys), ("tenant", _tenants)):
        owners: dict[str, str] = {}
        for binding, spec in sorted(bindings.items()):
            for name in of(spec):
                other = owners.setdefault(name, binding)
                if other != binding:
                    raise BindingError(
                        "ambiguous_binding",
                        f"{what} '{name}' is in the bindings '{other}' and '{binding}': which "
                        "one holds would be chance; name it in one",
                    )


def check_ranges(spec: BindingSpec, policies: Mapping[str, PolicySpec]) -> None:
    """Refuse a range of strength that a policy cannot have, and a canary of another range.

    Raises:
        BindingError: The ranges do not meet, or a request of one side would be refused on the
            other.
    """
    for name in (spec.policy, *(spec.choices or ())):
        own = policies[name].strength if name in policies else None
        given = spec.strength
        if own is not None and given is not None and (given.max < own.min or own.max < given.min):
            raise BindingError(
                "no_strength",
                f"the binding allows strengths {given.min:g} to {given.max:g} and policy '{name}' "
                f"{own.min:g} to {own.max:g}: they have none in common",
            )
    canary = spec.canary
    if canary is None:
        return
    old, new = policies[canary.replaces].strength, policies[canary.policy].strength
    if (old.min, old.max) != (new.min, new.max):
        raise BindingError(
            "canary_strength",
            f"policy '{canary.policy}' allows strengths {new.min:g} to {new.max:g}, and "
            f"'{canary.replaces}', which it replaces, {old.min:g} to {old.max:g}: a request would "
            "be refused on one side of the canary only; give both the same range",
        )


def check_canary(spec: BindingSpec, mandatory: Stacked) -> None:
    """Refuse a canary that would change nothing, or apply a policy twice.

    Raises:
        BindingError: It would.
    """
    canary = spec.canary
    if canary is None:
        return
    named = {*mandatory, spec.policy, *(spec.choices or (canary.replaces,))}
    if canary.replaces not in named:
        raise BindingError(
            "canary_replaces_nothing",
            f"the canary replaces '{canary.replaces}', which no request of this binding has",
        )
    if canary.policy in mandatory or (
        canary.replaces in mandatory and canary.policy in (spec.policy, *(spec.choices or ()))
    ):
        raise BindingError(
            "applies_twice",
            f"the canary's policy '{canary.policy}' is in the binding already: it would then apply "
            "twice",
        )


def _keys(spec: BindingSpec) -> tuple[str, ...]:
    return spec.match.keys if spec.match is not None else ()


def _tenants(spec: BindingSpec) -> tuple[str, ...]:
    return spec.match.tenants if spec.match is not None else ()
