"""The audit log over HTTP: read newest first, and checked."""

import asyncio
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.errors import HttpError
from service.api.server import Server
from service.audit import MAX_LISTED, parse_anchor
from service.audit_views import page_view, verification_view

_MAX_NUMBER = 1 << 62


class AuditRoutes:
    """Handlers."""

    def __init__(self, server: Server) -> None:
        """Answer for ``server``."""
        self._log = server.store.audit()

    async def all(self, request: Request) -> Response:
        """List entries, newest first: ``?limit=`` of them, ``?before=`` a number."""
        before, limit = _paging(request.query_params)
        entries = await asyncio.to_thread(self._log.entries, before, limit)
        return JSONResponse(page_view(entries, limit))

    async def verify(self, request: Request) -> Response:
        """Check every row; ``?anchor=SEQ:HASH`` also that one which was noted is in the chain."""
        _only(request.query_params, "anchor")
        given = request.query_params.get("anchor")
        anchor = parse_anchor(given) if given is not None else None
        return JSONResponse(verification_view(await asyncio.to_thread(self._log.verify, anchor)))


def _paging(query: Mapping[str, str]) -> tuple[int | None, int]:
    _only(query, "before", "limit")
    before = _number(query["before"], "before", _MAX_NUMBER) if "before" in query else None
    return before, _number(query.get("limit", "100"), "limit", MAX_LISTED)


def _only(query: Mapping[str, str], *known: str) -> None:
    for name in query:
        if name not in known:
            message = f"unknown parameter '{name[:60]}'; there are: {', '.join(known)}"
            raise HttpError(400, "invalid_query", message, name[:60])


def _number(given: str, name: str, largest: int) -> int:
    if not (given.isascii() and given.isdecimal() and 1 <= int(given[:20]) <= largest):
        message = f"'{name}' is a number from 1 to {largest}, not '{given[:60]}'"
        raise HttpError(400, "invalid_query", message, name)
    return int(given)
