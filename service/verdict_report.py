"""What monitors in shadow would have done, beside what enforced ones did, over decision records.

A choice of an answer is what is counted: that is what a verdict ends.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 5
"""Requests named for each way to differ."""


@dataclass(slots=True)
class Use:
    """One monitor as one revision of a policy uses it, in one mode.

    Attributes:
        policy: ``name@revision``.
        monitor: As answers name it.
        mode: ``shadow`` or ``enforce``.
        do: What the policy asks for when it fires.
        choices: Choices that it watched.
        fired: Those at which it fired.
        acted: Those at which it did what it is to do; none in shadow.
        faults: Those at which it could not be trusted.
        agreed: In shadow: fired, and an enforced monitor acted.
        alone: In shadow: fired, and no enforced monitor acted.
        missed: In shadow: did not fire, and an enforced monitor acted.
        examples: Requests by the two ways to differ.
    """

    policy: str
    monitor: str
    mode: str
    do: str
    choices: int = 0
    fired: int = 0
    acted: int = 0
    faults: int = 0
    agreed: int = 0
    alone: int = 0
    missed: int = 0
    examples: dict[str, list[str]] = field(default_factory=lambda: {"alone": [], "missed": []})

    def add(self, request: str, verdict: Mapping[str, Any], enforced: bool) -> None:
        """Count a choice; ``enforced`` is whether another monitor acted on it."""
        fired = bool(verdict["fired"])
        self.choices += 1
        self.fired += fired
        self.acted += _acted(verdict)
        self.faults += verdict["fault"] is not None
        if self.mode != "shadow":
            return
        self.agreed += fired and enforced
        self.alone += fired and not enforced
        self.missed += enforced and not fired
        if fired != enforced:
            named = self.examples["alone" if fired else "missed"]
            if request not in named and len(named) < EXAMPLES:
                named.append(request)

    def shown(self) -> dict[str, Any]:
        """Return it as JSON values; shadow's comparison only where it is one."""
        plain = {
            name: getattr(self, name)
            for name in ("policy", "monitor", "mode", "do", "choices", "fired", "acted", "faults")
        }
        if self.mode != "shadow":
            return plain
        compared = {name: getattr(self, name) for name in ("agreed", "alone", "missed")}
        return plain | compared | {"examples": self.examples}


def uses_of(records: Iterable[Mapping[str, Any]]) -> list[Use]:
    """Return how each monitor fared over decision records, by policy, monitor and mode.

    Args:
        records: As ``GET decisions`` lists them; the server's own probes do not count.
    """
    found: dict[tuple[str, str, str], Use] = {}
    for record in records:
        if record.get("probe") is not None:
            continue
        for choice in record["choices"]:
            verdicts: Mapping[str, Mapping[str, Any]] = choice["verdicts"]
            acting = [name for name, verdict in verdicts.items() if _acted(verdict)]
            for name, verdict in verdicts.items():
                key = (verdict["policy"], name, verdict["mode"])
                use = found.setdefault(key, Use(*key, do=verdict["do"]))
                use.add(record["request"], verdict, any(other != name for other in acting))
    return [found[key] for key in sorted(found)]


def _acted(verdict: Mapping[str, Any]) -> bool:
    return verdict["action"] not in ("none", "pass")
