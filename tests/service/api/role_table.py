"""Who may do what, written by hand: the reference for every route, method and role.

``service/api/roles.py`` and ``service/api/access.py`` say the same in their own words. A route that
is there and not here fails the test, so that nobody adds one without saying who may call it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.api.keys import caller_of
from service.api.middleware import PolicyMiddleware
from service.api.operations import operations_app
from service.callers import OWNER, ROLES, Caller
from service.keys import NewKey
from service.limits import Limits
from tests.service.api.world import KEY, World, server_of

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
ANYONE, CLOSED = "anyone", "closed"
V1 = "/trimtab/v1"

# path: (method, least role), …. A plan changes nothing. What is no plan is the policy of that name.
OPERATIONS: dict[str, tuple[tuple[str, str], ...]] = {
    f"{V1}/policies": (("GET", "viewer"), ("POST", "author")),
    f"{V1}/policies/plan": (("GET", "viewer"), ("POST", "viewer"), ("DELETE", "author")),
    f"{V1}/policies/{{name}}": (("GET", "viewer"), ("DELETE", "author")),
    f"{V1}/policies/{{name}}/set": (("POST", "operator"),),
    f"{V1}/policies/{{name}}/rollback": (("POST", "operator"),),
    f"{V1}/monitors": (("GET", "viewer"), ("POST", "author")),
    f"{V1}/monitors/{{name}}": (("GET", "viewer"), ("DELETE", "author")),
    f"{V1}/bindings": (("GET", "viewer"), ("POST", "admin")),
    f"{V1}/bindings/{{name}}": (("GET", "viewer"), ("DELETE", "admin")),
    f"{V1}/bindings/{{name}}/halt": (("POST", "operator"),),
    f"{V1}/replicas": (("GET", "viewer"),),
    f"{V1}/canaries": (("GET", "viewer"),),
    f"{V1}/artifacts": (("GET", "viewer"), ("POST", "author")),
    f"{V1}/artifacts/{{digest}}": (("GET", "viewer"), ("DELETE", "author")),
    f"{V1}/artifacts/gc": (("POST", "author"),),
    f"{V1}/edits": (("GET", "viewer"), ("POST", "author")),
    f"{V1}/edits/{{name}}": (("GET", "viewer"), ("DELETE", "author")),
    f"{V1}/edits/{{name}}/evaluate": (("POST", "author"),),
    f"{V1}/jobs": (("GET", "viewer"),),
    f"{V1}/jobs/{{id}}": (("GET", "viewer"),),
    f"{V1}/jobs/{{id}}/cancel": (("POST", "author"),),
    f"{V1}/jobs/{{id}}/card": (("GET", "viewer"),),
    f"{V1}/events": (("GET", "viewer"),),
    f"{V1}/verdicts": (("GET", "viewer"),),
    f"{V1}/decisions": (("GET", "viewer"),),
    f"{V1}/decisions/{{id:path}}": (("GET", "viewer"),),
    f"{V1}/status": (("GET", "viewer"),),
    f"{V1}/keys": (("GET", "admin"), ("POST", "admin")),
    f"{V1}/keys/{{id}}": (("GET", "admin"), ("DELETE", "admin")),
    f"{V1}/keys/{{id}}/rotate": (("POST", "admin"),),
    f"{V1}/audit": (("GET", "admin"),),
    f"{V1}/audit/verify": (("GET", "admin"),),
    f"{V1}/openapi.json": (("GET", "viewer"),),
    f"{V1}/overview": (("GET", "viewer"),),
    f"{V1}/monitors/{{name}}/scores": (("GET", "viewer"),),
    f"{V1}/events/labelled": (("GET", "operator"),),
    f"{V1}/events/{{id}}": (("GET", "viewer"),),
    f"{V1}/events/{{id}}/label": (("POST", "operator"),),
    f"{V1}/events/{{id}}/replay": (("POST", "operator"),),
    f"{V1}/session": (("GET", "viewer"), ("POST", "viewer"), ("DELETE", "viewer")),
    "/dashboard": (("GET", "viewer"),),
    "/dashboard/": (("GET", "viewer"),),
    "/dashboard/{file:path}": (("GET", "viewer"),),
}

_INFER_POST = (("POST", "infer"), ("OPTIONS", ANYONE))
_INFER_GET = (("GET", "infer"), ("OPTIONS", ANYONE))
_PUBLIC = (("GET", ANYONE),)
_ADMIN = (("GET", "admin"),)

OTHERS: dict[str, tuple[tuple[str, str], ...]] = {
    "/livez": _PUBLIC,
    "/readyz": _PUBLIC,
    "/metrics": _PUBLIC,
    "/health": _PUBLIC,
    "/ping": (("GET", ANYONE), ("POST", ANYONE)),
    "/dashboard/login": _PUBLIC,
    "/dashboard/login.js": _PUBLIC,
    "/dashboard/style.css": _PUBLIC,
    "/dashboard/icon.svg": _PUBLIC,
    "/v1/chat/completions": _INFER_POST,
    "/v1/chat/completions/batch": _INFER_POST,
    "/v1/completions": _INFER_POST,
    "/v1/responses": _INFER_POST,
    "/v1/messages": _INFER_POST,
    "/inference/v1/generate": _INFER_POST,
    "/tokenize": _INFER_POST,
    "/detokenize": _INFER_POST,
    "/v1/messages/count_tokens": _INFER_POST,
    "/v1/models": _INFER_GET,
    "/v1/models/{model:path}": _INFER_GET,
    "/version": _INFER_GET,
    "/load": _INFER_GET,
    "/v1/responses/{response_id}": _INFER_GET,
    "/v1/responses/{response_id}/cancel": _INFER_POST,
    "/openapi.json": _ADMIN,
    "/docs": _ADMIN,
    "/docs/oauth2-redirect": _ADMIN,
    "/redoc": _ADMIN,
    "/static/{file:path}": _ADMIN,
    "/tokenizer_info": _ADMIN,
    "/kv_event_sources": _ADMIN,
}

CLOSED_PATHS = (
    "/init_weight_transfer_engine",
    "/shutdown_weight_transfer_engine",
    "/start_weight_update",
    "/start_draft_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/update_weight_version",
    "/weight_info",
    "/weight_checker",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/inference/v1/abort_requests",
    "/abort_requests",
    "/v1/chat/completions/render",
    "/v1/chat/completions/derender",
    "/v1/completions/render",
    "/v1/completions/derender",
    "/v1/messages/render",
    "/v1/responses/render",
    "/cohere/v2/chat/render",
    "/pooling",
    "/classify",
    "/score",
    "/v1/score",
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
    "/v1/embeddings",
    "/v2/embed",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/realtime",
    "/reset_prefix_cache",
    "/reset_mm_cache",
    "/reset_encoder_cache",
    "/scale_elastic_ep",
    "/is_scaling_elastic_ep",
    "/fault_tolerance/{r:path}",
    "/pause",
    "/resume",
    "/is_paused",
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/release_kv_cache_memory",
    "/collective_rpc",
    "/server_info",
    "/get_world_size",
    "/start_profile",
    "/stop_profile",
    "/invocations",
    "/v1/systemone",
    "/generative_scoring",
    "/cohere/v2/chat",
)
CATCH_ALL = ("/trimtab/{rest:path}", "/dashboard/{r:path}")
"""Patterns of the access table behind which the operations' own table decides."""
UNKNOWN_PATHS = (
    f"{V1}/nothing",
    f"{V1}/",
    "/trimtab/v2/policies",
    "/trimtab/x",
    "/nothing",
    "/",
)


def rule(path: str, method: str) -> str | None:
    """Return the least role, ``anyone``, ``closed``, or None where a method is not served."""
    if path in CLOSED_PATHS:
        return CLOSED
    methods = dict((OPERATIONS | OTHERS).get(path, ()))
    # HEAD is GET without the body.
    return methods.get("GET" if method == "HEAD" else method)


def filled(template: str) -> str:
    """Return a path that a template is for."""
    return re.sub(r"\{\w+:path\}", "a/b", re.sub(r"\{\w+\}", "thing", template))


@dataclass(frozen=True)
class Who:
    """Somebody who asks: what a request carries, and what may come of it."""

    name: str
    header: str | None
    role: str | None

    def may(self, least: str) -> bool:
        return self.role is not None and ROLES.index(self.role) >= ROLES.index(least)


@dataclass
class Spied:
    """A server whose handlers only say that they were reached, and by whom."""

    layer: PolicyMiddleware
    reached: list[tuple[str, Caller]] = field(default_factory=list)

    async def ask(self, method: str, path: str, who: Who) -> int:
        """Return the status of the answer."""
        headers = [(b"host", b"test"), (b"content-type", b"application/json")]
        if who.header is not None:
            headers.append((b"authorization", who.header.encode()))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        sent: list[Mapping[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b'{"prompt": "x"}', "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.layer(scope, receive, send)
        return int(sent[0]["status"])


def spied(world: World) -> Spied:
    """Return a server like a world's with all handlers replaced, routes and layers as they are."""
    server = server_of(world)
    spy: list[Spied] = []

    async def vllm(scope: Any, receive: Any, send: Any) -> None:
        spy[0].reached.append((scope["path"], caller_of(scope)))
        await Response(status_code=204)(scope, receive, send)

    async def handler(request: Request) -> Response:
        spy[0].reached.append((request.url.path, caller_of(request.scope)))
        return Response(status_code=204)

    routes = [
        Route(route.path, handler, methods=list(route.methods or ()))
        for route in operations_app(server).routes
        if isinstance(route, Route)
    ]
    spy.append(Spied(PolicyMiddleware(vllm, server, Starlette(routes=routes))))
    return spy[0]


def everyone(world: World) -> list[Who]:
    """Return a key of each role and every way to have none; the store holds the keys."""
    keys = world.store.keys()
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    found = [
        Who(role, f"Bearer {keys.create(NewKey(f'the-{role}', role), OWNER).text}", role)
        for role in ROLES
    ]
    revoked = keys.create(NewKey("revoked", "admin"), OWNER)
    keys.revoke(revoked.key.id, OWNER)
    expired = keys.create(NewKey("expired", "admin", None, Limits(), soon), OWNER)
    rotated = keys.create(NewKey("rotated", "admin"), OWNER)
    keys.rotate(rotated.key.id, 0, OWNER)
    return [
        *found,
        Who("owner", f"Bearer {KEY}", "admin"),
        Who("nobody", None, None),
        Who("wrong key", "Bearer wrong", None),
        Who("another scheme", f"Basic {KEY}", None),
        Who("revoked key", f"Bearer {revoked.text}", None),
        Who("expired key", f"Bearer {expired.text}", None),
        Who("rotated key", f"Bearer {rotated.text}", None),
    ]


def cells() -> Iterator[tuple[str, str]]:
    """Yield every template and method."""
    for template in (*OPERATIONS, *OTHERS, *CLOSED_PATHS, *UNKNOWN_PATHS):
        for method in METHODS:
            yield template, method


def expected(template: str, method: str, who: Who) -> tuple[bool, set[int]]:
    """Return whether a handler is reached, and with which status it is refused if not."""
    least = rule(template, method)
    if least == ANYONE or (least in ROLES and who.may(least)):
        return True, {204}
    if least == CLOSED:
        return False, {403}
    under_ours = template.startswith(("/trimtab", "/dashboard")) and template not in OTHERS
    if template in UNKNOWN_PATHS and not under_ours:
        return False, {404}
    if who.role is None and rule(template, "GET") != ANYONE:
        return False, {401}
    if least in ROLES or (under_ours and not who.may("viewer")):
        return False, {403}
    if not under_ours and rule(template, "GET") == "admin" and not who.may("admin"):
        return False, {403}
    return False, {404} if template in UNKNOWN_PATHS else {405}
