"""Policies and the binding over HTTP: listed, applied, edited, removed."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.body import read_body
from service.api.changes import actor_of, changed, etag, expected_of
from service.api.errors import HttpError
from service.api.json_body import load_json
from service.api.keys import caller_of
from service.api.rights import check_documents, check_fields
from service.api.server import Server
from service.documents import Document, parse_documents
from service.publisher import Applied
from service.records import Revision
from service.store import RevisionNotFoundError
from service.views import detail, summary

MAX_DOCUMENT_BYTES = 1 << 20
_MAX_REVISION = 1 << 31


class PolicyRoutes:
    """Handlers; all that touches the store runs off the event loop."""

    def __init__(self, server: Server) -> None:
        """Answer for ``server``."""
        self._server = server

    async def all(self, request: Request) -> Response:
        """List the active policies."""
        generation = self._server.governor.catalog.generation
        active = await asyncio.to_thread(self._active, "Policy")
        shown = [_with_artifacts(revision) for revision in active]
        body = {"generation": generation, "policies": shown}
        return JSONResponse(body, headers=etag(generation))

    async def one(self, request: Request) -> Response:
        """Show a policy; ``?revision=n`` for another than the active one."""
        name, revision = request.path_params["name"], _revision(request)
        return JSONResponse(await asyncio.to_thread(self._detail, name, revision))

    async def apply(self, request: Request) -> Response:
        """Apply the documents of a body, all or none."""
        documents = await read_documents(request)
        check_documents(caller_of(request.scope), documents)
        with self._server.metrics.change("api"):
            applied = await self._server.governor.apply(
                documents, actor=actor_of(request), expected=expected_of(request)
            )
        return changed(applied, {"applied": _applied(applied, documents)})

    async def edit(self, request: Request) -> Response:
        """Change fields of a policy that was applied here: ``{"set": {"mode": "shadow"}}``."""
        body = await read_body(request.headers, request.receive, MAX_DOCUMENT_BYTES)
        fields, name = _fields(body), request.path_params["name"]
        check_fields(caller_of(request.scope), fields)
        with self._server.metrics.change("api"):
            applied = await self._server.governor.edit(
                name, fields, actor=actor_of(request), expected=expected_of(request)
            )
        revision = applied.catalog.policies[name].revision
        return changed(applied, {"name": name, "revision": revision})

    async def remove(self, request: Request) -> Response:
        """Remove a policy that was applied here."""
        with self._server.metrics.change("api"):
            applied = await self._server.governor.remove(
                "Policy",
                request.path_params["name"],
                actor=actor_of(request),
                expected=expected_of(request),
            )
        return changed(applied)

    def _active(self, kind: str) -> list[Revision]:
        return [r for r in self._server.store.all_active() if r.kind == kind]

    def _detail(self, name: str, revision: int | None) -> dict[str, Any]:
        store = self._server.store
        active = {r.name: r.revision for r in self._active("Policy")}.get(name)
        try:
            found = store.get(name, revision if revision is not None else active)
        except RevisionNotFoundError as error:
            raise HttpError(404, "policy_not_found", str(error), "name") from error
        shown = detail(found, store.revisions(name), found.revision == active)
        file = self._server.governor.file(("Policy", name))
        return shown | {"file": Path(file).name if file is not None else None}


async def read_documents(request: Request) -> tuple[Document, ...]:
    """Return the documents of a request's body.

    Raises:
        DocumentsError: One is malformed.
        HttpError: 413, it is too large; 422, there is none in it.
    """
    body = await read_body(request.headers, request.receive, MAX_DOCUMENT_BYTES)
    documents = await asyncio.to_thread(parse_documents, body)
    if not documents:
        raise HttpError(422, "invalid_document", "the body holds no document")
    return documents


def _revision(request: Request) -> int | None:
    given = request.query_params.get("revision")
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and 0 < int(given[:20]) < _MAX_REVISION):
        message = f"'revision' is a number from 1 on, not '{given[:60]}'"
        raise HttpError(400, "invalid_revision", message, "revision")
    return int(given)


def _with_artifacts(revision: Revision) -> dict[str, Any]:
    return summary(revision) | {"artifacts": dict(revision.artifacts)}


def _fields(body: bytes) -> dict[str, Any]:
    try:
        parsed = load_json(body)
    except ValueError as error:
        raise HttpError(400, "invalid_json", f"the body is not JSON: {error}") from error
    fields = parsed.get("set") if isinstance(parsed, dict) else None
    if not isinstance(parsed, dict) or not isinstance(fields, dict) or set(parsed) != {"set"}:
        message = 'the body is an object {"set": {FIELD: VALUE, …}}, FIELD a path from spec on'
        raise HttpError(422, "invalid_change", message, "set")
    return fields


def _applied(applied: Applied, documents: Sequence[Document]) -> list[dict[str, Any]]:
    return [
        {"kind": d.kind, "name": d.name, "revision": _active_revision(applied, d)}
        for d in documents
    ]


def _active_revision(applied: Applied, document: Document) -> int:
    catalog = applied.catalog
    if document.kind == "Binding":
        return catalog.bindings.by_name[document.name].revision
    return catalog.of(document.kind)[document.name].revision
