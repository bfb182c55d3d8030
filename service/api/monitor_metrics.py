"""Prometheus metrics of monitors; labels are names of policies and monitors, and fixed words.

Scores are counted as rarity (−log10 of the benign exceedance), so that one bucket layout fits all.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram

from service.api.labels import Labels
from service.drift import RecentScores
from service.verdicts import Verdict

RARITY_BUCKETS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)
TOKEN_BUCKETS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
HOLD_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class MonitorMetrics:
    """All of them, on one registry."""

    def __init__(self, registry: CollectorRegistry, labels: Labels | None = None) -> None:
        """Register; ``labels`` bounds the names."""
        self._labels = labels or Labels()
        self.recent = RecentScores()
        self._score = Histogram(
            "trimtab_monitor_score",
            "Rarity of a request's score among benign requests: 2 is one in 100.",
            ("monitor", "policy", "stage"),
            buckets=RARITY_BUCKETS,
            registry=registry,
        )
        self._verdicts = Counter(
            "trimtab_monitor_verdicts",
            "Choices by what a monitor decided (fired, quiet, fault) and what was done.",
            ("monitor", "policy", "mode", "action", "outcome"),
            registry=registry,
        )
        self._faults = Counter(
            "trimtab_monitor_faults",
            "Choices on which a monitor was unfit, by reason.",
            ("monitor", "policy", "mode", "reason"),
            registry=registry,
        )
        self._first = Histogram(
            "trimtab_monitor_first_alert_token",
            "Token of the answer at which a monitor fired; verdicts in the prompt count as 0.",
            ("monitor", "policy"),
            buckets=TOKEN_BUCKETS,
            registry=registry,
        )
        self._scored = Counter(
            "trimtab_monitor_tokens_scored",
            "Tokens that were owed a score and have one.",
            ("monitor", "policy"),
            registry=registry,
        )
        self._unscored = Counter(
            "trimtab_monitor_tokens_unscored",
            "Tokens that were owed a score and have none, by reason.",
            ("monitor", "policy", "reason"),
            registry=registry,
        )
        self._hold = Histogram(
            "trimtab_monitor_hold_seconds",
            "How long generated tokens waited for their scores.",
            ("policy",),
            buckets=HOLD_BUCKETS,
            registry=registry,
        )
        self._channel = Counter(
            "trimtab_score_messages_lost",
            "Score messages lost between worker and server.",
            registry=registry,
        )
        self._events = Counter(
            "trimtab_events_dropped",
            "Events that were not written: the queue was full.",
            registry=registry,
        )
        self._recomputed = Counter(
            "trimtab_prefix_tokens_recomputed",
            "Prompt tokens computed without the prefix cache, as a monitor or a gate needs them.",
            registry=registry,
        )

    def verdict(self, verdict: Verdict) -> None:
        """Count one monitor's verdict on one choice, and keep its score for a while."""
        self.recent.note(verdict)
        monitor, policy = self._labels.pair(verdict.monitor, verdict.policy.partition("@")[0])
        outcome = "fired" if verdict.fired else "fault" if verdict.fault else "quiet"
        self._verdicts.labels(monitor, policy, verdict.mode, verdict.action, outcome).inc()
        if verdict.fault is not None:
            self._faults.labels(monitor, policy, verdict.mode, verdict.fault).inc()
        if verdict.rarity is not None:
            self._score.labels(monitor, policy, verdict.stage).observe(verdict.rarity)
        if verdict.fired and verdict.token is not None:
            self._first.labels(monitor, policy).observe(max(0, verdict.token))
        self._scored.labels(monitor, policy).inc(verdict.scored)
        for reason, count in verdict.unscored.items():
            self._unscored.labels(monitor, policy, reason).inc(count)

    def held(self, policy: str, seconds: float) -> None:
        """Count how long a token was held."""
        self._hold.labels(self._labels.policy(policy)).observe(seconds)

    def recomputed(self, tokens: int) -> None:
        """Count prompt tokens that the prefix cache was not asked for."""
        self._recomputed.inc(tokens)

    def channel(self, dropped: int) -> None:
        """Count lost score messages."""
        self._channel.inc(dropped)

    def event_dropped(self) -> None:
        """Count an event that was not written."""
        self._events.inc()
