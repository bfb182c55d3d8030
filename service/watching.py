"""What each request watches: the active policies' monitors under the request's own stack."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from forward.program import EMPTY
from service.bindings import Stacked
from service.bound import Bound
from service.catalog import PolicyRevision
from service.desired import Desired
from service.library import Library
from service.prompting import Conditions
from service.schemas import PolicySpec
from service.selection import Selection
from service.watch import Watched, under_stack, watched_of
from service.writes import Stack

MOST = 1024
"""Stacks remembered: a policy under a choice and a strength each."""


@dataclass(frozen=True, slots=True)
class _Named:
    name: str
    spec: PolicySpec


class Watching:
    """What is watched while one set of policies is active."""

    def __init__(self, conditions: Conditions, desired: Desired | None = None) -> None:
        """Watch what ``desired`` watches, or nothing."""
        self._conditions = conditions
        self._bound: Mapping[Stacked, Bound] = desired.bound if desired is not None else {}
        self.libraries: Mapping[str, Library] = desired.libraries if desired is not None else {}
        self.applied: Mapping[str, tuple[Watched, ...]] = (
            desired.watched if desired is not None else {}
        )
        self.calibrations = desired.calibrations if desired is not None else ()
        # A stack is checked once, not for each request.
        self._found = lru_cache(maxsize=MOST)(self._under)

    def request(self, selection: Selection) -> tuple[Watched, ...]:
        """Return what a request watches: the mandatory policies' first, then the chosen one's."""
        chosen = selection.chosen.name if selection.chosen is not None else None
        bound = self._bound[selection.stack] if self._bound else Bound()
        return tuple(
            watched
            for policy in selection.policies
            if bound.watched.get(policy.name)
            for watched in self._found(selection.stack, policy, chosen, selection.strength)
        )

    def _under(
        self, mandatory: Stacked, policy: PolicyRevision, chosen: str | None, strength: float
    ) -> tuple[Watched, ...]:
        bound = self._bound[mandatory]
        client = bound.policies.get(chosen, EMPTY) if chosen is not None else EMPTY
        stack = Stack(bound.seen, client, strength)
        return tuple(
            replace(self._one(policy, watched, stack), policy=policy.label)
            for watched in bound.watched[policy.name]
        )

    def _one(self, policy: PolicyRevision, applied: Watched, stack: Stack) -> Watched:
        """Return one use under a stack, by another calibration of the monitor if one holds.

        Not where a gate compares by false-positive rate: its threshold is in the tables already.
        """
        if gates_by_rate(policy.spec, applied.monitor):
            return under_stack(applied, stack)
        use = {applied.monitor: policy.spec.monitors[applied.monitor]}
        only = _Named(policy.name, policy.spec.model_copy(update={"monitors": use}))
        [found] = watched_of([only], self.libraries[policy.name], self._conditions, stack)
        return found


def gates_by_rate(spec: PolicySpec, monitor: str) -> bool:
    """Whether an entry of a policy waits for a monitor by a false-positive rate."""
    whens = [steer.when for steer in spec.steer if steer.when is not None]
    return any(when.monitor == monitor and when.fpr is not None for when in whens)
