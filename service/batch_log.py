"""A log that takes items on the event loop and writes them off it, in batches.

It never holds a request up: what a store does not take waits, up to a limit, and what finds no room
is dropped and counted.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from service.database import StoreError

MAX_WAITING = 10_000
"""Items that may wait to be written."""
MAX_BATCH = 500
PAUSE_SECONDS = 0.02
"""How long a writer waits for more before it writes a batch."""
RETRY_SECONDS = 1.0

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Taken = TypeVar("Taken", contravariant=True)


class Taker(Protocol[Taken]):
    """Keeps batches."""

    def add(self, batch: Sequence[Taken], /) -> None:
        """Write a batch in one transaction. Blocking.

        Raises:
            StoreError: Nothing of it is written, or it is not known whether it is.
        """
        ...


class BatchLog(Generic[Item]):
    """A bounded queue and its writer; ``dropped`` counts what found no room."""

    def __init__(
        self,
        taker: Taker[Item],
        what: str,
        on_drop: Callable[[], None] = lambda: None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """Write to ``taker``; ``what`` names the items in the log, ``on_drop`` hears of each."""
        self._taker, self._what = taker, what
        self._on_drop, self._max = on_drop, max_waiting
        self._waiting: deque[Item] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._written = asyncio.Event()
        self.dropped = 0

    def put(self, found: Iterable[Item]) -> None:
        """Queue items to be written; call on the event loop."""
        lost = 0
        for item in found:
            if len(self._waiting) >= self._max:
                lost += 1
                self._drop()
            else:
                self._waiting.append(item)
        if lost:
            logger.warning("%d %s were dropped: the queue is full", lost, self._what)
        if self._waiting and (self._writer is None or self._writer.done()):
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def written(self, seconds: float) -> None:
        """Wait until something is written, or for so long."""
        written = self._written
        try:
            async with asyncio.timeout(seconds):
                await written.wait()
        except TimeoutError:
            return

    async def flush(self) -> None:
        """Wait until all that was put is written, or one attempt to write it has failed."""
        if self._writer is not None:
            await asyncio.wait([self._writer], timeout=2 * RETRY_SECONDS)

    async def close(self) -> None:
        """Write what waits, as far as the store takes it, and stop."""
        await self.flush()
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait([self._writer])
        for _ in self._waiting:
            self._drop()
        if self._waiting:
            logger.warning("%d %s were not written before the end", len(self._waiting), self._what)

    def _drop(self) -> None:
        self.dropped += 1
        self._on_drop()

    async def _write(self) -> None:
        while self._waiting:
            await asyncio.sleep(PAUSE_SECONDS)
            batch = [self._waiting[i] for i in range(min(MAX_BATCH, len(self._waiting)))]
            try:
                await asyncio.to_thread(self._taker.add, batch)
            except StoreError as error:
                logger.warning("%d %s are not written yet: %s", len(batch), self._what, error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for _ in batch:
                self._waiting.popleft()
            self._written.set()
            self._written = asyncio.Event()
