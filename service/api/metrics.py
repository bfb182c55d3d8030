"""Prometheus metrics named ``trimtab_*``, on vLLM's page.

Names of policies, monitors and bindings are the only label values that come from outside, and only
of active ones; they are bounded (``service.api.labels``).
Where a server has several processes each writes its part into files, and whichever is asked reads
all: counts are added up, and a gauge is that of the process that lags or lacks most.
"""

import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from service.api.labels import Labels, Mode
from service.api.monitor_metrics import MonitorMetrics
from service.api.probe_metrics import ProbeMetrics
from service.api.state_metrics import StateMetrics
from service.catalog import Catalog
from service.selection import Selection

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """All of them. Make one after vLLM has set up its registry, and one only in a process."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        """Register on ``registry``; the default one is what ``/metrics`` shows."""
        self.is_shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self._shown: set[tuple[str, ...]] = set()
        self._labels = labels = Labels()
        self._requests = Counter(
            "trimtab_requests",
            "Inference requests by policy ('none' without one) and outcome; a request counts once "
            "for each policy it ran under.",
            ("policy", "outcome"),
            registry=registry,
        )
        self._sides = Counter(
            "trimtab_canary_requests",
            "Requests that a canary concerns, by binding, side (canary, stable) and outcome.",
            ("binding", "side", "outcome"),
            registry=registry,
        )
        self._refusals = Counter(
            "trimtab_refusals",
            "Requests refused before they reached the engine, by reason.",
            ("code",),
            registry=registry,
        )
        self._decisions_dropped = Counter(
            "trimtab_decisions_dropped",
            "Decision records that found their queue full, or were not written before the end.",
            registry=registry,
        )
        self._info = _gauge(
            registry, "policy_info", "Active policies.", "name", "revision", "mode", "digest"
        )
        self._used = _gauge(registry, "table_used", "Table indices in use.", "table")
        self._draining = _gauge(
            registry, "draining_slots", "Replaced slots still held.", mode="livesum"
        )
        self._generation = _gauge(
            registry, "generation", "Number of the active snapshot.", mode="livemin"
        )
        self._directory_good = _gauge(
            registry,
            "directory_good",
            "1 if the policy directory is active as it is now, else 0.",
            mode="livemin",
        )
        self._store_up = _gauge(
            registry,
            "store_up",
            "1 if the store can be read and written, else 0.",
            mode="livemin",
        )
        self._changes = Counter(
            "trimtab_changes",
            "Changes of what is active, by source (api, directory) and outcome.",
            ("source", "outcome"),
            registry=registry,
        )
        self._seconds = Histogram(
            "trimtab_activation_seconds",
            "Time from a change asked for to its effect.",
            ("source",),
            buckets=_SECONDS,
            registry=registry,
        )

        self.monitors = MonitorMetrics(registry, labels)
        self.state = StateMetrics(registry, labels, self.is_shared)
        self.probes = ProbeMetrics(registry, labels, self.is_shared)

    def request(self, selection: Selection, outcome: str) -> None:
        """Count a request that ran under policies."""
        for name in [policy.name for policy in selection.policies] or ["none"]:
            self._requests.labels(self._labels.policy(name), outcome).inc()
        if selection.side is not None:
            binding = self._labels.binding(selection.binding.name)
            self._sides.labels(binding, selection.side, outcome).inc()

    def refusal(self, code: str) -> None:
        """Count a request that did not run."""
        self._refusals.labels(code).inc()

    def store_up(self, ok: bool) -> None:
        """Say whether the store can be read and written; called before a page is read."""
        self._store_up.set(ok)

    def decision_dropped(self) -> None:
        """Count a decision record that is not kept."""
        self._decisions_dropped.inc()

    @contextmanager
    def change(self, source: str) -> Generator[None, None, None]:
        """Count one change, and time it if it is applied; an exception counts as refused."""
        started, outcome = time.monotonic(), "refused"
        try:
            yield
            self._seconds.labels(source).observe(time.monotonic() - started)
            outcome = "applied"
            if source == "directory":
                self.state.reloaded()
        finally:
            self._changes.labels(source, outcome).inc()

    def refresh(self, catalog: Catalog, status: Mapping[str, Any]) -> None:
        """Set the gauges to what is active now; called before a page is read."""
        active = {
            (p.name, str(p.revision), p.spec.mode, p.digest[:12])
            for p in catalog.policies.values()
            if self._labels.policy(p.name) == p.name
        }
        if self.is_shared:  # a file keeps what it once had
            for labels in self._shown - active:
                self._info.labels(*labels).set(0)
        else:
            self._info.clear()
        for labels in active:
            self._info.labels(*labels).set(1)
        self._shown = active
        for table, count in status["capacity"]["used"].items():
            self._used.labels(table).set(count)
        self._draining.set(status["capacity"]["draining"])
        self._generation.set(catalog.generation)
        directory = status["directory"]
        self._directory_good.set(not directory["errors"] and directory["refused"] is None)


def _gauge(
    registry: CollectorRegistry, name: str, text: str, *labels: str, mode: Mode = "mostrecent"
) -> Gauge:
    return Gauge(f"trimtab_{name}", text, labels, registry=registry, multiprocess_mode=mode)
