"""Bounds on labels: names come from operators, and each one costs series for as long as we run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import CollectorRegistry, Gauge

OTHER = "other"
"""What stands for every name beyond the bound."""
MOST_NAMES = 64
"""Policies, monitors and bindings that have series of their own."""
MOST_PAIRS = 256
"""Uses of a monitor by a policy that have series of their own."""

Mode = Literal["mostrecent", "livesum", "livemin", "livemax", "liveall"]


@dataclass(eq=False)
class Labels:
    """Names that have been given to series: the first that came, up to a bound."""

    most_names: int = MOST_NAMES
    most_pairs: int = MOST_PAIRS
    _policies: set[str] = field(default_factory=set[str])
    _bindings: set[str] = field(default_factory=set[str])
    _monitors: set[str] = field(default_factory=set[str])
    _pairs: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    def policy(self, name: str) -> str:
        """Return the label of a policy."""
        return _kept(name, self._policies, self.most_names)

    def binding(self, name: str) -> str:
        """Return the label of a binding."""
        return _kept(name, self._bindings, self.most_names)

    def pair(self, monitor: str, policy: str) -> tuple[str, str]:
        """Return the labels of a monitor (its name, or ``policy/monitor``) and a policy."""
        name = monitor.rpartition("/")[2]
        pair = (_kept(name, self._monitors, self.most_names), self.policy(policy))
        if pair not in self._pairs and len(self._pairs) >= self.most_pairs:
            return (OTHER, OTHER)
        self._pairs.add(pair)
        return pair


def _kept(name: str, known: set[str], most: int) -> str:
    if name not in known and len(known) >= most:
        return OTHER
    known.add(name)
    return name


class StateGauge:
    """A gauge whose series are replaced as a whole: what is no more has none, or says nothing.

    Where processes share files a series cannot be taken back; it becomes no number, which every
    comparison of a rule is false for.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        text: str,
        labels: tuple[str, ...],
        *,
        is_shared: bool,
        mode: Mode = "mostrecent",
    ) -> None:
        """Register; ``mode`` is how several processes' values become one."""
        self._gauge = Gauge(
            f"trimtab_{name}", text, labels, registry=registry, multiprocess_mode=mode
        )
        self._is_shared = is_shared
        self._shown: set[tuple[str, ...]] = set()

    def replace(self, values: Mapping[tuple[str, ...], float]) -> None:
        """Show these and no others."""
        for gone in self._shown - values.keys():
            if self._is_shared:
                self._gauge.labels(*gone).set(math.nan)
            else:
                self._gauge.remove(*gone)
        for labels, value in values.items():
            self._gauge.labels(*labels).set(value)
        self._shown = set(values)
