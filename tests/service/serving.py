"""The world of the API tests behind a real socket, for what speaks HTTP itself."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import uvicorn

from tests.service.api.world import World

START_SECONDS = 60


class _Served:
    def __init__(self, make: Callable[[], Awaitable[World]]) -> None:
        self._make, self.started = make, threading.Event()
        self.world: World | None = None
        self.server: uvicorn.Server | None = None

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.world = await self._make()
        config = uvicorn.Config(self.world.app, port=0, log_level="error", lifespan="off")
        self.server = uvicorn.Server(config)
        ticking = asyncio.create_task(self._tell(self.server))
        await self.server.serve()
        await ticking
        self.world.store.close()

    async def _tell(self, server: uvicorn.Server) -> None:
        while not server.started:
            await asyncio.sleep(0.01)
        self.started.set()


@contextmanager
def served_world(make: Callable[[], Awaitable[World]]) -> Generator[tuple[str, World]]:
    """Serve a world from a thread with a loop of its own; yield its URL and it."""
    served = _Served(make)
    thread = threading.Thread(target=served.run)
    thread.start()
    try:
        assert served.started.wait(START_SECONDS)
        assert served.server is not None and served.world is not None
        port = served.server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", served.world
    finally:
        if served.server is not None:
            served.server.should_exit = True
        thread.join(START_SECONDS)
