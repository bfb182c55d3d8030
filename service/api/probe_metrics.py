"""Prometheus metrics of probes: what monitors said of prompts that they are known to fire on."""

import time
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter

from service.api.labels import Labels, StateGauge
from service.probes import Kind, Outcome, Use

_PAIR = ("monitor", "policy")


class ProbeMetrics:
    """All of them, on one registry."""

    def __init__(self, registry: CollectorRegistry, labels: Labels, is_shared: bool) -> None:
        """Register."""
        self._labels = labels
        self._probes = Counter(
            "trimtab_probes",
            "Probes by what the monitor said: fired, quiet, fault; failed where it said nothing.",
            (*_PAIR, "kind", "outcome"),
            registry=registry,
        )

        def gauge(name: str, text: str, *more: str) -> StateGauge:
            return StateGauge(registry, name, text, (*_PAIR, *more), is_shared=is_shared)

        self._fired = gauge(
            "probe_fired", "Share of the last round's probes on which the monitor fired.", "kind"
        )
        self._at = gauge(
            "probe_last_round_timestamp_seconds", "When the last round ended, Unix time."
        )
        self._every = gauge("probe_interval_seconds", "How often a round is due.")
        self._shares: dict[tuple[str, str], Mapping[Kind, float]] = {}
        self._times: dict[tuple[str, str], float] = {}

    def asked(self, use: Use, kind: Kind, outcome: Outcome) -> None:
        """Count a probe."""
        self._probes.labels(*self._labels.pair(*use.key), kind, outcome).inc()

    def round(self, use: Use, shares: Mapping[Kind, float]) -> None:
        """Keep the shares that fired in a round that has just ended."""
        self._shares[use.key], self._times[use.key] = shares, time.time()

    def show(self, uses: Iterable[Use]) -> None:
        """Show the last round of each use there is, and of no other.

        A use that has had no round yet was last asked at the time when it was first shown.
        """
        kept = {use.key: use for use in uses}
        for key in kept:
            self._times.setdefault(key, time.time())
        for gone in self._times.keys() - kept.keys():
            del self._times[gone]
            self._shares.pop(gone, None)
        pairs = {key: self._labels.pair(*key) for key in kept}
        self._every.replace({pairs[key]: use.probes.every_seconds for key, use in kept.items()})
        self._at.replace({pairs[key]: self._times[key] for key in kept})
        self._fired.replace(
            {
                (*pairs[key], kind): share
                for key, shares in self._shares.items()
                for kind, share in shares.items()
            }
        )
