"""Jobs over HTTP: listed, shown, cancelled, and what they found as a page."""

import asyncio

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from service.api.errors import HttpError
from service.api.server import Server
from service.edit_card import card_page
from service.job_runner import JobRunner
from service.jobs import STATES, JobRecord, JobState, job_view, record_view

MAX_LISTED = 1000
_MAX_NUMBER = 1 << 31
_KNOWN = ("state", "limit")
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class JobRoutes:
    """Handlers; the store is asked off the event loop."""

    def __init__(self, server: Server) -> None:
        """Answer for ``server``."""
        self._server = server

    async def all(self, request: Request) -> Response:
        """List the newest jobs, newest first; ``?state=running&limit=20``."""
        limit, state = _wanted(request)
        found = await asyncio.to_thread(self._server.store.jobs().all, limit, state)
        return JSONResponse({"jobs": [job_view(job) for job in found]})

    async def one(self, request: Request) -> Response:
        """Show a job with what it was asked and what it found."""
        return JSONResponse(record_view(await self._record(request)))

    async def cancel(self, request: Request) -> Response:
        """Cancel a job; a process at work ends at once."""
        job = await runner_of(self._server).cancel(_number(request))
        return JSONResponse(job_view(job))

    async def card(self, request: Request) -> Response:
        """Show what a job found as a page; while it runs, the page comes again by itself."""
        page = card_page(await self._record(request))
        return HTMLResponse(page, headers=PAGE_HEADERS)

    async def _record(self, request: Request) -> JobRecord:
        return await asyncio.to_thread(self._server.store.jobs().get, _number(request))


def runner_of(server: Server) -> JobRunner:
    """Return the runner of a server's jobs.

    Raises:
        HttpError: 503, it runs none.
    """
    if server.jobs is None:
        raise HttpError(503, "no_jobs", "this server runs no jobs")
    return server.jobs


def _number(request: Request) -> int:
    given = request.path_params["id"]
    if not (given.isascii() and given.isdecimal() and int(given[:20]) < _MAX_NUMBER):
        message = f"a job has a number, not '{given[:60]}'"
        raise HttpError(400, "invalid_job", message, "id")
    return int(given)


def _wanted(request: Request) -> tuple[int, JobState | None]:
    query = request.query_params
    for name in query:
        if name not in _KNOWN:
            message = f"unknown parameter '{name[:60]}'; there are: {', '.join(_KNOWN)}"
            raise HttpError(400, "invalid_query", message, name[:60])
    limit = query.get("limit", "100")
    if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:9]) <= MAX_LISTED):
        raise HttpError(400, "invalid_query", f"'limit' is from 1 to {MAX_LISTED}", "limit")
    state = query.get("state")
    found: JobState | None = None if state not in STATES else STATES[STATES.index(state)]
    if state is not None and found is None:
        message = f"'state' is one of {', '.join(STATES)}"
        raise HttpError(400, "invalid_query", message, "state")
    return int(limit), found
