"""What is counted of a canary's requests, and the rule that ends it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from service.binding_schema import Rule
from service.bindings import BindingRevision, canary_digest
from service.report import RequestReport
from service.selection import Selection, Side
from service.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one request, as rules see it."""

    fired: frozenset[str] = frozenset()
    faults: frozenset[str] = frozenset()
    ended: bool = False
    failed: bool = False

    @classmethod
    def of(cls, report: RequestReport, outcome: str) -> "Outcome":
        """Return it from what monitors said and how the request went."""
        verdicts = [v for choice in report.choices.values() for v in choice.verdicts]
        return cls(
            _monitors(v for v in verdicts if v.fired),
            _monitors(v for v in verdicts if v.fault is not None),
            any(v.ended for v in verdicts),
            outcome == "failed",
        )

    def counts(self, rule: Rule) -> bool:
        """Whether the request is one that a rule counts."""
        if rule.metric in ("fired", "fault"):
            found = self.fired if rule.metric == "fired" else self.faults
            return bool(found) if rule.monitor is None else rule.monitor in found
        return self.ended if rule.metric == "ended" else self.failed


@dataclass(slots=True)
class Tally:
    """Requests on one side of a canary, and how many each rule counted."""

    requests: int = 0
    counted: list[int] = field(default_factory=list[int])

    def add(self, outcome: Outcome, rules: tuple[Rule, ...]) -> None:
        """Count a request."""
        self.requests += 1
        self.counted = self.counted or [0] * len(rules)
        for index, rule in enumerate(rules):
            self.counted[index] += outcome.counts(rule)

    def share(self, index: int) -> float:
        """Return the share of requests that a rule counted."""
        return self.counted[index] / self.requests if self.counted else 0.0


class Canaries:
    """Counts by canary and side, from the server's start on; one event loop."""

    def __init__(self) -> None:
        """Count nothing yet."""
        self._tallies: dict[tuple[str, Side], Tally] = defaultdict(Tally)

    def note(self, selection: Selection, outcome: Outcome) -> str | None:
        """Count a request; return why its canary is to end, if a rule now says so."""
        canary = selection.binding.canary
        if canary is None or selection.side is None:
            return None
        key = canary_digest(selection.binding.name, canary)
        tally = self._tallies[key, selection.side]
        tally.add(outcome, canary.rollback)
        if selection.side == "stable":
            return None
        return next(
            filter(None, (_broken(tally, i, r) for i, r in enumerate(canary.rollback))), None
        )

    def shown(self, binding: BindingRevision) -> dict[str, Any] | None:
        """Return a binding's canary with its counts, as JSON values."""
        canary = binding.spec.canary
        if canary is None:
            return None
        digest = canary_digest(binding.name, canary)
        return {
            "binding": binding.name,
            "digest": digest,
            "policy": canary.policy,
            "replaces": canary.replaces,
            "share": canary.share,
            "by": canary.by,
            "halted": binding.halted,
            "requests": {side: self._tallies[digest, side].requests for side in _SIDES},
            "rules": [self._rule(digest, i, rule) for i, rule in enumerate(canary.rollback)],
        }

    def _rule(self, digest: str, index: int, rule: Rule) -> dict[str, Any]:
        return {
            **rule.model_dump(mode="json", exclude_none=True),
            "share": {side: self._tallies[digest, side].share(index) for side in _SIDES},
        }


_SIDES: tuple[Side, ...] = ("canary", "stable")


def _broken(tally: Tally, index: int, rule: Rule) -> str | None:
    """Return what a rule says against a canary's requests, if there were enough of them."""
    share = tally.share(index)
    if tally.requests < rule.at_least or share <= rule.above:
        return None
    what = rule.metric if rule.monitor is None else f"{rule.metric} of {rule.monitor}"
    return (
        f"{what}: {tally.counted[index]} of {tally.requests} requests, {share:.3g}, is above "
        f"{rule.above:g}"
    )


def _monitors(verdicts: Iterable[Verdict]) -> frozenset[str]:
    return frozenset(verdict.monitor for verdict in verdicts)


def shown_canaries(
    canaries: Canaries, bindings: Iterable[BindingRevision]
) -> list[Mapping[str, Any]]:
    """Return every canary of some bindings with its counts."""
    return [found for b in bindings if (found := canaries.shown(b)) is not None]
