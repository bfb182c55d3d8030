"""Prometheus metrics of how the server stands: engine, bundle, directory, monitors, canaries."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Gauge

from service.api.labels import Labels, StateGauge
from service.catalog import Catalog
from service.drift import Drift
from service.drift import Use as Pair
from service.watch import Watched

DIGITS = 12
"""Of a digest, in hexadecimal: what a float holds exactly."""


class StateMetrics:
    """All of them, on one registry; each is set to what it is at the moment."""

    def __init__(self, registry: CollectorRegistry, labels: Labels, is_shared: bool) -> None:
        """Register."""
        self._labels = labels
        self._engine_up = Gauge(
            "trimtab_engine_up",
            "1 if the engine lives, else 0.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._ready = Gauge(
            "trimtab_ready",
            "1 if requests are served, as /readyz says, else 0.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._digest = Gauge(
            "trimtab_bundle_digest",
            "The first 12 digits of the digest of all that is active, as a number: servers of one "
            "store agree on it.",
            registry=registry,
            multiprocess_mode="liveall",
        )
        self._reloaded = Gauge(
            "trimtab_directory_last_reload_timestamp_seconds",
            "When the policy directory was last taken over, Unix time.",
            registry=registry,
            multiprocess_mode="livemin",
        )

        def gauge(name: str, text: str, *names: str) -> StateGauge:
            return StateGauge(registry, name, text, names, is_shared=is_shared)

        pair = ("monitor", "policy")
        self._fpr = gauge(
            "monitor_target_fpr", "The false-positive rate that a use of a monitor asks for.", *pair
        )
        self._fit = gauge(
            "monitor_fit", "1 if a monitor can be trusted where its policy applies, else 0.", *pair
        )
        self._enforced = gauge(
            "monitor_enforced", "1 if a monitor acts, 0 if it is in shadow.", *pair
        )
        self._share = gauge(
            "canary_share", "The share that a canary's policy has; 0 once it is ended.", "binding"
        )
        self._halted = gauge("canary_halted", "1 if a canary was ended, else 0.", "binding")
        self._psi = StateGauge(
            registry,
            "monitor_drift_psi",
            "Population stability index of recent scores against those of calibration.",
            pair,
            is_shared=is_shared,
            mode="livemax",
        )
        self._psi_scores = StateGauge(
            registry,
            "monitor_drift_scores",
            "How many recent scores the index rests on.",
            pair,
            is_shared=is_shared,
            mode="livemin",
        )

    def serving(self, engine: bool, ready: bool) -> None:
        """Say whether the engine lives and whether requests are served."""
        self._engine_up.set(engine)
        self._ready.set(ready)

    def reloaded(self) -> None:
        """Say that the policy directory has just been taken over."""
        self._reloaded.set_to_current_time()

    def active(self, catalog: Catalog, watched: Iterable[Watched]) -> None:
        """Show what is active; ``watched`` are the uses of monitors where each policy applies."""
        self._digest.set(int(catalog.digest[:DIGITS] or "0", 16))
        uses = [((w.monitor, w.policy_name), w) for w in watched]
        self._fit.replace(self._pairs(((use, w.fault is None) for use, w in uses), min))
        self._enforced.replace(self._pairs(((use, w.mode == "enforce") for use, w in uses), max))
        self._fpr.replace(self._pairs(_targets(catalog), min))
        declared = [b for b in catalog.bindings.all if b.spec.canary is not None]
        kept = {(self._labels.binding(b.name),): b for b in declared}
        self._share.replace({name: b.canary.share if b.canary else 0.0 for name, b in kept.items()})
        self._halted.replace({name: float(b.halted is not None) for name, b in kept.items()})

    def drift(self, found: Mapping[Pair, Drift]) -> None:
        """Show how far scores have moved."""
        self._psi.replace(self._pairs(((use, d.psi) for use, d in found.items()), max))
        self._psi_scores.replace(self._pairs(((use, d.scores) for use, d in found.items()), min))

    def _pairs(
        self, values: Iterable[tuple[Pair, float]], worst: Callable[[float, float], float]
    ) -> dict[tuple[str, ...], float]:
        """Return values by their labels; where several have the same ones, the worst of them."""
        found: dict[tuple[str, ...], float] = {}
        for use, value in values:
            pair = self._labels.pair(*use)
            found[pair] = worst(found.get(pair, float(value)), float(value))
        return found


def _targets(catalog: Catalog) -> Iterable[tuple[Pair, float]]:
    return (
        ((name, policy.name), use.fpr)
        for policy in catalog.policies.values()
        for name, use in policy.spec.monitors.items()
        if use.fpr is not None and use.mode != "off" and policy.spec.mode != "off"
    )
