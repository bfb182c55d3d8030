"""What the policies are under each list of mandatory ones that a request can have: compiled.

A policy's gates and monitors depend on what writes beneath it, so each list is compiled by itself;
what comes out alike is held once in the tables.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from forward.program import EMPTY, Program
from service.binding_schema import DEFAULT, BindingSpec
from service.bindings import Stacked, stacks_of
from service.compile import compile_policy, compile_stack
from service.edit_compile import contents_of, edits_of, everywhere, refuse_contradictions
from service.library import Edited, Library
from service.prompting import Conditions
from service.schemas import PolicySpec
from service.watch import Watched, refuse_faults, watched_of
from service.writes import Stack


@dataclass(frozen=True, slots=True)
class Known:
    """A policy, and what it can name."""

    name: str
    spec: PolicySpec
    library: Library


@dataclass(frozen=True, eq=False)
class Bound:
    """The policies under one list of mandatory ones.

    Attributes:
        operator: The mandatory policies as one program.
        seen: That program as monitors see it: with what is merged into the weights.
        policies: Each policy that can be chosen with them, by name.
        watched: What each policy that is not off watches, the mandatory ones among them.
    """

    operator: Program = EMPTY
    seen: Program = EMPTY
    policies: Mapping[str, Program] = field(default_factory=dict[str, Program])
    watched: Mapping[str, tuple[Watched, ...]] = field(
        default_factory=dict[str, tuple[Watched, ...]]
    )


class Binder:
    """Compiles policies as bindings put them together."""

    def __init__(
        self,
        policies: Mapping[str, Known],
        bindings: Mapping[str, BindingSpec],
        conditions: Conditions,
        merged: tuple[Edited, ...],
    ) -> None:
        """Take what is known; nothing is compiled yet."""
        self._policies, self._conditions, self._merged = policies, conditions, merged
        self._bindings = {DEFAULT: BindingSpec()} | dict(bindings)

    def bound(self, mandatory: Mapping[str, Stacked]) -> dict[Stacked, Bound]:
        """Compile under every list of mandatory policies, the default binding's first.

        Args:
            mandatory: What each binding makes mandatory.

        Raises:
            CompileError: A policy cannot be served under one, or a monitor not enforced.
        """
        chosen: dict[Stacked, set[str]] = {}
        default = self._bindings[DEFAULT]
        for name, spec in sorted(self._bindings.items(), key=lambda pair: pair[0] != DEFAULT):
            for stack in stacks_of(mandatory.get(name, default.mandatory), spec.canary):
                # Every policy is compiled under what is mandatory by default: so none is active
                # that could not be served.
                is_first = not chosen
                found = set(self._policies) if is_first else self._choices(spec)
                chosen.setdefault(stack, set()).update(found - set(stack))
        return {stack: self._compiled(stack, names) for stack, names in chosen.items()}

    def every_mode(self, bound: Mapping[Stacked, Bound]) -> tuple[Program, ...]:
        """Return every policy and every stack as if all were enforced.

        A policy whose gates go by a rate has other thresholds under another stack: it counts there
        again.
        """
        model = self._conditions.model
        programs = {
            name: compile_policy(p, p.library, model, True) for name, p in self._policies.items()
        }
        again = [
            programs[name]
            for one in list(bound.values())[1:]
            for name in one.policies
            if any(steer.when is not None for steer in self._policies[name].spec.steer)
        ]
        stacks = [
            compile_stack(found, [p.library for p in found], model, True)
            for found in ([self._policies[name] for name in stack] for stack in bound)
        ]
        return (*programs.values(), *again, *stacks)

    def _choices(self, spec: BindingSpec) -> set[str]:
        """Return the policies that a request of a binding can have chosen."""
        everything = [name for name, p in self._policies.items() if p.spec.selectable]
        names = {spec.policy, *(everything if spec.choices is None else spec.choices)}
        if spec.canary is not None and spec.canary.replaces in names:
            names.add(spec.canary.policy)
        return names & set(self._policies)

    def _compiled(self, stack: Stacked, names: Iterable[str]) -> Bound:
        mandatory = [self._policies[name] for name in stack]
        chosen = [self._policies[name] for name in sorted(names)]
        model, prompting = self._conditions.model, self._conditions.prompting
        weights = contents_of(self._merged)
        libraries = [policy.library for policy in mandatory]
        operator = compile_stack(mandatory, libraries, model, False, prompting, merged=weights)
        seen = everywhere(operator, weights)
        clients = {
            p.name: compile_policy(p, p.library, model, False, prompting, seen)
            for p in chosen
            if p.spec.mode != "off"
        }
        self._refuse_outvoting(mandatory, chosen)
        watched = {
            p.name: self._watched(p, Stack(seen, clients.get(p.name, EMPTY), _strength(p)))
            for p in (*mandatory, *chosen)
            if p.spec.mode != "off"
        }
        return Bound(operator, seen, clients, watched)

    def _watched(self, policy: Known, stack: Stack) -> tuple[Watched, ...]:
        found = watched_of([policy], policy.library, self._conditions, stack)
        refuse_faults(found)
        return found

    def _refuse_outvoting(self, mandatory: Iterable[Known], chosen: Iterable[Known]) -> None:
        """Refuse a policy whose edits contradict those that every request is under."""
        held = [*self._merged, *(edited for policy in mandatory for edited in _acting(policy))]
        if not held:
            return
        for policy in mandatory:
            refuse_contradictions(policy.name, held)
        for policy in chosen:
            refuse_contradictions(policy.name, [*held, *_acting(policy)])


def watched_anywhere(bound: Mapping[Stacked, Bound]) -> dict[str, tuple[Watched, ...]]:
    """Return what each policy watches, under the first list of mandatory ones that has it."""
    found: dict[str, tuple[Watched, ...]] = {}
    for one in reversed(list(bound.values())):
        found |= one.watched
    return found


def _strength(policy: Known) -> float:
    return policy.spec.strength.default


def _acting(policy: Known) -> list[Edited]:
    """Return the edit sets of a policy that is enforced."""
    if policy.spec.mode != "enforce":
        return []
    return edits_of(policy.name, policy.spec.edits, policy.library)
