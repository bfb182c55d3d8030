"""Bindings: who runs under which policies. Documents of this kind are applied as all others."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.changes import actor_of, changed, expected_of
from service.api.server import Server
from service.bindings import BindingRevision
from service.records import Revision
from service.removal import check_binding
from service.views import detail, summary


class BindingRoutes:
    """Handlers."""

    def __init__(self, server: Server) -> None:
        """Answer for ``server``."""
        self._server = server

    async def all(self, request: Request) -> Response:
        """List the active bindings; the implicit one is not a document and not listed."""
        active = await asyncio.to_thread(self._server.store.all_active)
        return JSONResponse({"bindings": [self._shown(r) for r in active if r.kind == "Binding"]})

    async def one(self, request: Request) -> Response:
        """Show a binding with its revisions."""
        name = request.path_params["name"]
        check_binding(self._server.governor.catalog, name)
        return JSONResponse(await asyncio.to_thread(self._detail, name))

    async def remove(self, request: Request) -> Response:
        """Remove a binding that was applied here."""
        name = request.path_params["name"]
        with self._server.metrics.change("api"):
            applied = await self._server.governor.remove(
                "Binding", name, actor=actor_of(request), expected=expected_of(request)
            )
        return changed(applied)

    def _shown(self, revision: Revision) -> dict[str, Any]:
        bound = self._server.governor.catalog.bindings.by_name.get(revision.name)
        shown = summary(revision) | {"spec": revision.content["spec"]}
        return shown | (_effect(bound) if bound is not None else {})

    def _detail(self, name: str) -> dict[str, Any]:
        store = self._server.store
        number = self._server.governor.catalog.bindings.by_name[name].revision
        found = store.get(name, number, "Binding")
        return detail(found, store.revisions(name, "Binding"), True) | self._shown(found)


def _effect(bound: BindingRevision) -> dict[str, Any]:
    """Return what a binding comes to: all that it makes mandatory, and whether its canary runs."""
    return {"mandatory": list(bound.mandatory), "halted": bound.halted}
