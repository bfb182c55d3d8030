"""What happened lately over HTTP: counts for the dashboard, and a monitor's scores in bins."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from monitors.calibration import Calibration
from monitors.drift import Bins, psi
from service.api.errors import HttpError
from service.api.server import Server
from service.decisions import MAX_LISTED, WantedDecisions
from service.overview import (
    MINUTES,
    Scores,
    Span,
    benign_counts,
    counts,
    coverage_of,
    edges_of,
    scores_of,
)
from service.removal import check_monitor
from service.verdict_report import uses_of
from service.watch import Watched

RECORDS = 500
"""Newest records that the overview's uses of monitors are counted over."""
LEAST_FOR_DRIFT = 100
"""Scores without which a drift is not told."""


class OverviewRoutes:
    """Handlers; the store is asked off the event loop."""

    def __init__(self, server: Server) -> None:
        """Answer for ``server``."""
        self._server = server

    async def show(self, request: Request) -> Response:
        """Count requests by policy and events by monitor over the last ``?minutes=60``."""
        given = request.query_params.get("minutes", str(MINUTES[0]))
        if given not in map(str, MINUTES):
            listed = ", ".join(map(str, MINUTES))
            raise HttpError(400, "invalid_query", f"'minutes' is one of {listed}", "minutes")
        span = Span(int(given), datetime.now(UTC))
        return JSONResponse(await asyncio.to_thread(self._overview, span))

    async def scores(self, request: Request) -> Response:
        """Show a monitor's scores over the newest records in bins, beside its calibration's."""
        governor, name = self._server.governor, request.path_params["name"]
        check_monitor(governor.catalog, name)
        watched = {
            one.policy_name: one
            for uses in governor.watching.applied.values()
            for one in uses
            if one.monitor == name
        }
        return JSONResponse(await asyncio.to_thread(self._scores, name, watched))

    def _overview(self, span: Span) -> dict[str, Any]:
        shown = self._server.store.overview().show(span)
        records = self._server.decisions.store.page(WantedDecisions(limit=RECORDS))
        lowest = coverage_of(records)
        uses = [one.shown() for one in uses_of(records)]
        kept = ("policy", "monitor", "mode", "do", "choices", "fired", "acted", "faults")
        return shown | {
            "records": len(records),
            "uses": [
                {name: use[name] for name in kept}
                | {"coverage": lowest[use["policy"], use["monitor"], use["mode"]]}
                for use in uses
            ],
        }

    def _scores(self, name: str, watched: dict[str, Watched]) -> dict[str, Any]:
        records = self._server.decisions.store.page(WantedDecisions(limit=MAX_LISTED))
        found = scores_of(records, name)
        holding = [one.calibration for one in watched.values() if one.calibration is not None]
        benign = holding[0].request if holding else None
        marks = [mark for one in found for mark in one.thresholds]
        edges = edges_of([v for one in found for v in one.values], marks, benign)
        return {
            "records": len(records),
            "edges": [float(edge) for edge in edges],
            "benign": {
                "requests": benign.n if benign is not None else 0,
                "counts": benign_counts(edges, benign),
            },
            "uses": [_use(one, watched, edges) for one in found],
        }


def _use(scores: Scores, watched: dict[str, Watched], edges: Any) -> dict[str, Any]:
    use = watched.get(scores.policy)
    calibration = use.calibration if use is not None else None
    return {
        "policy": scores.policy,
        "mode": scores.mode,
        "choices": len(scores.values),
        "fired": scores.fired,
        "coverage": scores.coverage,
        "thresholds": list(scores.thresholds),
        "counts": counts(edges, scores.values),
        "psi": None if calibration is None else _drift(calibration, scores),
    }


def _drift(calibration: Calibration, scores: Scores) -> float | None:
    """Return how far scores have moved from their calibration; None where they are too few."""
    if len(scores.values) < LEAST_FOR_DRIFT:
        return None
    bins = Bins.of(calibration.request)
    return psi(bins.expected, bins.counts(scores.values))
