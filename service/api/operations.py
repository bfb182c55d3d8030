"""The operations API under ``/trimtab/v1``, and the probes. Roles were checked before."""

import logging
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.api.access import OPEN
from service.api.artifacts import ArtifactRoutes
from service.api.audit import AuditRoutes
from service.api.bindings import BindingRoutes
from service.api.body import ClientGoneError
from service.api.canaries import CanaryRoutes
from service.api.collection import CollectionRoutes
from service.api.dashboard import DashboardRoutes
from service.api.decisions import DecisionRoutes
from service.api.edits import EditRoutes
from service.api.errors import KNOWN, HttpError, as_http, error_response
from service.api.events import EventRoutes
from service.api.jobs import JobRoutes
from service.api.key_routes import KeyRoutes
from service.api.monitors import MonitorRoutes
from service.api.openapi.route import DescriptionRoutes
from service.api.overview import OverviewRoutes
from service.api.plans import PlanRoutes
from service.api.policies import PolicyRoutes
from service.api.server import Server
from service.api.sessions import SessionRoutes
from service.api.status import StatusRoutes

PREFIX = "/trimtab/v1"
_log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]


def operations_app(server: Server) -> Starlette:
    """Return the application that answers for all routes of ours."""
    policies, artifacts = PolicyRoutes(server), ArtifactRoutes(server)
    collection = CollectionRoutes(server)
    status, monitors = StatusRoutes(server), MonitorRoutes(server)
    edits, jobs, keys = EditRoutes(server), JobRoutes(server), KeyRoutes(server)
    bindings, plans, audit = BindingRoutes(server), PlanRoutes(server), AuditRoutes(server)
    canaries = CanaryRoutes(server.governor, server.canaries)
    decisions, events = DecisionRoutes(server), EventRoutes(server)
    sessions, pages = SessionRoutes(server.keys), DashboardRoutes()
    return Starlette(
        routes=[
            Route("/livez", status.livez, methods=["GET"]),
            Route("/readyz", status.readyz, methods=["GET"]),
            _route("policies/plan", plans.plan, ["POST"]),
            _route("policies", policies.all, ["GET"]),
            _route("policies", policies.apply, ["POST"]),
            _route("policies/{name}", policies.one, ["GET"]),
            _route("policies/{name}", policies.remove, ["DELETE"]),
            _route("policies/{name}/set", policies.edit, ["POST"]),
            _route("policies/{name}/rollback", plans.rollback, ["POST"]),
            _route("monitors", monitors.all, ["GET"]),
            _route("monitors", policies.apply, ["POST"]),
            _route("monitors/{name}", monitors.one, ["GET"]),
            _route("monitors/{name}", monitors.remove, ["DELETE"]),
            _route("monitors/{name}/scores", OverviewRoutes(server).scores, ["GET"]),
            _route("bindings", bindings.all, ["GET"]),
            _route("bindings", policies.apply, ["POST"]),
            _route("bindings/{name}", bindings.one, ["GET"]),
            _route("bindings/{name}", bindings.remove, ["DELETE"]),
            _route("bindings/{name}/halt", canaries.halt, ["POST"]),
            _route("canaries", canaries.all, ["GET"]),
            _route("artifacts", artifacts.all, ["GET"]),
            _route("artifacts", artifacts.add, ["POST"]),
            _route("artifacts/gc", collection.collect, ["POST"]),
            _route("artifacts/{digest}", artifacts.one, ["GET"]),
            _route("artifacts/{digest}", collection.remove, ["DELETE"]),
            _route("edits", edits.all, ["GET"]),
            _route("edits", edits.solve, ["POST"]),
            _route("edits/{name}", edits.one, ["GET"]),
            _route("edits/{name}", edits.remove, ["DELETE"]),
            _route("edits/{name}/evaluate", edits.evaluate, ["POST"]),
            _route("jobs", jobs.all, ["GET"]),
            _route("jobs/{id}", jobs.one, ["GET"]),
            _route("jobs/{id}/cancel", jobs.cancel, ["POST"]),
            _route("jobs/{id}/card", jobs.card, ["GET"]),
            _route("overview", OverviewRoutes(server).show, ["GET"]),
            _route("events", events.all, ["GET"]),
            _route("events/labelled", events.labelled, ["GET"]),
            _route("events/{id}", events.one, ["GET"]),
            _route("events/{id}/label", events.label, ["POST"]),
            _route("events/{id}/replay", events.replay, ["POST"]),
            _route("verdicts", decisions.verdicts, ["GET"]),
            _route("decisions", decisions.all, ["GET"]),
            _route("decisions/{id:path}", decisions.one, ["GET"]),
            _route("status", status.status, ["GET"]),
            _route("replicas", status.replicas, ["GET"]),
            _route("keys", keys.all, ["GET"]),
            _route("keys", keys.create, ["POST"]),
            _route("keys/{id}", keys.one, ["GET"]),
            _route("keys/{id}", keys.revoke, ["DELETE"]),
            _route("keys/{id}/rotate", keys.rotate, ["POST"]),
            _route("audit", audit.all, ["GET"]),
            _route("audit/verify", audit.verify, ["GET"]),
            _route("openapi.json", DescriptionRoutes().all, ["GET"]),
            _route("session", sessions.show, ["GET"]),
            _route("session", sessions.begin, ["POST"]),
            _route("session", sessions.end, ["DELETE"]),
            *(Route(f"/dashboard/{name}", pages.open, methods=["GET"]) for name in OPEN),
            Route("/dashboard", pages.root, methods=["GET"]),
            Route("/dashboard/", pages.file, methods=["GET"]),
            Route("/dashboard/{file:path}", pages.file, methods=["GET"]),
        ],
        exception_handlers={
            HTTPException: _plain,
            **dict.fromkeys(KNOWN, _expected),
            HttpError: _expected,
            ClientGoneError: _gone,
            Exception: _fault(server),
        },
    )


def _route(path: str, endpoint: Endpoint, methods: list[str]) -> Route:
    return Route(f"{PREFIX}/{path}", endpoint, methods=methods)


def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)


def _expected(request: Request, error: Exception) -> Response:
    return error_response(as_http(error))


def _plain(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        message = f"{request.method} is not served at {request.url.path}"
        return error_response(HttpError(405, "method_not_allowed", message))
    message = f"{request.url.path} is not served"
    return error_response(HttpError(status, "not_served", message))


def _fault(server: Server) -> Callable[[Request, Exception], Response]:
    """Answer to what nobody expected: its text goes to the log, not to the client."""

    def answer(request: Request, error: Exception) -> Response:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        if not server.is_ready():
            return error_response(HttpError(503, "engine_unavailable", "the engine is not running"))
        message = "the server failed; its log says why, and nothing was changed"
        return error_response(HttpError(500, "internal_error", message))

    return answer
