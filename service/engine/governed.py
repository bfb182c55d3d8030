"""An engine that is checked, with its policies active: what one API process serves with.

The first process checks the engine while nobody else uses it, activates the policies and only then
keeps books for the others. Each of them activates what the store says on those books.
"""

from argparse import Namespace
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vllm.engine.protocol import EngineClient
from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
from vllm.renderers.chat_utils import load_chat_template

from service.engine import mergecheck, servecheck
from service.engine.book_client import SharedBooks
from service.engine.book_keeper import BookKeeper
from service.engine.engine import PolicyEngine
from service.engine.seat import ALONE, Seat
from service.engine.tracks import Tracks
from service.engine.watched import Watching
from service.governor import Governor
from service.prepare import Prepared
from service.prompting import Prompting, templated


@dataclass(eq=False)
class Governed:
    """What ``governed_engine`` gives.

    Attributes:
        engine: The engine.
        governor: What is active; started.
        watching: What watched requests share.
        seat: Which process this is.
        keeper: Keeps books for the others, in the first of several processes.
        shared: The books, in the others.
    """

    engine: PolicyEngine
    governor: Governor
    watching: Watching
    seat: Seat = field(default=ALONE)
    keeper: BookKeeper | None = None
    shared: SharedBooks | None = None

    def waits(self) -> str | None:
        """Return why the server is not whole yet, as far as this process knows; None if it is."""
        serving = 1 + len(self.keeper.serving) if self.keeper is not None else self.seat.count
        if serving >= self.seat.count:
            return None
        return f"{serving} of {self.seat.count} API processes serve so far"

    def serves(self) -> None:
        """Tell the first process that this one serves."""
        if self.shared is not None:
            self.shared.serves()


@asynccontextmanager
async def governed_engine(
    prepared: Prepared, args: Namespace, seat: Seat = ALONE
) -> AsyncGenerator[Governed]:
    """Reach an engine on ``configure``d arguments, check it and activate the policies.

    Raises:
        BootError: The engine is not what policies need.
        ChannelError: No score would reach this process.
        ServiceError, CapacityError: What is to be active cannot be.
    """
    async with AsyncExitStack() as stack:
        building = build_async_engine_client(
            args, client_config=dict(seat.client) if seat.client is not None else None
        )
        client = await stack.enter_async_context(building)
        shared = await _shared(client, seat, stack)
        engine = PolicyEngine(client, prepared.capacities, shared, seat.index)
        if seat.is_first:
            await engine.boot_check()
            await servecheck.check_serving(engine)
            await mergecheck.check_merging(engine)
        governor = Governor(
            engine.slots,
            prepared.store,
            prepared.library,
            prepared.model,
            prompting_of(prepared, args),
            engine.merger,
        )
        await governor.start(prepared.directory, prepared.seed)
        watching = Watching(Tracks(), lambda: getattr(client, "tokenizer", None))
        receiver = await engine.watch(watching.tracks)
        stack.push_async_callback(receiver.close)
        engine.install(governor.default_lease, watching)
        keeper = await _keeper(engine, seat, stack)
        yield Governed(engine, governor, watching, seat, keeper, shared)
        await watching.settled()


async def _shared(client: EngineClient, seat: Seat, stack: AsyncExitStack) -> SharedBooks | None:
    """Return the books of the first process, once it keeps them, in any other one."""
    if seat.is_first or seat.books is None:
        return None
    # Asking whether the engine is paused tells that it has taken in all that was sent before.
    shared = await SharedBooks.connect(seat.books, seat.index, client.is_paused)
    stack.push_async_callback(shared.close)
    return shared


async def _keeper(engine: PolicyEngine, seat: Seat, stack: AsyncExitStack) -> BookKeeper | None:
    if not seat.is_first or seat.books is None:
        return None
    keeper = BookKeeper(engine.books)
    await keeper.start(Path(seat.books))
    stack.push_async_callback(keeper.close)
    return keeper


def prompting_of(prepared: Prepared, args: Namespace) -> Prompting:
    """Return how text becomes tokens here: a chat template that is given replaces the model's."""
    given = load_chat_template(args.chat_template)
    return prepared.prompting if given is None else templated(prepared.prompting, given)
