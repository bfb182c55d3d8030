"""A server in one process: real governor, real tables, and in vLLM's place an app that echoes."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import torch
from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry, make_asgi_app
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount

from forward.allocation import Allocator
from forward.fingerprint import ModelFingerprint
from forward.hookpoints import HookPoint
from forward.site import Capacity, Site
from forward.tables import apply_patch
from service.api.app import wrap
from service.api.metrics import Metrics
from service.api.middleware import PolicyMiddleware
from service.api.server import Server
from service.artifacts import ArtifactLibrary
from service.documents import parse_content
from service.engine.books import OwnBooks
from service.engine.lease import CURRENT_LEASE
from service.engine.slots import Slots
from service.engine.wire import TableUpdate, table_digest
from service.governor import Governor
from service.job_runner import JobRunner
from service.prompting import UNREAD, Prompting
from service.settings import Settings
from service.store import Store
from steering.card import to_artifact
from steering.defaults import Defaults
from tests.reference import run_site
from tests.steering.toys import MODEL, random_direction

D, N = 16, 4
KEY = "the-admin-key"
SERVED = "toy"
NAMES = (SERVED, "org/toy")
POINT = HookPoint("resid_post", 2)
ADMIN = {"Authorization": f"Bearer {KEY}"}


@dataclass
class Ranks:
    """Stands for the workers: keeps the sites and what rows hold."""

    sites: dict[HookPoint, Site]
    rows: dict[int, str] = field(default_factory=dict)
    reads: dict[int, str] = field(default_factory=dict)
    broken: bool = False

    async def write(self, update: TableUpdate) -> Sequence[str]:
        received = TableUpdate.parse(update.dump(), update.rows, update.reads)
        for point, patch in received.patches.items():
            apply_patch(self.sites[point], patch)
        self.rows.update(update.rows)
        self.reads.update(update.reads)
        return ["wrong"] if self.broken else [table_digest(self.rows, self.reads)]


@dataclass
class World:
    """What a test needs; ``alive`` stands for the engine, ``pace`` lets streams go on."""

    app: FastAPI
    governor: Governor
    store: Store
    ranks: Ranks
    alive: list[bool]
    pace: asyncio.Event
    seen: list[dict[str, Any]]
    registry: CollectorRegistry

    def client(self, **headers: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)

    async def call(self, method: str, path: str, key: bool = False, **more: Any) -> httpx.Response:
        async with self.client(**(ADMIN if key else {})) as client:
            return await client.request(method, path, **more)

    async def chat(self, **fields: Any) -> httpx.Response:
        headers = fields.pop("headers", {})
        body = {"model": SERVED, "messages": [{"role": "user", "content": "hi"}], **fields}
        return await self.call("POST", "/v1/chat/completions", json=body, headers=headers)

    def applied(self, row: int) -> torch.Tensor:
        """Return what a row adds to a residual of ones."""
        rows = torch.tensor([[row], [0]])
        return run_site(self.ranks.sites[POINT], torch.ones(1, D), rows, torch.ones(2, 1))[0]


def document(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "trimtab/v1",
        "kind": "Policy",
        "metadata": {"name": name},
        "spec": spec,
    }


def steering(name: str, coefficient: float = 1.0, **spec: Any) -> dict[str, Any]:
    tokens = spec.pop("tokens", "all")
    steer = [{"direction": "formal", "coefficient": coefficient, "tokens": tokens}]
    return document(name, steer=steer, **spec)


def binding(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "trimtab/v1",
        "kind": "Binding",
        "metadata": {"name": "default"},
        "spec": spec,
    }


DOCUMENTS = (
    steering("formal", strength={"default": 1, "min": 0, "max": 2}),
    steering("casual", -1.0),
    steering("late", 0.8, tokens="generation"),
    steering("guard", 0.5, selectable=False),
    steering("hidden", 0.9, selectable=False),
    steering("asleep", mode="off"),
    steering("shade", mode="shadow"),
    binding(mandatory=["guard"], policy="none"),
)


def add_directions(store: Store) -> None:
    """Add two directions, if they are not there yet."""
    for seed, name in enumerate(("formal", "other")):
        artifact = to_artifact(random_direction(seed, D, N, name=name, defaults=Defaults((2,))))
        if not store.artifact_by_name("direction", name):
            store.add_artifact(artifact.save(store.artifacts_folder), artifact.card)


async def build(
    documents: Sequence[Mapping[str, Any]] = DOCUMENTS,
    rows: int = 24,
    host: str = "127.0.0.1",
    api_keys: Sequence[str] = (),
    points: Sequence[HookPoint] = (POINT,),
    gates: int = 4,
    prompting: Prompting = UNREAD,
    adapters: Sequence[str] = (),
    store: Store | None = None,
    jobs: JobRunner | None = None,
) -> World:
    """Start a server; with ``store`` it is one more of that store's."""
    capacities = {point: Capacity(rows, 4, 4) for point in points}
    ranks = Ranks({point: Site(D, capacity) for point, capacity in capacities.items()})
    store = store or Store.ephemeral()
    add_directions(store)
    slots = Slots(OwnBooks(Allocator(D, capacities, gates), ranks.write))
    model = ModelFingerprint(MODEL, "llama", D, N)
    governor = Governor(slots, store, ArtifactLibrary(store), model, prompting)
    await governor.start(None)
    await governor.apply([parse_content(d) for d in documents], actor="ann")
    alive, pace, registry = [True], asyncio.Event(), CollectorRegistry()
    pace.set()
    seen: list[dict[str, Any]] = []
    app = wrap(
        echo_app(Echo(alive, pace, seen, (*NAMES, *adapters)), registry),
        governor,
        store=store,
        settings=Settings("toy", host=host, admin_key=KEY),
        served_names=NAMES,
        is_ready=lambda: alive[0],
        capacities=capacities,
        api_keys=api_keys,
        metrics=Metrics(registry),
        adapters=adapters,
        jobs=jobs,
    )
    return World(app, governor, store, ranks, alive, pace, seen, registry)


@dataclass
class Echo:
    """In vLLM's place: says what reached it; its streams look like vLLM's."""

    alive: list[bool]
    pace: asyncio.Event
    seen: list[dict[str, Any]]
    names: Sequence[str] = NAMES

    async def note(self, request: Request) -> dict[str, Any]:
        body = await request.json()
        lease = CURRENT_LEASE.get()
        stamp = lease.stamp().pack() if lease is not None else None
        name = request.headers.get("x-request-id")
        self.seen.append({"body": body, "stamp": stamp, "lease": lease, "name": name})
        return body

    async def generate(self, request: Request) -> Response:
        try:
            body = await self.note(request)
        except ValueError:
            return _failed(400, "no JSON")
        if body.get("die"):
            self.alive[0] = False
            return _failed(500, "engine died")
        if body.get("model", SERVED) not in self.names:
            return _failed(404, "no such model")
        if body.get("stream"):
            events = _events(request.url.path, self.pace)
            return StreamingResponse(events, media_type="text/event-stream")
        return JSONResponse({"id": "a", "model": body.get("model"), "choices": [{"index": 0}]})

    async def other(self, request: Request) -> Response:
        return JSONResponse({"reached": request.url.path})

    async def models(self) -> Any:
        card = {"object": "model", "created": 1, "owned_by": "vllm", "max_model_len": 64}
        return {"object": "list", "data": [{"id": name, **card} for name in self.names]}


GENERATING = (
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/inference/v1/generate",
)
COUNTING = ("/tokenize", "/detokenize", "/v1/messages/count_tokens")


def echo_app(echo: Echo, registry: CollectorRegistry) -> FastAPI:
    """Return an app with vLLM's routes, open and closed."""
    app = FastAPI()
    for path in (*GENERATING, *COUNTING):
        app.add_api_route(path, echo.generate, methods=["POST"], include_in_schema=False)
    for path in ("/pause", "/sleep", "/invocations", "/update_weights", "/never-heard-of"):
        app.add_api_route(path, echo.other, methods=["POST", "GET"], include_in_schema=False)
    for path in ("/health", "/ping", "/version", "/load", "/v1/responses/{i}"):
        app.add_api_route(path, echo.other, methods=["GET"], include_in_schema=False)
    app.add_api_route("/v1/models", echo.models, methods=["GET"], include_in_schema=False)
    metrics = Mount("/metrics", make_asgi_app(registry=registry))
    metrics.path_regex = re.compile("^/metrics(?P<path>.*)$")
    app.router.routes.append(metrics)
    return app


def _failed(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "code": status}}, status)


async def _events(path: str, pace: asyncio.Event) -> AsyncIterator[str]:
    if path == "/v1/messages":
        names = ["message_start", "content_block_delta", "message_stop"]
        data = [{"type": name} for name in names]
    elif path == "/v1/responses":
        names = ["response.created", "response.completed"]
        data = [{"type": name, "response": {"id": "r", "output": []}} for name in names]
    else:
        names = [None] * 4
        data = [{"id": "a", "choices": [{"index": 0, "delta": {"content": c}}]} for c in "abcd"]
    for name, event in zip(names, data, strict=True):
        head = f"event: {name}\n" if name else ""
        yield f"{head}data: {json.dumps(event)}\n\n"
        yield ": keep-alive\n\n"
        await pace.wait()
    if not names[0]:
        yield "data: [DONE]\n\n"


def server_of(world: World) -> Server:
    """Return what the handlers know."""
    layer = world.app.middleware_stack
    assert isinstance(layer, PolicyMiddleware)
    return layer._server


def events_of(text: str) -> list[Any]:
    """Return the data of a stream's events, ``[DONE]`` as it is."""
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
