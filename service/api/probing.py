"""Asks the server its own probes, through the handlers and the engine that serve its clients.

What a client could not choose is chosen here: the policy, whoever may use it. The rest is a request
like any other, under a lease of its own, with a decision record that says what it is.
"""

import asyncio
import logging
import uuid
from contextlib import suppress
from typing import Any

import httpx

from forward.tables import CapacityError
from service.api.decided import Deciding
from service.api.inside import Inside
from service.api.requests import Asked
from service.api.server import Server
from service.callers import PROBER
from service.engine.door import DoorError
from service.engine.lease import CURRENT_LEASE
from service.engine.slots import ActivationError
from service.errors import ServiceError
from service.probes import (
    PROBING,
    Kind,
    Outcome,
    Use,
    outcome_of,
    selection_of,
    uses_of,
)
from service.report import CURRENT_REPORT, RequestReport

ROUTE = "/v1/chat/completions"
LOOK_SECONDS = 1.0
VERDICT_SECONDS = 5.0
"""How long its verdict may come after its answer."""

_FAILURES = (ServiceError, ActivationError, CapacityError, DoorError, TimeoutError, httpx.HTTPError)

_log = logging.getLogger(__name__)


class Prober:
    """Runs what is due, one probe at a time; one event loop."""

    def __init__(self, inside: Inside, server: Server) -> None:
        """Ask ``inside`` what the monitors of ``server`` have to be asked."""
        self._inside, self._server = inside, server
        self._done: dict[tuple[str, str], tuple[str, float]] = {}

    async def run(self) -> None:
        """Ask whatever is due, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Ask what is due now; nothing while requests are not served."""
        uses = self._uses()
        kept = {use.key for use in uses}
        self._done = {key: done for key, done in self._done.items() if key in kept}
        self._server.metrics.probes.show(uses)
        for use in uses:
            if self._server.unready():
                return
            if self._is_due(use):
                await self._round(use)
                self._server.metrics.probes.show(self._uses())

    def _uses(self) -> list[Use]:
        governor = self._server.governor
        return uses_of(governor.catalog, governor.monitors)

    def _is_due(self, use: Use) -> bool:
        digest, at = self._done.get(use.key, ("", 0.0))
        return digest != use.digest or self._now() - at >= use.probes.every_seconds

    async def _round(self, use: Use) -> None:
        self._done[use.key] = (use.digest, self._now())
        said: dict[Kind, list[bool]] = {}
        for kind, asked in use.asked():
            outcome = await self._ask(use, kind, use.body(self._server.served_names[0], asked))
            self._server.metrics.probes.asked(use, kind, outcome)
            said.setdefault(kind, []).append(outcome == "fired")
        self._server.metrics.probes.round(
            use, {kind: sum(fired) / len(fired) for kind, fired in said.items()}
        )

    async def _ask(self, use: Use, kind: Kind, body: dict[str, Any]) -> Outcome:
        """Return what the monitor said; whatever goes wrong is an outcome, never an error."""
        try:
            # A task has a context of its own: what is set for a probe ends with it.
            return await asyncio.create_task(self._asked(use, kind, body))
        except _FAILURES as error:
            _log.warning("probe of '%s' under '%s' failed: %s", use.monitor, use.policy.name, error)
            return "failed"

    async def _asked(self, use: Use, kind: Kind, body: dict[str, Any]) -> Outcome:
        governor, name = self._server.governor, uuid.uuid4().hex
        report = RequestReport(wants_scores=True)
        PROBING.set(True)
        CURRENT_REPORT.set(report)
        async with self._server.door.visit():
            policy = governor.catalog.policies.get(use.policy.name)
            if policy is None:
                return "failed"
            selection = selection_of(governor.catalog, policy)
            lease = governor.lease(selection)
            deciding = Deciding(
                name,
                f"chatcmpl-{name}",
                ROUTE,
                PROBER,
                Asked(body, selection, True),
                lease,
                governor.catalog.generation,
                governor.merged,
                probe={"monitor": use.monitor, "kind": kind},
            )
            CURRENT_LEASE.set(lease)
            with lease.held():
                status = (await self._inside.post(ROUTE, body, name)).status_code
        await self._settled(report)
        outcome = "served" if status == 200 else "failed"
        record = deciding.decision(report, status, outcome, deciding.seconds())
        self._server.decisions.put([record])
        return outcome_of(use, report, status)

    async def _settled(self, report: RequestReport) -> None:
        done = asyncio.Event()
        report.settle(done.set)
        with suppress(TimeoutError):
            async with asyncio.timeout(VERDICT_SECONDS):
                await done.wait()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
