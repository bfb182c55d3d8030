"""Where decided choices go: counted in metrics, and written as events."""

from service.api.metrics import Metrics
from service.digest import canonical_json
from service.events import Event, EventLog
from service.probes import PROBING
from service.records import now
from service.report import ChoiceReport
from service.trace import Trace
from service.verdicts import Verdict, finite

MAX_NAME = 256
"""Characters kept of a request's name."""


class Observer:
    """The sink of a server; of its own probes it hears nothing."""

    def __init__(self, metrics: Metrics, log: EventLog) -> None:
        """Count in ``metrics``, write to ``log``."""
        self._metrics, self._log = metrics, log

    def decided(self, choice: ChoiceReport) -> None:
        """Count each verdict; write those that fired or failed."""
        if PROBING.get():
            return
        for verdict in choice.verdicts:
            self._metrics.monitors.verdict(verdict)
        self._log.put(events_of(choice))

    def held(self, policy: str, seconds: float) -> None:
        """Count how long tokens waited for their scores."""
        if not PROBING.get():
            self._metrics.monitors.held(policy, seconds)

    def recomputed(self, tokens: int) -> None:
        """Count prompt tokens that were computed though the cache may have had them."""
        if not PROBING.get():
            self._metrics.monitors.recomputed(tokens)

    def channel(self, dropped: int) -> None:
        """Count score messages that were lost between worker and server."""
        self._metrics.monitors.channel(dropped)


def events_of(choice: ChoiceReport) -> list[Event]:
    """Return the events of a decided choice."""
    return [_event(choice, verdict) for verdict in choice.verdicts if verdict.is_eventful]


def _event(choice: ChoiceReport, verdict: Verdict) -> Event:
    return Event(
        at=now(),
        request=_kept(choice.answer)[:MAX_NAME],
        choice=choice.index,
        policy=verdict.policy,
        monitor=verdict.monitor,
        mode=verdict.mode,
        do=verdict.do,
        action=verdict.action,
        fired=verdict.fired,
        score=finite(verdict.score),
        threshold=verdict.threshold,
        rarity=finite(verdict.rarity),
        position=verdict.position,
        token=verdict.token,
        coverage=verdict.coverage,
        fault=verdict.fault,
        text=_kept(choice.captured) if verdict.captures and choice.captured is not None else None,
        trace=_trace(choice.trace) if verdict.captures and choice.trace is not None else None,
    )


def _trace(trace: Trace) -> str:
    return canonical_json(trace.shown()).replace(r"\u0000", "")


def _kept(text: str) -> str:
    """Return what every store can keep of a text; clients choose the tail of a request's name."""
    return text.replace("\0", "")
