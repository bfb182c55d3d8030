"""Which routes are served, and to whom: an explicit table, and what is not in it is denied.

The table speaks of vLLM's routes too: those that generate and carry a policy, those that are open,
and those that are closed because they would change or bypass what policies rely on.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from starlette.types import Scope


class Access(Enum):
    """Who may call a route, and what is done for it."""

    PUBLIC = "public"
    """Anyone: health and metrics."""
    INFERENCE = "inference"
    """Whoever may ask for inference; the request is passed on as it is."""
    MODELS = "models"
    """As inference; the answer lists the policies as models."""
    TOKENS = "tokens"
    """As inference; the body may name a policy, which changes nothing there."""
    GENERATE = "generate"
    """As inference; the request runs under a policy."""
    PROBE = "probe"
    """Anyone; answered here: is the process up, can it serve, and the page to log in on."""
    OPERATIONS = "operations"
    """A key with the role that ``service/api/roles.py`` asks for; answered here."""
    ADMIN = "admin"
    """A key with role admin; vLLM's."""
    CLOSED = "closed"
    """Nobody."""
    UNKNOWN = "unknown"
    """Not in the table."""


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the table; ``reason`` says why a closed one is closed, or what to use instead."""

    methods: frozenset[str]
    template: str
    access: Access
    reason: str = ""

    @property
    def pattern(self) -> re.Pattern[str]:
        """``{name}`` stands for one segment, ``{name:path}`` for all that follows."""
        whole = re.sub(r"\{\w+:path\}", "\x00", self.template)
        single = re.sub(r"\{\w+\}", "\x01", whole)
        return re.compile(re.escape(single).replace("\x00", ".+").replace("\x01", "[^/]+"))


UNKNOWN = Route(frozenset(), "", Access.UNKNOWN)

_GET = frozenset({"GET", "HEAD"})
_POST = frozenset({"POST"})
_BOTH = _GET | _POST
_ANY = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_WEIGHTS = "weights are changed by policies, not under them"
_CACHE = "the cache is kept right by block keys"
_ABORT = "it would end requests of others"
_RENDER = "a rendered prompt leaves its policy behind; call the route that generates"
_POOLING = "a pooling request carries no policy"
_SPEECH = "only text models are served"
_SCALE = "the number of engines is fixed at start"
_DEV = "it is a development route"


def _routes(
    access: Access, methods: frozenset[str], templates: Iterable[str], reason: str = ""
) -> tuple[Route, ...]:
    return tuple(Route(methods, template, access, reason) for template in templates)


def _closed(reason: str, *templates: str) -> tuple[Route, ...]:
    return _routes(Access.CLOSED, _ANY, templates, reason)


OPEN = ("login", "login.js", "style.css", "icon.svg")
"""Files of the dashboard without which nobody can log in."""

TABLE: tuple[Route, ...] = (
    *_routes(Access.PROBE, _GET, ("/livez", "/readyz")),
    *_routes(Access.PROBE, _GET, tuple(f"/dashboard/{name}" for name in OPEN)),
    *_routes(Access.PUBLIC, _GET, ("/metrics", "/health")),
    *_routes(Access.PUBLIC, _BOTH, ("/ping",)),
    *_routes(
        Access.GENERATE,
        _POST,
        (
            "/v1/chat/completions",
            "/v1/chat/completions/batch",
            "/v1/completions",
            "/v1/responses",
            "/v1/messages",
            "/inference/v1/generate",
        ),
    ),
    *_routes(Access.TOKENS, _POST, ("/tokenize", "/detokenize", "/v1/messages/count_tokens")),
    *_routes(Access.MODELS, _GET, ("/v1/models", "/v1/models/{model:path}")),
    *_routes(Access.INFERENCE, _GET, ("/version", "/load", "/v1/responses/{response_id}")),
    *_routes(Access.INFERENCE, _POST, ("/v1/responses/{response_id}/cancel",)),
    *_routes(
        Access.OPERATIONS,
        _ANY,
        ("/trimtab/{rest:path}", "/dashboard", "/dashboard/", "/dashboard/{r:path}"),
    ),
    *_routes(
        Access.ADMIN,
        _GET,
        (
            "/openapi.json",
            "/docs",
            "/docs/oauth2-redirect",
            "/redoc",
            "/static/{file:path}",
            "/tokenizer_info",
            "/kv_event_sources",
        ),
    ),
    *_closed(
        _WEIGHTS,
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
    ),
    *_closed(_ABORT, "/inference/v1/abort_requests", "/abort_requests"),
    *_closed(
        _RENDER,
        "/v1/chat/completions/render",
        "/v1/chat/completions/derender",
        "/v1/completions/render",
        "/v1/completions/derender",
        "/v1/messages/render",
        "/v1/responses/render",
        "/cohere/v2/chat/render",
    ),
    *_closed(
        _POOLING,
        "/pooling",
        "/classify",
        "/score",
        "/v1/score",
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
        "/v1/embeddings",
        "/v2/embed",
    ),
    *_closed(_SPEECH, "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/realtime"),
    *_closed(_CACHE, "/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"),
    *_closed(_SCALE, "/scale_elastic_ep", "/is_scaling_elastic_ep", "/fault_tolerance/{r:path}"),
    *_closed(
        _DEV,
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
    ),
    *_closed(
        "it forwards to other routes and past their policies; call the route itself", "/invocations"
    ),
    *_closed(
        "structured decisions may run as pooling, which carries no policy; use "
        "/v1/chat/completions with logprobs",
        "/v1/systemone",
    ),
    *_closed(
        "vLLM's key does not guard it; use /v1/completions with logprobs", "/generative_scoring"
    ),
    *_closed(
        "its streams are not proven with policies; use /v1/chat/completions", "/cohere/v2/chat"
    ),
)


class AccessTable:
    """Finds the route of a request."""

    def __init__(self, routes: Iterable[Route] = TABLE) -> None:
        """Compile the table; templates without parameters are looked up at once."""
        self._exact: Mapping[str, Route] = {r.template: r for r in routes if "{" not in r.template}
        self._patterns = tuple((r.pattern, r) for r in routes if "{" in r.template)

    def find(self, path: str) -> Route:
        """Return the route of a path; methods are for the caller to compare."""
        exact = self._exact.get(path)
        if exact is not None:
            return exact
        return next((r for pattern, r in self._patterns if pattern.fullmatch(path)), UNKNOWN)


def route_path(scope: Scope) -> str:
    """Return the path as vLLM's router sees it: without the root path, percent signs decoded."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :]
    return path
