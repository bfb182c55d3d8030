"""Canaries as they run: counts every request of one, ends it by its rule, and shows it."""

import asyncio
import logging

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.keys import caller_of
from service.canaries import Canaries, Outcome, shown_canaries
from service.catalog import CatalogError
from service.governor import REFUSED, Governor
from service.report import RequestReport
from service.selection import Selection

RULE = "canary rule"
"""Who ends a canary in the audit log when its own rule does."""

_log = logging.getLogger(__name__)


class CanaryWatch:
    """Counts requests, and ends the canary whose rule is broken; one event loop."""

    def __init__(self, governor: Governor) -> None:
        """Watch what ``governor`` binds."""
        self._governor, self.counts = governor, Canaries()
        self._ending: dict[str, asyncio.Task[None]] = {}

    def note(self, selection: Selection, report: RequestReport, outcome: str) -> None:
        """Count a request once it is over; never blocks and never raises."""
        reason = self.counts.note(selection, Outcome.of(report, outcome))
        name = selection.binding.name
        if reason is not None and name not in self._ending:
            self._ending[name] = asyncio.create_task(self._end(name, reason))

    async def settled(self) -> None:
        """Wait until no canary is being ended."""
        await asyncio.gather(*self._ending.values())

    async def _end(self, name: str, reason: str) -> None:
        """End a canary; where that fails, the next request that it has tries again."""
        try:
            await self._governor.halt(name, reason, actor=RULE)
            _log.warning("the canary of binding '%s' is rolled back: %s", name, reason)
        except CatalogError:
            pass  # somebody was faster
        except REFUSED as error:
            _log.error("the canary of binding '%s' is not rolled back: %s", name, error)
        finally:
            del self._ending[name]


class CanaryRoutes:
    """Handlers."""

    def __init__(self, governor: Governor, watch: CanaryWatch) -> None:
        """Answer for what ``governor`` binds and ``watch`` counts."""
        self._governor, self._watch = governor, watch

    async def all(self, request: Request) -> Response:
        """List every canary with what was counted on both of its sides, and how its rules stand."""
        bindings = self._governor.catalog.bindings.all
        return JSONResponse({"canaries": shown_canaries(self._watch.counts, bindings)})

    async def halt(self, request: Request) -> Response:
        """End the canary of a binding."""
        name, caller = request.path_params["name"], caller_of(request.scope)
        await self._governor.halt(name, f"ended by {caller.label}", actor=caller.label)
        bindings = [self._governor.catalog.bindings.by_name[name]]
        return JSONResponse(shown_canaries(self._watch.counts, bindings)[0])
