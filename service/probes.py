"""Probes: prompts that a monitor is known to fire on, or not, which the server asks itself.

Traffic cannot show that a monitor has gone silent, since nothing may be there to fire on. A probe
goes the way of any request, under the policy that uses the monitor, and no traffic counts it.
"""

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from service.catalog import Catalog, PolicyRevision
from service.library import Monitored
from service.monitor_schema import Asked, Probes
from service.report import RequestReport
from service.selection import Selection
from service.verdicts import Verdict

Kind = Literal["bad", "good"]
Outcome = Literal["fired", "quiet", "fault", "failed"]

PROBING: ContextVar[bool] = ContextVar("trimtab_probing", default=False)
"""Set around a probe; read where traffic is counted."""


@dataclass(frozen=True, slots=True)
class Use:
    """A monitor with probes, as one policy uses it.

    Attributes:
        monitor: The monitor's name.
        policy: The policy.
        probes: What is asked.
        reads_answer: Whether the monitor scores generated tokens.
        digest: What was probed; another one is probed at once.
    """

    monitor: str
    policy: PolicyRevision
    probes: Probes
    reads_answer: bool
    digest: str

    @property
    def key(self) -> tuple[str, str]:
        """Monitor and policy, by name."""
        return (self.monitor, self.policy.name)

    def asked(self) -> Iterator[tuple[Kind, Asked]]:
        """Return everything that is asked."""
        for asked in self.probes.bad:
            yield "bad", asked
        for asked in self.probes.good:
            yield "good", asked

    def body(self, model: str, asked: Asked) -> dict[str, Any]:
        """Return the request's body; greedy, and no longer than the monitor reads."""
        return {
            "model": model,
            "messages": _messages(asked),
            "temperature": 0,
            "max_tokens": self.probes.tokens if self.reads_answer else 1,
        }


def uses_of(catalog: Catalog, monitors: Mapping[str, Monitored]) -> list[Use]:
    """Return the uses that are to be probed: monitors with probes in policies, none of them off."""
    return [
        Use(
            name,
            policy,
            monitored.spec.probes,
            monitored.plan.reads_generation,
            f"{policy.digest} {monitored.digest}",
        )
        for name, monitored in monitors.items()
        if monitored.spec.probes is not None
        for policy in catalog.users_of(name)
        if policy.spec.mode != "off" and policy.spec.monitors[name].mode != "off"
    ]


def selection_of(catalog: Catalog, policy: PolicyRevision) -> Selection:
    """Return what a probe of a policy runs under.

    A mandatory policy is probed under the first binding that mandates it, the default one first;
    any other as the choice of a request under the default binding, whoever may choose it.
    """
    bindings = catalog.bindings.all
    mandating = next((b for b in bindings if policy.name in b.mandatory), None)
    binding = mandating or catalog.bindings.default
    mandatory = [catalog.policies[name] for name in binding.mandatory]
    return Selection(
        tuple(one for one in mandatory if one.spec.mode != "off"),
        policy if mandating is None else None,
        policy.spec.strength.default if mandating is None else 1.0,
        binding,
        binding.mandatory,
    )


def outcome_of(use: Use, report: RequestReport, status: int | None) -> Outcome:
    """Return what came of a probe; ``failed`` if the monitor never said anything."""
    verdict = _verdict(use, report)
    if status != 200 or verdict is None:
        return "failed"
    if verdict.fired:
        return "fired"
    return "fault" if verdict.fault is not None else "quiet"


def _messages(asked: Asked) -> list[dict[str, str]]:
    if isinstance(asked, str):
        return [{"role": "user", "content": asked}]
    return [{"role": said.role, "content": said.content} for said in asked]


def _verdict(use: Use, report: RequestReport) -> Verdict | None:
    verdicts = (v for choice in report.choices.values() for v in choice.verdicts)
    found = (
        v
        for v in verdicts
        if v.policy.partition("@")[0] == use.policy.name
        and v.monitor.rpartition("/")[2] == use.monitor
    )
    return next(found, None)
