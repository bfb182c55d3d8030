"""Keys over HTTP: listed, made, shown, rotated, revoked. A secret is in one answer only."""

import asyncio
import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.body import read_body
from service.api.errors import HttpError
from service.api.json_body import load_json
from service.api.keys import caller_of
from service.api.server import Server
from service.key_request import read_key, read_rotation
from service.keys import KeyNotFoundError, KeyStore

MAX_BODY_BYTES = 64 << 10
_ID = re.compile(r"[0-9a-f]{16}")
_SECRET = {"cache-control": "no-store"}


class KeyRoutes:
    """Handlers; the store is asked off the event loop, and every change is known here at once."""

    def __init__(self, server: Server) -> None:
        """Answer for ``server``."""
        self._server = server

    async def all(self, request: Request) -> Response:
        """List every key, newest first, without secrets or their hashes."""
        found = await asyncio.to_thread(self._store.all)
        return JSONResponse({"keys": [key.view() for key in found]})

    async def create(self, request: Request) -> Response:
        """Make a key: ``{"name": …, "role": …}``; 201 with its text, which is not shown again."""
        wanted = read_key(await _body(request, {}))
        issued = await asyncio.to_thread(self._store.create, wanted, caller_of(request.scope))
        await self._server.keys.ring.refresh()
        return JSONResponse(issued.view(), 201, _SECRET)

    async def one(self, request: Request) -> Response:
        """Show a key."""
        found = await asyncio.to_thread(self._store.get, _id(request))
        return JSONResponse(found.view())

    async def revoke(self, request: Request) -> Response:
        """Revoke a key for good."""
        revoked = await asyncio.to_thread(
            self._store.revoke, _id(request), caller_of(request.scope)
        )
        await self._server.keys.ring.refresh()
        return JSONResponse(revoked.view())

    async def rotate(self, request: Request) -> Response:
        """Make a key like this one, which ends after ``grace_seconds``; 201 with the new text."""
        key, asked = _id(request), read_rotation(await _body(request, {}))
        issued = await asyncio.to_thread(
            self._store.rotate, key, asked.grace_seconds, caller_of(request.scope)
        )
        await self._server.keys.ring.refresh()
        return JSONResponse(issued.view(), 201, _SECRET)

    @property
    def _store(self) -> KeyStore:
        return self._server.store.keys()


def _id(request: Request) -> str:
    """Return the id in the path; what is no id is not asked of the database."""
    given = request.path_params["id"]
    if not _ID.fullmatch(given):
        raise KeyNotFoundError(f"there is no key '{given[:40]}'")
    return given


async def _body(request: Request, empty: dict[str, Any]) -> object:
    body = await read_body(request.headers, request.receive, MAX_BODY_BYTES)
    if not body.strip():
        return empty
    try:
        return load_json(body)
    except ValueError as error:
        raise HttpError(400, "invalid_json", f"the body is not JSON: {error}") from error
