"""How a server ends: at a signal, after what has begun is finished; or because its engine died.

vLLM's own handler of signals ends the engine first, and with it every answer. It is replaced.
"""

import asyncio
import logging
import signal
from collections.abc import Callable

import uvicorn

from service.api.drain import Drain

LAST_WORDS_SECONDS = 2
"""How long answers that are over, or whose engine is dead, may take to reach their clients."""
LOOK_SECONDS = 0.1

logger = logging.getLogger(__name__)


class EngineDiedError(RuntimeError):
    """The engine died under its server."""


class ProcessDiedError(RuntimeError):
    """A process of a server ended by itself, and the server with it."""


class Stopping:
    """Ends one server, on the event loop that it runs on."""

    def __init__(self, server: uvicorn.Server, drain: Drain, seconds: float) -> None:
        """End ``server``; what is under way at a signal has ``seconds``."""
        self._server, self._drain, self._seconds = server, drain, seconds
        self._ending: asyncio.Task[None] | None = None

    def heed_signals(self) -> None:
        """Take SIGTERM and SIGINT over: the first drains, the second ends at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def end(self) -> None:
        """End now; answers that are over still reach their clients."""
        # uvicorn cancels what is under way after this: whoever follows events never leaves.
        self._server.config.timeout_graceful_shutdown = LAST_WORDS_SECONDS
        self._server.should_exit = True

    async def watch(self, is_dead: Callable[[], bool]) -> None:
        """End once the engine is dead."""
        while not is_dead():
            await asyncio.sleep(LOOK_SECONDS)
        logger.critical("the engine died; the server ends, for its supervisor to start it again")
        self.end()

    def _on_signal(self) -> None:
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end())
            return
        logger.warning("a second signal: %d requests are cut short", self._drain.inside)
        self._server.should_exit = self._server.force_exit = True

    async def _end(self) -> None:
        self._drain.begin(self._seconds)
        logger.info("ending: %d requests have %g s", self._drain.inside, self._seconds)
        if not await self._drain.emptied():
            logger.warning("%d requests are cut short: time is over", self._drain.inside)
        self.end()
