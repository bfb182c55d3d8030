"""What the server is and how it is: ``status``, ``/livez``, ``/readyz``."""

import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.server import Server


class StatusRoutes:
    """Handlers."""

    def __init__(self, server: Server) -> None:
        """Answer for ``server``."""
        self._server = server

    async def livez(self, request: Request) -> Response:
        """Say that the process answers."""
        return JSONResponse({"live": True})

    async def readyz(self, request: Request) -> Response:
        """Say whether requests are served: 503 with every reason if not."""
        reasons = [*self._server.unready(), *await self._unread()]
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def _unread(self) -> list[str]:
        """Read the keys, which are kept when the store is gone; say why nobody would be let in."""
        ring = self._server.keys.ring
        await ring.fresh()
        return [] if ring.is_read else [f"the keys cannot be read: {ring.fault}"]

    async def status(self, request: Request) -> Response:
        """Show what is active, what fills the tables and what is wrong."""
        server = self._server
        status = server.governor.status()
        return JSONResponse(
            status
            | {
                "ready": not server.unready(),
                "reasons": list(server.unready()),
                "store": asdict(server.store.health),
                "version": _version(),
                "replica": server.reconciler.name,
                "served_names": list(server.served_names),
                "adapters": list(server.adapters),
                "keys": server.keys.ring.status(),
                "uptime_seconds": round(time.monotonic() - server.started, 3),
                "capacity": status["capacity"] | {"sites": self._sites()},
            }
        )

    async def replicas(self, request: Request) -> Response:
        """List the servers of the store, each with the generation that it serves."""
        return JSONResponse({"replicas": self._server.reconciler.shown()})

    def _sites(self) -> dict[str, Any]:
        return {
            str(point): {"rows": size.rows, "reads": size.reads, "writes": size.writes}
            for point, size in sorted(self._server.capacities.items())
        }


def _version() -> str:
    try:
        return version("trimtab")
    except PackageNotFoundError:
        return "unknown"
