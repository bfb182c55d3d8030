"""What is watched of a request: a policy's monitors, with the thresholds that hold for it.

A calibration holds for the writes that can reach the monitor's site, and those depend on all
policies of a request together. What does not hold is a fault, which the use's ``on_error`` decides.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from forward.program import EMPTY, Program
from monitors.binding import Binding
from monitors.calibration import Calibration
from monitors.plan import MonitorPlan
from service.calibrated import calibrate_hint, find_calibration, threshold_of
from service.entry import CompileError, NamedPolicy
from service.library import Library
from service.prompting import Conditions
from service.schemas import Action, MonitorUse, OnError, PolicySpec
from service.writes import Stack

NOTHING_WRITTEN = Stack(EMPTY)

DEFAULT_REFUSAL = "I can't help with that."
"""What replaces an answer when the policy gives no text of its own."""


@dataclass(frozen=True, eq=False)
class Watched:
    """One monitor as one policy uses it, for one request.

    Attributes:
        policy: ``name@revision``.
        policy_name: The policy's name.
        monitor: The monitor's name.
        mode: ``enforce`` or ``shadow``; in a policy in shadow all are in shadow.
        do: What is done when it fires, in ``enforce``.
        on_error: What a fault does, in ``enforce``: ``block`` or ``pass``.
        plan: What is read and how it is pooled.
        threshold: It fires above this score; None when there is none to trust.
        calibration: The calibration that holds for the request, for thresholds and rarity.
        refusal: The text that replaces a refused answer.
        fault: Why it is unfit for this request, if it is.
        fault_kind: What metrics and events call that fault.
        captures: Whether its events keep the prompt's text.
        gates: Whether some steering of the policy acts only where it opens a gate.
    """

    policy: str
    policy_name: str
    monitor: str
    mode: str
    do: Action
    on_error: OnError
    plan: MonitorPlan
    threshold: float | None
    calibration: Calibration | None
    refusal: str
    fault: str | None = None
    fault_kind: str = "calibration"
    captures: bool = False
    gates: bool = False


def watched_of(
    policies: Iterable[NamedPolicy],
    library: Library,
    conditions: Conditions,
    stack: Stack = NOTHING_WRITTEN,
    label: str | None = None,
) -> tuple[Watched, ...]:
    """Return what policies watch under a stack, in their order; what is off is left out.

    Args:
        policies: Policies that compile under ``conditions``.
        library: What they name.
        conditions: The model and how text becomes its tokens.
        stack: All that writes to the residual of the request.
        label: ``name@revision``; the name where it is not known.
    """
    return tuple(
        _watched(policy, name, use, library, conditions, stack, label or policy.name)
        for policy in policies
        if policy.spec.mode != "off"
        for name, use in policy.spec.monitors.items()
        if use.mode != "off"
    )


def is_enforced(spec: PolicySpec, use: MonitorUse) -> bool:
    """Whether a use of a monitor acts: both the policy and the use are in enforce."""
    return spec.mode == "enforce" and use.mode == "enforce"


def refuse_faults(watched: Iterable[Watched]) -> None:
    """Refuse to enforce a monitor that is unfit.

    Raises:
        CompileError: Names the policy and the monitor, and says which command helps.
    """
    for one in watched:
        if one.mode == "enforce" and one.fault is not None:
            raise CompileError(
                one.policy_name,
                f"spec.monitors.{one.monitor}.mode",
                f"cannot enforce: {one.fault}; {calibrate_hint(one.monitor)}, or set mode: shadow",
            )


def stack_fault(
    watched: Watched, operator: Program, client: Program = EMPTY, strength: float = 1.0
) -> str | None:
    """Return why a calibration does not hold for the writes of a request; None if it does.

    Args:
        watched: The monitor with the calibration it was given when its policy was applied.
        operator: The mandatory policies' program.
        client: The chosen policy's program.
        strength: The request's strength.
    """
    if watched.calibration is None:
        return watched.fault
    writes = Stack(operator, client, strength).writes(watched.plan.reader.point)
    different = watched.calibration.mismatch(writes=writes)
    return f"the calibration does not hold under this request: {different}" if different else None


def under_stack(watched: Watched, stack: Stack) -> Watched:
    """Return a use with the fault that a request's stack gives it."""
    fault = stack_fault(watched, stack.operator, stack.client, stack.strength)
    return replace(watched, fault=fault)


def under_adapter(watched: Watched, adapter: str) -> Watched:
    """Return a use for a request to an adapter: it moves what is read, so no calibration holds.

    Its threshold stays: a safeguard that is let through with a fault still acts above it.
    """
    fault = f"adapter '{adapter}' changes what the monitor reads, and no calibration is bound to it"
    return replace(watched, calibration=None, fault=fault, fault_kind="adapter")


def _watched(
    policy: NamedPolicy,
    name: str,
    use: MonitorUse,
    library: Library,
    conditions: Conditions,
    stack: Stack,
    label: str,
) -> Watched:
    plan = library.monitors[name].plan
    binding = conditions.binding(plan.digest, stack.writes(plan.reader.point))
    found, fault = _calibration(name, use, library, binding, is_enforced(policy.spec, use))
    threshold = use.above
    if use.fpr is not None and found is not None:
        threshold, fault = threshold_of(found, use.fpr, "request")
    return Watched(
        policy=label,
        policy_name=policy.name,
        monitor=name,
        mode="enforce" if is_enforced(policy.spec, use) else "shadow",
        do=use.do,
        on_error=use.on_error,
        plan=plan,
        threshold=threshold,
        calibration=found,
        refusal=policy.spec.refusal or DEFAULT_REFUSAL,
        gates=any(s.when is not None and s.when.monitor == name for s in policy.spec.steer),
        fault=fault,
        captures=policy.spec.capture,
    )


def _calibration(
    name: str, use: MonitorUse, library: Library, binding: Binding, enforced: bool
) -> tuple[Calibration | None, str | None]:
    """Return the calibration that holds, or why there is none where one is needed."""
    found, reason = find_calibration(name, library.calibrations, binding)
    if found is not None:
        return found.content, None
    return None, reason if enforced or use.fpr is not None else None
