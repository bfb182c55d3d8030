"""Decision records over HTTP: one by the name of its request, or the newest."""

import asyncio
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.errors import HttpError
from service.api.server import Server
from service.decisions import MAX_LISTED, WantedDecisions
from service.verdict_report import uses_of

_MAX_NUMBER = 1 << 62
_KNOWN = ("before", "policy", "key", "limit")


class DecisionRoutes:
    """Handlers; the store is asked off the event loop."""

    def __init__(self, server: Server) -> None:
        """Answer for ``server``."""
        self._server = server

    async def one(self, request: Request) -> Response:
        """Show the record of a request, by our name of it or by its answer's id."""
        store = self._server.decisions.store
        return JSONResponse(await asyncio.to_thread(store.one, request.path_params["id"]))

    async def all(self, request: Request) -> Response:
        """List records, newest first; ``?before=N`` goes on where a page ended."""
        wanted = read_wanted(request.query_params)
        found = await asyncio.to_thread(self._server.decisions.store.page, wanted)
        before = found[-1]["id"] if len(found) == wanted.limit else None
        return JSONResponse({"decisions": list(found), "before": before})

    async def verdicts(self, request: Request) -> Response:
        """Count what monitors did over the newest records, shadow beside enforced."""
        wanted = read_wanted(request.query_params)
        found = await asyncio.to_thread(self._server.decisions.store.page, wanted)
        shown = [use.shown() for use in uses_of(found)]
        return JSONResponse({"records": len(found), "uses": shown})


def read_wanted(query: Mapping[str, str]) -> WantedDecisions:
    """Return what the query asks for.

    Raises:
        HttpError: 400, it cannot be read.
    """
    for name in query:
        if name not in _KNOWN:
            message = f"unknown parameter '{name[:60]}'; there are: {', '.join(_KNOWN)}"
            raise HttpError(400, "invalid_query", message, name[:60])
    limit = _number(query["limit"], "limit") if "limit" in query else 100
    if not 1 <= limit <= MAX_LISTED:
        raise HttpError(400, "invalid_query", f"'limit' is from 1 to {MAX_LISTED}", "limit")
    before = _number(query["before"], "before") if "before" in query else None
    policy, key = (_text(query.get(name), name) for name in ("policy", "key"))
    return WantedDecisions(before, policy, key, limit)


def _number(given: str, name: str) -> int:
    if not (given.isascii() and given.isdecimal() and int(given[:20]) < _MAX_NUMBER):
        raise HttpError(400, "invalid_query", f"'{name}' is a number, not '{given[:60]}'", name)
    return int(given[:20])


def _text(given: str | None, name: str) -> str | None:
    if given is not None and "\0" in given:
        raise HttpError(400, "invalid_query", f"'{name}' holds a NUL character", name)
    return given
