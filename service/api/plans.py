"""Plans and rollbacks over HTTP: what a change would do, and back to what was."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.body import read_body
from service.api.changes import actor_of, changed, etag, expected_of
from service.api.errors import HttpError, as_http
from service.api.json_body import load_json
from service.api.policies import read_documents
from service.api.server import Server
from service.plan import DocumentPlan, Plan

_MAX_BYTES = 1 << 12
_MAX_REVISION = 1 << 31


class PlanRoutes:
    """Handlers."""

    def __init__(self, server: Server) -> None:
        """Answer for ``server``."""
        self._server = server

    async def plan(self, request: Request) -> Response:
        """Say what applying the documents of a body would do; nothing is changed.

        With ``?owner=directory`` they are all that the policy directory would have.
        """
        as_directory = _as_directory(request.query_params)
        documents = await read_documents(request)
        plan = await self._server.governor.plan(documents, as_directory)
        return JSONResponse(plan_view(plan), headers=etag(plan.generation))

    async def rollback(self, request: Request) -> Response:
        """Make an earlier revision of a policy a new one: ``{"revision": 3}``, or no body."""
        body = await read_body(request.headers, request.receive, _MAX_BYTES)
        name, number = request.path_params["name"], _number(body)
        with self._server.metrics.change("api"):
            applied = await self._server.governor.rollback(
                name, number, actor=actor_of(request), expected=expected_of(request)
            )
        revision = applied.catalog.policies[name].revision
        return changed(applied, {"name": name, "revision": revision})


def plan_view(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON values."""
    return {
        "generation": plan.generation,
        "changes": plan.changes,
        "documents": [_document(document) for document in plan.documents],
        "caches": [
            {"binding": c.binding, "policy": c.policy, "prompts": c.prompts, "answers": c.answers}
            for c in plan.caches
        ],
        "capacity": [
            {"table": t.table, "more": t.more, "free": t.size - t.used, "size": t.size}
            for t in plan.tables
        ],
        "merged": list(plan.merged) if plan.merged is not None else None,
        "refused": _refusal(plan.refusal) if plan.refusal is not None else None,
    }


def _document(document: DocumentPlan) -> dict[str, Any]:
    kind, name = document.key
    pins = document.artifacts
    return {
        "kind": kind,
        "name": name,
        "action": document.action,
        "before": document.before,
        "after": document.after,
        "differences": [difference.as_dict() for difference in document.changed],
        "artifacts": dict(pins) if pins is not None else None,
        "artifact_differences": [difference.as_dict() for difference in document.moved],
        "monitors": list(document.monitors),
    }


def _refusal(error: Exception) -> Mapping[str, Any]:
    """Return what applying would be answered with."""
    found = as_http(error)
    return {"status": found.status, "code": found.code, "message": found.message} | dict(
        found.extra
    )


def _as_directory(query: Mapping[str, str]) -> bool:
    owner = query.get("owner", "api")
    if set(query) - {"owner"} or owner not in ("api", "directory"):
        message = "a plan has one parameter: owner, which is api or directory"
        raise HttpError(400, "invalid_query", message, "owner")
    return owner == "directory"


def _number(body: bytes) -> int | None:
    """Return the revision that a body names; None for an empty body or object."""
    if not body.strip():
        return None
    try:
        parsed = load_json(body)
    except ValueError as error:
        raise HttpError(400, "invalid_json", f"the body is not JSON: {error}") from error
    if not isinstance(parsed, dict) or set(parsed) - {"revision"}:
        message = 'the body is an object {"revision": NUMBER}, or empty for the one before'
        raise HttpError(422, "invalid_revision", message, "revision")
    number = parsed.get("revision")
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < _MAX_REVISION:
        message = f"'revision' is a number from 1 on, not {str(number)[:60]!r}"
        raise HttpError(422, "invalid_revision", message, "revision")
    return number
