"""The owner's end of the books: places and releases for the other API processes.

A process that is gone keeps what it has booked. Its requests may still run, and no server goes on
without one of its processes: the supervisor ends them all (``service.engine.processes``).
"""

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

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
from service.engine.books import ActivationError, OwnBooks
from service.engine.program_wire import ProgramWireError, parse_program

_FAILED = "it failed in the process that keeps the tables' books, whose log says why"

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Visitor:
    """A connected process and what it has on the books."""

    writer: asyncio.StreamWriter
    process: int | None = None
    is_serving: bool = False
    programs: dict[str, Program] = field(default_factory=dict[str, Program])
    counts: Counter[str] = field(default_factory=Counter[str])
    tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    def tell(self, message: Told) -> None:
        if not self.writer.is_closing():
            write_message(self.writer, message)


class BookKeeper:
    """Answers on a Unix-domain socket, from ``start`` to ``close``, on the books' event loop."""

    def __init__(self, books: OwnBooks) -> None:
        """Keep ``books`` for others."""
        self._books = books
        self._decoder = msgspec.msgpack.Decoder(Asked)
        self._visitors: set[_Visitor] = set()
        self._visits: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._is_telling = False

    @property
    def serving(self) -> tuple[int, ...]:
        """The other processes that answer requests."""
        visitors = (v.process for v in self._visitors if v.is_serving)
        return tuple(sorted(process for process in visitors if process is not None))

    async def start(self, path: Path) -> None:
        """Listen; others may come from now on.

        Raises:
            OSError: It cannot listen at ``path``.
        """
        self._books.on_change = self._tell_later
        self._server = await asyncio.start_unix_server(self._receive, path)

    async def close(self) -> None:
        """Let go of everybody and listen no more."""
        if self._server is not None:
            self._server.close()
        for visitor in self._visitors:
            visitor.writer.close()
        if self._visits:
            await asyncio.wait(self._visits)

    def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = asyncio.create_task(self._visit(reader, writer))
        self._visits.add(visit)
        visit.add_done_callback(self._visits.discard)

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visitor = _Visitor(writer)
        self._visitors.add(visitor)
        try:
            while (data := await read_message(reader)) is not None:
                self._heed(visitor, self._decoder.decode(data))
        except (BookWireError, ProgramWireError, msgspec.DecodeError):
            logger.exception("API process %s does not speak as it should", visitor.process)
        finally:
            self._visitors.discard(visitor)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def _heed(self, visitor: _Visitor, asked: Asked) -> None:
        if isinstance(asked, Hello):
            visitor.process = asked.process
            visitor.tell(Welcome(self._books.size, self._books.used))
        elif isinstance(asked, Serves):
            visitor.is_serving = True
        elif isinstance(asked, Release):
            for digest in asked.digests:
                self._release(visitor, digest)
        else:
            task = asyncio.create_task(self._answer(visitor, asked))
            visitor.tasks.add(task)
            task.add_done_callback(partial(_ended, visitor))

    async def _answer(self, visitor: _Visitor, asked: Place | Check) -> None:
        told: Told = Refused(asked.call, False, _FAILED)
        try:
            if isinstance(asked, Place):
                told = await self._place(visitor, asked)
            else:
                await self._books.check_all([parse_program(data) for data in asked.programs])
                told = Fits(asked.call)
        except (CapacityError, ActivationError) as error:
            told = Refused(asked.call, isinstance(error, CapacityError), str(error))
        finally:
            visitor.tell(told)

    async def _place(self, visitor: _Visitor, asked: Place) -> Placed:
        program = parse_program(asked.program)
        placement = await self._books.place(program)
        visitor.programs[program.digest] = program
        visitor.counts[program.digest] += 1
        columns = [(str(p), digest, column) for (p, digest), column in placement.columns.items()]
        return Placed(asked.call, list(placement.rows), columns)

    def _release(self, visitor: _Visitor, digest: str) -> None:
        """Take a program off the books.

        Raises:
            BookWireError: The process does not hold it.
        """
        if not visitor.counts[digest]:
            raise BookWireError(f"program {digest} is released, and is not held")
        self._books.release(visitor.programs[digest])
        visitor.counts[digest] -= 1
        if not visitor.counts[digest]:
            del visitor.counts[digest], visitor.programs[digest]

    def _tell_later(self) -> None:
        """Tell everybody how full the tables are, once for all changes of this turn of the loop."""
        if not self._is_telling:
            self._is_telling = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._is_telling = False
        told = Used(self._books.used)
        for visitor in self._visitors:
            visitor.tell(told)


def _ended(visitor: _Visitor, task: asyncio.Task[None]) -> None:
    visitor.tasks.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("API process %s asked in vain", visitor.process, exc_info=error)
