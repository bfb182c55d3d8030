"""The books over real sockets: shared by content, freed by the last, once the engine knows."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import torch

from forward.allocation import Allocator
from forward.clauses import TokenClause
from forward.columns import Read, constant
from forward.gates import Gate
from forward.hookpoints import HookPoint
from forward.program import Program, RowContent, SiteContent, Watch
from forward.site import Capacity, Site
from forward.tables import CapacityError, apply_patch
from service.engine.book_client import SharedBooks
from service.engine.book_keeper import BookKeeper
from service.engine.book_wire import PATH_NAME
from service.engine.books import ActivationError, OwnBooks
from service.engine.program_wire import ProgramWireError, dump_program, parse_program
from service.engine.slots import Slots
from service.engine.wire import TableUpdate, table_digest
from tests.engine.programs import POINTS, program, unit, varied

D = 128
SIZE = Capacity(rows=8, reads=16, writes=16)


class Rank:
    """A rank's tables, written as a worker writes them."""

    def __init__(self) -> None:
        self.sites = {point: Site(D, SIZE) for point in POINTS}
        self.rows: dict[int, str] = {}
        self.reads: dict[int, str] = {}
        self.writes = 0
        self.free = asyncio.Event()
        self.free.set()

    async def write(self, update: TableUpdate) -> Sequence[str]:
        await self.free.wait()
        self.writes += 1
        told = TableUpdate.parse(update.dump(), update.rows, update.reads)
        for point, patch in told.patches.items():
            apply_patch(self.sites[point], patch)
        self.rows |= told.rows
        self.reads |= told.reads
        return [table_digest(self.rows, self.reads)]


def allocator() -> Allocator:
    return Allocator(D, dict.fromkeys(POINTS, SIZE), 4)


class Fence:
    """The engine, as far as a process knows that it has taken in what was sent."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.asked = 0

    async def __call__(self) -> None:
        self.asked += 1
        await self.open.wait()


class Server:
    """An owner and the processes that ask it."""

    def __init__(self, folder: Path) -> None:
        self.rank = Rank()
        self.own = OwnBooks(allocator(), self.rank.write)
        self.keeper = BookKeeper(self.own)
        self.path = folder / PATH_NAME
        self.fences: list[Fence] = []
        self.others: list[SharedBooks] = []

    async def join(self) -> SharedBooks:
        fence = Fence()
        books = await SharedBooks.connect(self.path, 1 + len(self.others), fence)
        self.fences.append(fence)
        self.others.append(books)
        return books


@asynccontextmanager
async def serving(folder: Path) -> AsyncGenerator[Server]:
    server = Server(folder)
    await server.keeper.start(server.path)
    try:
        yield server
    finally:
        for books in server.others:
            await books.close()
        await server.keeper.close()


async def until(is_so: object, what: str = "it") -> None:
    """Wait until a call says yes."""
    assert callable(is_so)
    for _ in range(500):
        if is_so():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{what} did not come about")


def rich() -> Program:
    """Return a program with everything that a program can have."""
    gate = Gate(POINTS[0], Read(unit(D, 50), -0.5), 1.25, False, TokenClause("generation", 2))
    column = constant(unit(D, 51)).gated(gate)
    content = RowContent(
        {
            POINTS[0]: SiteContent(unit(D, 52), ((column, 0.1 + 0.2),)),
            POINTS[2]: SiteContent(columns=((constant(unit(D, 53)).measured_by_norm(), -3.0),)),
        }
    )
    base = program("add", TokenClause("generation", 3))
    contents = (content, RowContent(), content, RowContent())
    watched = (Watch(POINTS[1], Read(unit(D, 54), 2.0)), Watch(POINTS[0], gate.read))
    return Program(base.regions, contents, watched)


def arrived(sent: Program) -> Program:
    return parse_program(dump_program(sent))


def test_a_program_arrives_as_it_was_sent() -> None:
    for sent in [*varied(35), rich()]:
        got = arrived(sent)
        assert (got.digest, got.starts, got.latches) == (sent.digest, sent.starts, sent.latches)
        assert got.hook_points == sent.hook_points
    twice = arrived(rich()).contents
    assert twice[0] is twice[2], "one row, sent once"


def test_another_program_is_told_from_the_one_that_was_sent() -> None:
    first, second = (msgspec.msgpack.decode(dump_program(p)) for p in varied(2))
    first[0] = second[0]
    with pytest.raises(ProgramWireError, match="came as"):
        parse_program(msgspec.msgpack.encode(first))
    for wrong in (b"", b"\x93\x01\x02\x03", msgspec.msgpack.encode([*second[:-1], b"x"])):
        with pytest.raises(ProgramWireError):
            parse_program(wrong)


async def test_the_tables_are_those_of_one_process(tmp_path: Path) -> None:
    """Programs placed by three processes in turn: the rows and tables that one would have made."""
    programs = [rich(), *varied(4)]
    alone = Rank()
    lonely = OwnBooks(allocator(), alone.write)
    expected = [await lonely.place(one) for one in programs]
    async with serving(tmp_path) as server:
        owners = [server.own, await server.join(), await server.join()]
        made = [await owners[i % 3].place(one) for i, one in enumerate(programs)]
        assert [(m.rows, m.columns) for m in made] == [(e.rows, e.columns) for e in expected]
        assert (server.rank.rows, server.rank.reads) == (alone.rows, alone.reads)
        for point in POINTS:
            pairs = zip(
                server.rank.sites[point].buffers(), alone.sites[point].buffers(), strict=True
            )
            assert all(torch.equal(a, b) for a, b in pairs)
        assert {tuple(b.size.items()) for b in owners} == {tuple(lonely.size.items())}
        await until(lambda: all(b.used == lonely.used for b in owners), "equal use")


async def test_the_owner_knows_who_serves(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        first, second = await server.join(), await server.join()
        assert server.keeper.serving == ()
        second.serves()
        await until(lambda: server.keeper.serving == (2,), "word of the second")
        first.serves()
        await until(lambda: server.keeper.serving == (1, 2), "word of the first")
        await second.close()
        await until(lambda: server.keeper.serving == (1,), "its end")


async def test_one_content_costs_the_tables_once_and_goes_with_its_last_holder(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        first, second = await server.join(), await server.join()
        empty = server.own.used
        placed = [await books.place(rich()) for books in (first, second, server.own)]
        assert len({p.rows for p in placed}) == 1
        alone = OwnBooks(allocator(), Rank().write)
        await alone.place(rich())
        assert server.own.used == alone.used
        for holder in (server.own, second):
            holder.release(rich())
        await second.settled()
        again = await first.place(rich())
        assert again.rows == placed[0].rows
        first.release(rich())
        await first.settled()
        await until(lambda: first.used == alone.used, "news of it")
        first.release(rich())
        await until(lambda: server.own.used == empty, "an empty table")


async def test_what_does_not_fit_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        books = await server.join()
        for seed in range(SIZE.rows - 1):
            await books.place(program(seed=seed))
        full = server.own.used
        with pytest.raises(CapacityError, match="rows"):
            await books.place(program(seed=99))
        with pytest.raises(CapacityError, match="rows"):
            await books.check_all([program(seed=99)])
        with pytest.raises(CapacityError, match=r"no site at resid_post\.9"):
            await books.place(program(point=HookPoint("resid_post", 9)))
        await books.check_all([program(seed=1), program(seed=2)])
        await books.check_all([])
        assert server.own.used == full == books.used
        assert server.rank.writes == SIZE.rows - 1


async def test_ranks_that_disagree_are_told_of(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        books = await server.join()
        server.rank.rows[7] = "something else"
        with pytest.raises(ActivationError, match="not what was applied"):
            await books.place(program())
        assert not any(server.own.used.values())


async def test_a_release_waits_until_the_engine_knows_of_every_abort(tmp_path: Path) -> None:
    """Rows are not free while an abort may still be on its way; a later one has its own fence."""
    async with serving(tmp_path) as server:
        books = await server.join()
        [fence] = server.fences
        for seed in (1, 2):
            await books.place(program(seed=seed))
        fence.open.clear()
        books.release(program(seed=1))
        await until(lambda: fence.asked == 1, "a fence")
        books.release(program(seed=2))
        await asyncio.sleep(0.05)
        assert server.own.used["rows"] == 2 and fence.asked == 1
        fence.open.set()
        await books.settled()
        assert fence.asked == 2
        await until(lambda: server.own.used["rows"] == 0, "free rows")


async def test_whoever_stops_waiting_leaves_nothing_behind(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        books = await server.join()
        server.rank.free.clear()
        asking = asyncio.create_task(books.place(program()))
        await until(lambda: server.own.used["rows"] == 1, "a booking")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert server.own.used["rows"] == 1
        server.rank.free.set()
        await until(lambda: server.own.used["rows"] == 0, "free rows")


async def test_slots_keep_their_promises_on_shared_books(tmp_path: Path) -> None:
    """A retired slot's rows stay until this process's last request under it has ended."""
    async with serving(tmp_path) as server:
        books = await server.join()
        here, there = Slots(books), Slots(server.own)
        mine, other = await here.place(rich()), await there.place(rich())
        here.acquire(mine)
        here.retire(mine)
        there.retire(other)
        await asyncio.sleep(0.05)
        assert here.draining == 1 and there.draining == 0 and server.own.used["rows"] == 1
        here.release(mine)
        await until(lambda: server.own.used["rows"] == 0, "free rows")
        with pytest.raises(ActivationError, match="after its rows were freed"):
            here.acquire(mine)


async def test_a_process_that_is_gone_keeps_what_its_requests_may_still_use(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        books, other = await server.join(), await server.join()
        await books.place(program())
        await books.close()
        await asyncio.sleep(0.05)
        assert server.own.used["rows"] == 1
        await other.place(program(seed=1))
        assert server.own.used["rows"] == 2


async def test_without_an_owner_nothing_is_placed(tmp_path: Path) -> None:
    server = Server(tmp_path)
    joining = asyncio.create_task(server.join())
    await asyncio.sleep(0.15)
    assert not joining.done(), "the owner does not listen yet"
    await server.keeper.start(server.path)
    books = await joining
    server.rank.free.clear()
    asking = asyncio.create_task(books.place(program()))
    await until(lambda: server.own.used["rows"] == 1, "a booking")
    await server.keeper.close()
    for _ in range(2):
        with pytest.raises(ActivationError, match="is gone"):
            await asyncio.wait_for(asking, 5)
        asking = asyncio.create_task(books.place(program()))
    asking.cancel()
    await books.close()


async def test_what_is_no_message_ends_the_connection_and_nothing_else(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        books = await server.join()
        for wrong in (b"\xff" * 12, b"\x00\x00\x00\x02{}"):
            reader, writer = await asyncio.open_unix_connection(server.path)
            writer.write(wrong)
            assert await reader.read() == b""
            writer.close()
        books.release(program())  # never placed: this one does not speak as it should either
        await books.settled()
        with pytest.raises(ActivationError):
            for _ in range(100):
                await books.check_all([program()])
                await asyncio.sleep(0.01)
        assert (await (await server.join()).place(program())).rows
