"""A test's world behind a real socket, for clients that are programs of their own."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import uvicorn

from tests.service.api.world import World, build

START_SECONDS = 60.0


class Listening:
    """A world on a loop and a thread of its own; ``url`` is where it listens."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, World]] = build) -> None:
        """Keep how the world is made."""
        self._make = make
        self._server: uvicorn.Server | None = None
        self._ready = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=1)
        self.url = ""

    async def _serve(self) -> None:
        world = await self._make()
        config = uvicorn.Config(world.app, port=0, lifespan="off", log_level="critical")
        self._server = uvicorn.Server(config)
        serving = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._ready.set()
        await serving
        world.store.close()

    def __enter__(self) -> Self:
        """Start, and return once it listens."""
        self._running = self._pool.submit(lambda: asyncio.run(self._serve()))
        started = time.monotonic()
        while not self._ready.wait(0.05):
            if self._running.done():
                self._running.result()
            assert time.monotonic() - started < START_SECONDS, "the world does not listen"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop, and wait until it has."""
        assert self._server is not None
        self._server.should_exit = True
        self._running.result()
        self._pool.shutdown()
