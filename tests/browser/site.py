"""The test world behind a real HTTP server, on a thread of its own, for browsers to look at."""

import asyncio
import json
import threading
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Self

import httpx
import uvicorn

from monitors import probe_card
from service.api.observer import Observer
from service.callers import OWNER, Role
from service.keys import NewKey
from tests.browser.speaking import Speaking
from tests.service.api import world as worlds
from tests.service.api.test_monitors import add, calibrated, guard, monitor
from tests.service.api.world import ADMIN, SERVED, World, binding, build, server_of, steering
from tests.service.monitored import PROMPTING, post, probe

CAPTURING = {
    "capture": True,
    "monitors": {
        "harm": {"mode": "enforce", "fpr": 0.1, "do": "alert"},
        "deep": {"mode": "shadow", "above": 2.0, "do": "log"},
    },
}
SILENT = {"monitors": {"harm": {"mode": "shadow", "fpr": 0.1, "do": "alert"}}}
DOCUMENTS: tuple[Mapping[str, Any], ...] = (
    monitor("harm"),
    monitor("deep", read={"probe": "harm-1"}, pool="mean"),
    steering("formal", strength={"default": 1, "min": 0, "max": 2}),
    guard("watchful", **CAPTURING),
    guard("discreet", **SILENT),
    binding(policy="watchful"),
)
RUN_SECONDS = 60


class Site:
    """A running server; ``url`` is where it is."""

    def __init__(self, documents: Sequence[Mapping[str, Any]] = DOCUMENTS) -> None:
        """Start it on a free port, with documents that were applied over the API."""
        self._documents = documents
        self._loop = asyncio.new_event_loop()
        self._server: uvicorn.Server | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._echo, worlds.Echo = worlds.Echo, Speaking
        self._thread.start()
        assert self._started.wait(RUN_SECONDS), "the test site did not start"

    def __enter__(self) -> Self:
        """Return the site."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the server."""
        worlds.Echo, Speaking.observer = self._echo, None
        if self._server is not None:
            self._server.should_exit = self._server.force_exit = True
        self._thread.join(RUN_SECONDS)

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something on the server's loop and return what comes of it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(RUN_SECONDS)

    def key(self, role: Role) -> str:
        """Return a new key with a role."""
        name = f"{role}-{len(self.world.store.keys().all())}"
        made = self.world.store.keys().create(NewKey(name, role), OWNER).text
        self.call(server_of(self.world).keys.ring.refresh())  # else it is known in a second
        return made

    def ask(self, text: str, **fields: Any) -> httpx.Response:
        """Send a chat request as a client would, and wait until what came of it is in the store."""
        body = {"model": SERVED, "messages": [{"role": "user", "content": text}], **fields}
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=ADMIN)
        server = server_of(self.world)
        for log in (server.events, server.decisions):
            self.call(log.flush())
        return answer

    def get(self, path: str) -> Any:
        """Ask an operation as the owner of the admin key."""
        return httpx.get(f"{self.url}/trimtab/v1/{path}", headers=ADMIN).json()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        points = [post(k) for k in (0, 1, 2, 3)]
        self.world: World = await build((), points=points, prompting=PROMPTING)
        server = server_of(self.world)
        Speaking.observer = Observer(server.metrics, server.events)
        await self._fill()
        config = uvicorn.Config(self.world.app, port=0, log_level="warning", lifespan="off")
        self._server = uvicorn.Server(config)
        serving = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._started.set()
        await serving
        self.world.store.close()
        await self._loop.shutdown_default_executor()

    async def _fill(self) -> None:
        for artifact in (probe_card.to_artifact(probe("harm-1")), calibrated()):
            assert (await add(self.world, artifact)).status_code == 201
        text = "\n---\n".join(json.dumps(document) for document in self._documents)
        answer = await self.world.call("POST", "/trimtab/v1/policies", key=True, content=text)
        assert answer.status_code == 200, answer.text
