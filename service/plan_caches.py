"""Which cached tokens a change would leave behind.

A block of the KV cache is found by what was written to its tokens, so only that counts: a change
of a threshold, of a refusal's text or of a name forks nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from forward.program import EMPTY, Program
from service.active_set import ActiveSet
from service.binding_schema import DEFAULT, BindingSpec
from service.bindings import Stacked, check_bindings
from service.desired import Desired
from service.plan import CachePlan
from service.schemas import Binding, Policy, PolicySpec

_PROMPT = 2
"""How many of a program's contents are a prompt's: those of its tokens, and of its last one."""


@dataclass(frozen=True, slots=True)
class _Treatment:
    """What is written to the tokens of a request, in short."""

    prompts: tuple[object, ...]
    answers: tuple[object, ...]

    @classmethod
    def of(cls, operator: Program, client: Program, strength: float) -> "_Treatment":
        programs = (operator, client)
        by = strength if any(content.sites for content in client.contents) else None
        prompts = [c.digest for p in programs for c in p.contents[:_PROMPT]]
        answers = [(p.starts, c.digest) for p in programs for c in p.contents[_PROMPT:]]
        return cls((*prompts, by), (*answers, by))


@dataclass(frozen=True, slots=True)
class _Side:
    """Everything that requests can run under, before a change or after it."""

    stacks: Mapping[str, Stacked]
    operators: Mapping[Stacked, Program]
    programs: Mapping[tuple[Stacked, str], Program]
    policies: Mapping[str, PolicySpec]

    def treatment(self, binding: str, policy: str | None) -> _Treatment | None:
        """Return what a request gets; None if there is no such request."""
        if binding not in self.stacks or (policy is not None and policy not in self.policies):
            return None
        stack = self.stacks[binding]
        operator = self.operators.get(stack, EMPTY)
        if policy is None:
            return _Treatment.of(operator, EMPTY, 1.0)
        client = self.programs.get((stack, policy), EMPTY)
        return _Treatment.of(operator, client, self.policies[policy].strength.default)


def cache_plans(active: ActiveSet, desired: Desired) -> tuple[CachePlan, ...]:
    """Return the requests whose cached tokens would not be found again.

    A change of what is merged into the weights empties every cache, and is not told here. Of a
    canary's requests only those outside it are looked at.
    """
    specs = _specs(desired)
    old, new = _before(active), _after(desired, specs)
    found: list[CachePlan] = []
    for binding, spec in specs.items():
        for policy in (None, *_choices(spec, new.policies)):
            was, will = old.treatment(binding, policy), new.treatment(binding, policy)
            if was is not None and will is not None and was != will:
                forks = (was.prompts != will.prompts, was.answers != will.answers)
                found.append(CachePlan(binding, policy, *forks))
    return tuple(found)


def _before(active: ActiveSet) -> _Side:
    bindings = active.catalog.bindings.all
    return _Side(
        {binding.name: binding.mandatory for binding in bindings},
        {stack: slot.placement.program for stack, slot in active.operators.items()},
        {pair: slot.placement.program for pair, slot in active.policies.items()},
        {name: policy.spec for name, policy in active.catalog.policies.items()},
    )


def _after(desired: Desired, specs: Mapping[str, BindingSpec]) -> _Side:
    bound, policies = desired.bound, _policies(desired)
    return _Side(
        check_bindings(specs, policies),
        {stack: one.operator for stack, one in bound.items()},
        {(stack, name): p for stack, one in bound.items() for name, p in one.policies.items()},
        policies,
    )


def _specs(desired: Desired) -> dict[str, BindingSpec]:
    models = [(p.document.name, p.document.model) for p in desired.planned]
    return {DEFAULT: BindingSpec()} | {n: m.spec for n, m in models if isinstance(m, Binding)}


def _policies(desired: Desired) -> dict[str, PolicySpec]:
    models = [(p.document.name, p.document.model) for p in desired.planned]
    return {name: model.spec for name, model in models if isinstance(model, Policy)}


def _choices(spec: BindingSpec, policies: Mapping[str, PolicySpec]) -> list[str]:
    """Return the policies that a request under a binding can have chosen."""
    selectable = [name for name, policy in policies.items() if policy.selectable]
    names = {spec.policy, *(selectable if spec.choices is None else spec.choices)}
    return sorted(names & set(policies) - set(spec.mandatory))
