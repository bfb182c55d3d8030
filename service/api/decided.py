"""What is recorded of a request that ran under policies: names, figures and verdicts, no text."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.api.requests import Asked
from service.callers import Caller
from service.catalog import PolicyRevision
from service.decisions import Decision
from service.engine.lease import Lease
from service.records import now
from service.report import RequestReport


@dataclass(frozen=True, eq=False)
class Deciding:
    """A request under way.

    Attributes:
        request: Our name of it.
        answer: Its client's.
        route: The path.
        caller: Whose it is.
        asked: What it asked of us.
        lease: What it runs under.
        generation: Number of the snapshot that it was selected from.
        merged: Labels of the edits in the weights.
        at: When it came, UTC.
        started: The same by ``time.monotonic()``.
        probe: Which monitor the server probed by it, and by what; None for a client's.
    """

    request: str
    answer: str
    route: str
    caller: Caller
    asked: Asked
    lease: Lease
    generation: int
    merged: tuple[str, ...] = ()
    at: str = field(default_factory=now)
    started: float = field(default_factory=time.monotonic)
    probe: Mapping[str, str] | None = None

    def seconds(self) -> float:
        """Return how long ago the request came."""
        return round(time.monotonic() - self.started, 3)

    def decision(
        self, report: RequestReport, status: int | None, outcome: str, seconds: float
    ) -> Decision:
        """Return the record of the request, which is over.

        Args:
            report: What was found.
            status: Of the answer; None if none was begun.
            outcome: ``served``, ``refused``, ``failed`` or ``aborted``.
            seconds: From the request to the end of its answer.
        """
        record = self._chosen() | {
            "adapters": sorted(report.adapters),
            "status": status,
            "outcome": outcome,
            "seconds": seconds,
            "choices": choices_of(report),
            "probe": dict(self.probe) if self.probe is not None else None,
        }
        key, policies = self.caller.key or None, self.lease.policies
        return Decision(self.request, self.answer, self.at, key, policies, record)

    def _chosen(self) -> dict[str, Any]:
        selection = self.asked.selection
        chosen = selection.chosen
        sources = [(policy, "operator") for policy in selection.mandatory]
        sources += [(chosen, "client")] if chosen is not None else []
        return {
            "caller": {
                "key": self.caller.key or None,
                "name": self.caller.name,
                "tenant": self.caller.tenant,
            },
            "binding": selection.binding.label,
            "canary": selection.side,
            "generation": self.generation,
            "policies": [_policy(policy, source) for policy, source in sources],
            "strength": selection.strength if chosen is not None else None,
            "digest": self.lease.digest,
            "merged": list(self.merged),
            "route": self.route,
            "stream": self.asked.fields.get("stream") is True,
        }


def choices_of(report: RequestReport) -> list[dict[str, Any]]:
    """Return what became of each choice: why it ended, and what monitors found."""
    numbers = sorted({*report.choices, *report.finishes})
    return [_choice(report, number) for number in numbers]


def _choice(report: RequestReport, number: int) -> dict[str, Any]:
    shown: dict[str, Any] = {"index": number, "finish": report.finishes.get(number)}
    found = report.choices.get(number)
    if found is None:
        return shown | {"verdicts": {}}
    return shown | {
        "prompt_tokens": found.prompt_length,
        "generated": found.generated,
        "verdicts": {v.monitor: v.shown() for v in found.verdicts},
    }


def _policy(policy: PolicyRevision, source: str) -> dict[str, Any]:
    return {
        "policy": policy.label,
        "digest": policy.digest,
        "mode": policy.spec.mode,
        "source": source,
    }
