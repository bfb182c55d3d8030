"""What a server does beside answering: probes itself, follows drift, keeps its gauges true."""

import asyncio
import logging

from service.api.probing import Prober
from service.api.server import Server

DRIFT_SECONDS = 10.0
SHOW_SECONDS = 1.0

_log = logging.getLogger(__name__)


def refresh(server: Server) -> None:
    """Set the gauges to what is so now; called before a page of metrics is read."""
    governor, metrics = server.governor, server.metrics
    metrics.refresh(governor.catalog, governor.status())
    metrics.store_up(server.store.health.ok)
    metrics.state.serving(server.is_ready(), not server.unready())
    applied = governor.watching.applied.values()
    metrics.state.active(governor.catalog, [watched for uses in applied for watched in uses])


class Lookout:
    """Runs beside a server; one event loop."""

    def __init__(self, server: Server, prober: Prober) -> None:
        """Look after ``server``."""
        self._server, self.prober = server, prober

    async def run(self, is_first: bool = True) -> None:
        """Look out until cancelled; of several API processes only the first one asks probes."""
        work = [self._drift(), *([self.prober.run()] if is_first else [])]
        if self._server.governor.directory is not None:
            self._server.metrics.state.reloaded()
        if self._server.metrics.is_shared:
            work.append(self._show())
        tasks = [asyncio.create_task(one) for one in work]
        for task in tasks:
            task.add_done_callback(_tell)
        # One that breaks takes no other with it; an alert tells of probes that have stopped.
        await asyncio.gather(*tasks, return_exceptions=True)

    def drift(self) -> None:
        """Show how far scores have moved."""
        applied = self._server.governor.watching.applied.values()
        recent = self._server.metrics.monitors.recent
        self._server.metrics.state.drift(recent.found(w for uses in applied for w in uses))

    async def _drift(self) -> None:
        while True:
            self.drift()
            await asyncio.sleep(DRIFT_SECONDS)

    async def _show(self) -> None:
        """Keep what this process writes fresh: whichever is asked reads what all wrote."""
        while True:
            refresh(self._server)
            await asyncio.sleep(SHOW_SECONDS)


def _tell(task: asyncio.Task[None]) -> None:
    """Log what broke a task, at once."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("part of what looks after this server has ended", exc_info=error)
