"""Monitors over HTTP: listed, shown, removed. They are applied as policies are."""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.changes import actor_of, changed, expected_of
from service.api.server import Server
from service.monitor_views import monitor_summary
from service.removal import check_monitor
from service.views import history


class MonitorRoutes:
    """Handlers."""

    def __init__(self, server: Server) -> None:
        """Answer for ``server``."""
        self._server = server

    async def all(self, request: Request) -> Response:
        """List the active monitors: where each reads, its calibrations, and who uses it how."""
        governor = self._server.governor
        catalog, watching = governor.catalog, governor.watching
        shown = [monitor_summary(catalog, watching, m) for m in governor.monitors.values()]
        return JSONResponse({"monitors": shown})

    async def one(self, request: Request) -> Response:
        """Show a monitor: its summary, its document and its revisions."""
        governor, name = self._server.governor, request.path_params["name"]
        check_monitor(governor.catalog, name)
        summary = monitor_summary(governor.catalog, governor.watching, governor.monitors[name])
        store = self._server.store
        revisions = await asyncio.to_thread(store.revisions, name, "Monitor")
        active = next(r for r in revisions if r.revision == summary["revision"])
        shown = summary | {"content": active.content, "revisions": history(revisions)}
        return JSONResponse(shown)

    async def remove(self, request: Request) -> Response:
        """Remove a monitor that was applied here and that no policy uses."""
        with self._server.metrics.change("api"):
            applied = await self._server.governor.remove(
                "Monitor",
                request.path_params["name"],
                actor=actor_of(request),
                expected=expected_of(request),
            )
        return changed(applied)
