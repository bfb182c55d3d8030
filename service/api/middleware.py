"""The outermost layer: lets in what the table allows, and puts a request under its policies.

Pure ASGI: a context variable that is set here is seen wherever the route's handlers run, and an
answer is streamed on as it comes.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from opentelemetry import trace
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.access import Access, AccessTable, route_path
from service.api.admission import Admission, is_preflight
from service.api.answers import InferenceAnswer, described
from service.api.body import ClientGoneError, read_body, replay, with_body_length
from service.api.dashboard import to_login
from service.api.decided import Deciding
from service.api.errors import HttpError, Shape, as_http, error_response
from service.api.identity import named, request_of, telling, with_request
from service.api.keys import caller_of
from service.api.lookout import refresh
from service.api.meter import Meter
from service.api.models import models_response
from service.api.requests import (
    MAX_BODY_BYTES,
    Asked,
    asks_beam_search,
    beam_search_refused,
    parse_fields,
    read_choice,
    refuse_outliving,
)
from service.api.server import NOT_RUNNING, Server
from service.api.tracing import NAME, RequestSpan
from service.engine.door import DoorError
from service.engine.lease import CURRENT_LEASE
from service.handling import HANDLING
from service.limits import Limiter, LimitError
from service.report import CURRENT_REPORT, RequestReport
from service.selection import SelectionError

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]

_ANTHROPIC = "/v1/messages"
_READS = ("GET", "HEAD")


class PolicyMiddleware:
    """Stands before vLLM's application and answers for the operations itself."""

    def __init__(self, app: ASGIApp, server: Server, operations: ASGIApp) -> None:
        """Guard ``app``; ``operations`` answers what lies under ``/trimtab``."""
        self._app, self._server, self._operations = app, server, operations
        self._table, self._admission = AccessTable(), Admission(server.keys)
        self._meter, self._tracer = Meter(Limiter()), trace.get_tracer(NAME)
        self._handlers: dict[Access, Handler] = {
            Access.PUBLIC: self._public,
            Access.PROBE: operations,
            Access.OPERATIONS: operations,
            Access.ADMIN: app,
            Access.INFERENCE: app,
            Access.MODELS: self._models,
            Access.TOKENS: self._tokens,
            Access.GENERATE: self._generate,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on, one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            # Refused before it is accepted, which a server says as 403.
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "not served"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = route_path(scope)
        route = self._table.find(path)
        scope = with_request(scope)
        if route.access is Access.GENERATE:
            send = telling(send, request_of(scope))
        try:
            caller = await self._admission.admit(route, path, scope)
            preflight = is_preflight(route, scope["method"])
            handler = self._app if preflight else self._handlers[route.access]
            known, shape = self._server.keys.admitted(scope, caller), _shape(path)
            is_timed = route.access is not Access.OPERATIONS
            with self._under_way(route.access, scope["method"]):
                await self._meter.run(handler, known, receive, send, shape, is_timed)
        except ClientGoneError:
            return
        except (HttpError, SelectionError, DoorError, LimitError) as error:
            refused = as_http(error)
            if (away := to_login(path, scope, refused)) is not None:
                await away(scope, receive, send)
                return
            self._server.metrics.refusal(refused.code)
            await error_response(refused, _shape(path))(scope, receive, send)

    def _under_way(self, access: Access, method: str) -> AbstractContextManager[None]:
        """Count what an end waits for, and begin none of it then; looking on is neither."""
        changes = access is Access.OPERATIONS and method not in _READS
        begins = changes or access in (Access.GENERATE, Access.TOKENS)
        return self._server.drain.request() if begins else nullcontext()

    async def _public(self, scope: Scope, receive: Receive, send: Send) -> None:
        if route_path(scope) == "/metrics":
            refresh(self._server)
        await self._app(scope, receive, send)

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        catalog, models = self._server.governor.catalog, self._server.models
        path, caller = route_path(scope), caller_of(scope)
        response = await models_response(self._app, scope, receive, path, catalog, models, caller)
        await response(scope, receive, send)

    async def _tokens(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take our fields out of a body that only needs the model's name; nothing is generated."""
        body, fields = await self._read(scope, receive)
        if fields is not None:
            body = self._choice(scope, fields).body
        await self._app(with_body_length(scope, len(body)), replay(body, receive), send)

    async def _generate(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._server.is_ready():
            reason = self._server.door.reason or NOT_RUNNING
            raise HttpError(503, "engine_unavailable", reason)
        body, fields = await self._read(scope, receive)
        if fields is None:
            # No JSON object: vLLM refuses it; were it not to, the default binding would apply.
            await self._app(with_body_length(scope, len(body)), replay(body, receive), send)
            return
        # Chosen and generated in one visit: no weights are exchanged in between.
        async with self._server.door.visit():
            await self._under_policies(fields, scope, receive, send)

    async def _under_policies(
        self, fields: dict[str, Any], scope: Scope, receive: Receive, send: Send
    ) -> None:
        path = route_path(scope)
        scope, fields, answer = named(scope, path, fields)
        asked = self._choice(scope, fields)
        refuse_outliving(asked.fields)
        # No await between selecting and holding: the rows cannot go in between.
        governor = self._server.governor
        lease = governor.lease(asked.selection)
        deciding = Deciding(
            request_of(scope),
            answer,
            path,
            caller_of(scope),
            asked,
            lease,
            governor.catalog.generation,
            governor.merged,
        )
        self._refuse_beam_search(deciding)
        with lease.held():
            await self._run(deciding, scope, receive, send)

    def _refuse_beam_search(self, deciding: Deciding) -> None:
        lease = deciding.lease
        # What is in shadow refuses nothing either.
        is_enforced = any(watched.mode == "enforce" for watched in lease.watched)
        is_alike = lease.stamp().is_uniform() and not is_enforced
        if asks_beam_search(deciding.asked.fields) and not is_alike:
            refused = beam_search_refused()
            self._record(deciding, RequestReport(), refused.status, "refused")
            raise refused

    async def _read(self, scope: Scope, receive: Receive) -> tuple[bytes, dict[str, Any] | None]:
        """Return a body, and its fields if it is a JSON object."""
        body = await read_body(Headers(scope=scope), receive, MAX_BODY_BYTES)
        return body, parse_fields(body)

    def _choice(self, scope: Scope, fields: dict[str, Any]) -> Asked:
        """Return what fields ask of us; the selection is from the snapshot right now."""
        catalog, models = self._server.governor.catalog, self._server.models
        headers, caller = Headers(scope=scope), caller_of(scope)
        return read_choice(fields, headers, catalog, models, caller, request_of(scope))

    async def _run(self, deciding: Deciding, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer under a lease; the context variable reaches all that the handlers start."""
        lease, asked = deciding.lease, deciding.asked
        report = RequestReport(asked.wants_object)
        span = RequestSpan(self._tracer, deciding, scope)
        scope = span.carried(scope)
        describe = partial(described, lease, asked.selection, report)
        is_ready, path = self._server.is_ready, deciding.route
        answer = InferenceAnswer(
            send, lease, is_ready, report, path, describe if asked.wants_object else None
        )
        body = asked.body
        handling = HANDLING.get()
        if handling is not None:
            handling.policies = lease.policies
        heard = answer.listening(replay(body, receive))
        token, reporting = CURRENT_LEASE.set(lease), CURRENT_REPORT.set(report)
        try:
            await self._app(with_body_length(scope, len(body)), heard, answer)
        finally:
            CURRENT_LEASE.reset(token)
            CURRENT_REPORT.reset(reporting)
            outcome = _outcome(answer)
            if handling is not None:
                handling.tokens = report.tokens()
            self._server.metrics.request(asked.selection, outcome)
            self._record(deciding, report, answer.status, outcome, span)
            if reasons := self._server.unready():
                await answer.break_off("; ".join(reasons))

    def _record(
        self,
        deciding: Deciding,
        report: RequestReport,
        status: int | None,
        outcome: str,
        span: RequestSpan | None = None,
    ) -> None:
        """Write the record of a request that is over, once its last verdict is in."""
        made = partial(deciding.decision, report, status, outcome, deciding.seconds())

        def settled() -> None:
            self._server.decisions.put([made()])
            self._server.canaries.note(deciding.asked.selection, report, outcome)
            if span is not None:
                span.end(report, status, outcome)

        report.settle(settled)


def _shape(path: str) -> Shape:
    return "anthropic" if path.startswith(_ANTHROPIC) else "openai"


def _outcome(answer: InferenceAnswer) -> str:
    if answer.status is None or not answer.is_whole or answer.is_abandoned:
        return "aborted"
    if answer.status >= 500:
        return "failed"
    return "refused" if answer.status >= 400 else "served"
