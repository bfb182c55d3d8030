"""The books of an engine's tables as the API processes have them that do not own them.

What a process lets go of may still be on its way out of the engine: an abort travels on another
socket than the next write of the rows, and could come second. So a release is said only after the
engine has answered something that was asked after the abort (``Fence``).
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from forward.allocation import Placement
from forward.hookpoints import HookPoint
from forward.program import Program
from forward.tables import CapacityError
from service.engine.book_wire import (
    Asked,
    BookWireError,
    Check,
    Fits,
    Hello,
    Place,
    Placed,
    Refused,
    Release,
    Serves,
    Told,
    Used,
    Welcome,
    read_message,
    write_message,
)
from service.engine.books import ActivationError
from service.engine.program_wire import dump_program

Fence = Callable[[], Awaitable[object]]
"""Returns once the engine has taken in all that this process has sent it."""
Answer = Placed | Fits

RETRY_SECONDS = 0.1
_GONE = "the API process that keeps the tables' books is gone: nothing can be placed"

logger = logging.getLogger(__name__)


class SharedBooks:
    """Asks the owner, from ``connect`` to ``close``. One event loop."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fence: Fence
    ) -> None:
        """Use ``connect``."""
        self._reader, self._writer, self._fence = reader, writer, fence
        self._decoder = msgspec.msgpack.Decoder(Told)
        self._calls = itertools.count()
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._welcomed = asyncio.get_running_loop().create_future()
        self._size: dict[str, int] = {}
        self._used: dict[str, int] = {}
        self._let_go: list[str] = []
        self._releasing: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._hearing = asyncio.create_task(self._hear())

    @classmethod
    async def connect(cls, path: Path, process: int, fence: Fence) -> Self:
        """Wait until the owner listens at ``path``, and be process number ``process`` to it.

        Raises:
            ActivationError: It is gone.
        """
        while True:
            with suppress(FileNotFoundError, ConnectionRefusedError):
                reader, writer = await asyncio.open_unix_connection(path)
                break
            await asyncio.sleep(RETRY_SECONDS)
        books = cls(reader, writer, fence)
        books._tell(Hello(process))
        await books._welcomed
        return books

    @property
    def used(self) -> dict[str, int]:
        """Indices in use by table name, by all processes, as the owner said last."""
        return dict(self._used)

    @property
    def size(self) -> dict[str, int]:
        """Indices there are by table name."""
        return dict(self._size)

    async def check_all(self, programs: Iterable[Program]) -> None:
        """Refuse programs that cannot all be placed; see ``service.engine.books.Books``."""
        packed = [dump_program(program) for program in programs]
        if packed:
            await self._ask(Check(next(self._calls), packed))

    async def place(self, program: Program) -> Placement:
        """Have a program booked and written; see ``service.engine.books.Books``."""
        asked = Place(next(self._calls), dump_program(program))
        asking = asyncio.ensure_future(self._ask(asked))
        try:
            answer = await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(lambda done: self._undo(done, program))
            raise
        if not isinstance(answer, Placed):
            raise ActivationError(f"no placement was answered, but {answer}")
        columns = {(HookPoint.parse_site(p), digest): c for p, digest, c in answer.columns}
        return Placement(program, tuple(answer.rows), {}, None, columns)

    def release(self, program: Program) -> None:
        """Have a program taken off the books, once nothing that used it is in the engine."""
        self._let_go.append(program.digest)
        if self._releasing is None:
            self._releasing = asyncio.create_task(self._release())

    def serves(self) -> None:
        """Tell the owner that this process answers requests."""
        self._tell(Serves())

    async def settled(self) -> None:
        """Wait until what was released is said."""
        while self._releasing is not None:
            await asyncio.wait([self._releasing])

    async def close(self) -> None:
        """Let go of the owner; what is on the books stays there."""
        self._hearing.cancel()
        with suppress(asyncio.CancelledError):
            await self._hearing
        self._writer.close()

    async def _release(self) -> None:
        try:
            while self._let_go:
                # Whatever is let go of from here on waits for the next fence.
                digests, self._let_go = self._let_go, []
                await self._fence()
                self._tell(Release(digests))
        finally:
            self._releasing = None

    def _undo(self, done: "asyncio.Future[Answer]", program: Program) -> None:
        if not done.cancelled() and done.exception() is None:
            self.release(program)

    async def _ask(self, asked: Place | Check) -> Answer:
        """Return the answer.

        Raises:
            CapacityError: The tables cannot hold it.
            ActivationError: It is not done for another reason, or the owner is gone.
        """
        if self._hearing.done():
            raise ActivationError(_GONE)
        future = self._asked[asked.call] = asyncio.get_running_loop().create_future()
        self._tell(asked)
        try:
            return await future
        finally:
            del self._asked[asked.call]

    def _tell(self, message: Asked) -> None:
        if not self._writer.is_closing():
            write_message(self._writer, message)

    async def _hear(self) -> None:
        try:
            while (data := await read_message(self._reader)) is not None:
                self._heed(self._decoder.decode(data))
        except (BookWireError, msgspec.DecodeError):
            logger.exception("the owner of the books does not speak as it should")
        finally:
            for waiting in (self._welcomed, *self._asked.values()):
                if not waiting.done():
                    waiting.set_exception(ActivationError(_GONE))
            self._writer.close()

    def _heed(self, told: Told) -> None:
        if isinstance(told, Welcome):
            self._size, self._used = told.size, told.used
            self._welcomed.set_result(None)
        elif isinstance(told, Used):
            self._used = told.used
        elif (asking := self._asked.get(told.call)) is not None and not asking.done():
            if isinstance(told, Refused):
                error = CapacityError if told.is_full else ActivationError
                asking.set_exception(error(told.message))
            else:
                asking.set_result(told)
