"""Events over HTTP: a page of them, or a stream that goes on after the last one that was seen."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from service.api.body import read_body
from service.api.errors import HttpError
from service.api.json_body import load_json
from service.api.keys import caller_of
from service.api.replaying import Replayer
from service.api.server import Server
from service.callers import Caller
from service.events import MAX_LISTED, Page, Wanted

KEEP_ALIVE_SECONDS = 15.0
POLL_SECONDS = 1.0
"""How long what another process of the store writes may go unseen, and a key that has ended."""
MAX_BODY_BYTES = 1 << 10
_MAX_NUMBER = 1 << 62
_LABELS = {None: None, "true": True, "false": False}
_KNOWN = ("since", "before", "monitor", "policy", "limit")


class EventRoutes:
    """Handlers."""

    def __init__(self, server: Server) -> None:
        """Answer for ``server``."""
        self._server = server

    async def all(self, request: Request) -> Response:
        """List events, or stream them to who accepts ``text/event-stream``."""
        wanted = read_wanted(request.query_params)
        if "text/event-stream" in request.headers.get("accept", ""):
            seen = request.headers.get("last-event-id")
            if seen is not None:
                wanted = _after(wanted, _number(seen, "Last-Event-ID"))
            stream = self._follow(wanted, caller_of(request.scope), request.headers)
            return StreamingResponse(
                stream, media_type="text/event-stream", headers={"cache-control": "no-store"}
            )
        page = await self._page(wanted)
        shown = {"events": list(page.events), "last": page.last, "lost": page.lost}
        return JSONResponse(shown)

    async def one(self, request: Request) -> Response:
        """Show an event, and the tokens around it with their scores if its policy captures."""
        number = _number(request.path_params["id"], "id")
        return JSONResponse(await asyncio.to_thread(self._server.events.store.one, number))

    async def label(self, request: Request) -> Response:
        """Say whether an event was right: ``{"label": true}``, ``false``, or null to take it back.

        What is labelled is in ``GET events/labelled``, for the monitor's next calibration.
        """
        number, store = _number(request.path_params["id"], "id"), self._server.events.store
        body = await read_body(request.headers, request.receive, MAX_BODY_BYTES)
        label, by = _label(body), caller_of(request.scope).label
        await asyncio.to_thread(store.label, number, label, by)
        return JSONResponse(await asyncio.to_thread(store.one, number))

    async def replay(self, request: Request) -> Response:
        """Ask an event's prompt again under no policy, and keep the answer beside the event.

        Greedy, and short. Only where the event's policy captured the prompt.
        """
        number, store = _number(request.path_params["id"], "id"), self._server.events.store
        prompt, caller = await asyncio.to_thread(store.prompt, number), caller_of(request.scope)
        unsteered = await Replayer(self._server).ask(prompt, caller)
        await asyncio.to_thread(store.replayed, number, unsteered, caller.label)
        return JSONResponse(await asyncio.to_thread(store.one, number))

    async def labelled(self, request: Request) -> Response:
        """Give the labelled events of ``?monitor=NAME`` as items, one JSON object a line.

        Only those whose policy captured what was said. ``trimtab monitor calibrate`` takes what
        ``?label=false`` gives as benign, and what ``?label=true`` gives as positive.
        """
        monitor, label = request.query_params.get("monitor", ""), request.query_params.get("label")
        if not monitor:
            raise HttpError(400, "invalid_query", "'monitor' names whose events to give", "monitor")
        if label not in _LABELS:
            raise HttpError(400, "invalid_query", "'label' is true, false or left out", "label")
        wanted = _LABELS[label]
        items = await asyncio.to_thread(self._server.events.store.items, monitor, wanted)
        lines = "".join(f"{json.dumps(item)}\n" for item in items)
        return Response(lines, media_type="application/x-ndjson")

    async def _page(self, wanted: Wanted) -> Page:
        return await asyncio.to_thread(self._server.events.store.page, wanted)

    async def _follow(
        self, wanted: Wanted, caller: Caller, headers: Headers
    ) -> AsyncGenerator[str, None]:
        """Yield events as they are written; without a number or a time to start at, from now on.

        Ends when the caller's key or session does.
        """
        if wanted.after is None and wanted.since is None:
            newest = await self._page(Wanted(limit=1))
            wanted = _after(wanted, newest.last)
        yield ": events of monitors\n\n"
        spoken, now = time.monotonic(), time.monotonic
        while await self._server.keys.still(caller, headers):
            # Asked for before the page is read: what is written in between is not missed.
            written = asyncio.ensure_future(self._server.events.written(POLL_SECONDS))
            try:
                page = await self._page(wanted)
                if page.lost:
                    yield f"event: lost\ndata: {json.dumps({'lost': page.lost})}\n\n"
                for event in page.events:
                    yield as_sse(event)
                if not page.events:
                    await written
            finally:
                written.cancel()
            wanted = _after(wanted, page.last)
            if page.events:
                spoken = now()
            elif now() - spoken >= KEEP_ALIVE_SECONDS:
                spoken = now()
                yield ": keep-alive\n\n"


def as_sse(event: Mapping[str, Any]) -> str:
    """Return an event as a server-sent one, with its number as its id."""
    return f"id: {event['id']}\nevent: verdict\ndata: {json.dumps(dict(event))}\n\n"


def read_wanted(query: Mapping[str, str]) -> Wanted:
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
        message = f"'limit' is from 1 to {MAX_LISTED}"
        raise HttpError(400, "invalid_query", message, "limit")
    since = query.get("since")
    is_number = since is not None and since.isascii() and since.isdecimal()
    after = _number(since, "since") if since is not None and is_number else None
    time = since if since is not None and not is_number else None
    before = _number(query["before"], "before") if "before" in query else None
    return Wanted(after, before, _time(time), query.get("monitor"), query.get("policy"), limit)


def _after(wanted: Wanted, number: int) -> Wanted:
    return replace(wanted, after=number, since=None)


def _label(body: bytes) -> bool | None:
    try:
        given = load_json(body)
    except ValueError as error:
        raise HttpError(400, "invalid_json", f"the body is not JSON: {error}") from error
    if not isinstance(given, dict) or set(given) != {"label"}:
        raise HttpError(422, "invalid_label", 'the body is {"label": true, false or null}', "label")
    label = given["label"]
    if label is not None and not isinstance(label, bool):
        raise HttpError(422, "invalid_label", "'label' is true, false or null", "label")
    return label


def _number(given: str, name: str) -> int:
    if not (given.isascii() and given.isdecimal() and int(given[:20]) < _MAX_NUMBER):
        raise HttpError(400, "invalid_query", f"'{name}' is a number, not '{given[:60]}'", name)
    return int(given[:20])


def _time(given: str | None) -> str | None:
    """Return a time as the store keeps it: UTC, to the millisecond."""
    if given is None:
        return None
    try:
        parsed = datetime.fromisoformat(given)
    except ValueError as error:
        message = (
            "'since' is an event's number or a time such as 2026-01-31T12:00:00Z, "
            f"not '{given[:60]}'"
        )
        raise HttpError(400, "invalid_query", message, "since") from error
    zoned = parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
    return zoned.astimezone(UTC).isoformat(timespec="milliseconds")
