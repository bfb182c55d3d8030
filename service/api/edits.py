"""Edits over HTTP: listed, shown, solved and evaluated by jobs, removed."""

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.body import read_body
from service.api.changes import actor_of, changed, expected_of
from service.api.errors import HttpError
from service.api.jobs import runner_of
from service.api.json_body import load_json
from service.api.server import Server
from service.catalog import OwnershipError
from service.documents import Document
from service.edit_request import (
    Solving,
    checked,
    read_document,
    read_evaluation,
    read_solving,
)
from service.edit_views import detail, entry_view, found_already
from service.edits import EditShelf, KeptEdit
from service.jobs import Job, JobKind, job_view

MAX_BODY_BYTES = 32 << 20


class EditRoutes:
    """Handlers; reading, checking and the store are off the event loop."""

    def __init__(self, server: Server) -> None:
        """Answer for ``server``."""
        self._server = server
        self._shelf = EditShelf(server.store, server.governor.model)

    async def all(self, request: Request) -> Response:
        """List every edit set and every other edit artifact: gates, and who uses it."""
        entries = await asyncio.to_thread(self._shelf.entries)
        return JSONResponse({"edits": [entry_view(entry) for entry in entries]})

    async def one(self, request: Request) -> Response:
        """Show an edit: its facts with their fit, its gates, its document and revisions."""
        return JSONResponse(await asyncio.to_thread(self._detail, request.path_params["name"]))

    async def solve(self, request: Request) -> Response:
        """Solve an edit set and apply its document, by a job; 202 with it.

        The body is a document, with ``?override=gate,…``; or an object with ``document`` and, as
        wanted, ``override``, ``cases``, ``format``, ``beside`` and ``settings``.
        """
        runner = runner_of(self._server)
        body = await read_body(request.headers, request.receive, MAX_BODY_BYTES)
        document, asked = await asyncio.to_thread(_read, body, request.query_params)
        applies = await asyncio.to_thread(self._is_ours, document)
        spec = await asyncio.to_thread(self._shelf.spec_of, document)
        kept = None
        if not asked.is_special:
            kept = await asyncio.to_thread(self._shelf.find, spec.edits.digest)
        content = {"document": document.content, "apply": applies} | asked.model_dump(mode="json")
        content |= {"beside": self._beside(document.name, asked), "actor": actor_of(request)}
        if kept is not None:
            return _accepted(await self._found(document, applies, content, kept))
        job = await self._queue("edit-solve", document.name, content)
        runner.wake()
        return _accepted(job)

    async def evaluate(self, request: Request) -> Response:
        """Measure a solved edit on cases, by a job: ``{"cases": […], "format": "trimtab"}``."""
        runner, name = runner_of(self._server), request.path_params["name"]
        body = await read_body(request.headers, request.receive, MAX_BODY_BYTES)
        asked = await asyncio.to_thread(lambda: read_evaluation(_json(body)))
        kept = await asyncio.to_thread(self._shelf.solution, name)
        content = {"artifact": kept.stored.digest} | asked.model_dump(mode="json")
        job = await self._queue("edit-evaluate", name, content)
        runner.wake()
        return _accepted(job)

    async def remove(self, request: Request) -> Response:
        """Remove an edit set that was applied here and that no policy uses; artifacts stay."""
        with self._server.metrics.change("api"):
            applied = await self._server.governor.remove(
                "EditSet",
                request.path_params["name"],
                actor=actor_of(request),
                expected=expected_of(request),
            )
        return changed(applied)

    def _beside(self, name: str, asked: Solving) -> list[str]:
        """Return the edits whose keys are guarded: those asked for, and those that act with it."""
        return list(dict.fromkeys((*asked.beside, *self._server.governor.beside(name))))

    async def _found(
        self, document: Document, applies: bool, content: Mapping[str, Any], kept: KeptEdit
    ) -> Job:
        """Apply a document that is solved already, and record the job that it needed none of."""
        if applies:
            with self._server.metrics.change("api"):
                await self._server.governor.apply([document], actor=content["actor"])
        add = self._server.store.jobs().add_ended
        result = found_already(kept)
        return await asyncio.to_thread(add, "edit-solve", document.name, content, result)

    async def _queue(self, kind: JobKind, name: str, content: Mapping[str, Any]) -> Job:
        return await asyncio.to_thread(self._server.store.jobs().add, kind, name, content)

    def _is_ours(self, document: Document) -> bool:
        """Whether a document is to be applied; not if the directory has just this one.

        Raises:
            OwnershipError: The directory has another one of this name.
        """
        owned = {r.name: r for r in self._server.store.all_active() if r.kind == "EditSet"}
        revision = owned.get(document.name)
        if revision is None or revision.owner != "directory":
            return True
        if revision.digest != document.digest:
            raise OwnershipError(document.key)
        return False

    def _detail(self, name: str) -> dict[str, Any]:
        entry = self._shelf.entry(name)
        revisions = self._server.store.revisions(name, "EditSet")
        spec = self._shelf.spec_of(entry.revision.document()) if entry.revision else None
        return detail(entry, spec, revisions)


def _read(body: bytes, query: QueryParams) -> tuple[Document, Solving]:
    """Return what a body asks for: a document, or an object that holds one."""
    unknown = sorted(set(query) - {"override"})
    if unknown:
        message = f"unknown parameter '{unknown[0][:60]}'; there is: override"
        raise HttpError(400, "invalid_query", message, unknown[0][:60])
    named = tuple(name for name in query.get("override", "").split(",") if name)
    wrapped = _wrapped(body)
    if wrapped is None:
        return read_document(body), checked(Solving(override=named))
    document, asked = read_solving(wrapped)
    override = tuple(dict.fromkeys((*asked.override, *named)))
    return document, checked(asked.model_copy(update={"override": override}))


def _wrapped(body: bytes) -> dict[str, Any] | None:
    """Return an object with a document in it, or None if the body is a document itself."""
    if not body.lstrip().startswith(b"{"):
        return None
    try:
        value = load_json(body)
    except ValueError:
        return None  # YAML may begin so too; its own reader says what is wrong
    return value if isinstance(value, dict) and "document" in value else None


def _json(body: bytes) -> object:
    try:
        return load_json(body)
    except ValueError as error:
        raise HttpError(400, "invalid_json", f"the body is not JSON: {error}") from error


def _accepted(job: Job) -> JSONResponse:
    return JSONResponse(job_view(job), 202, {"location": f"/trimtab/v1/jobs/{job.id}"})
