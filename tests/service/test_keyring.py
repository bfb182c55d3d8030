"""The keys as one process knows them: how old they get, and what holds without the store."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from service.callers import OWNER
from service.database import StoreError
from service.keyring import MAX_AGE_SECONDS, PATIENCE_SECONDS, KeyRing
from service.keys import KeyStore, KnownKey, NewKey
from service.store import Store


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Wire(KeyStore):
    """A real store behind a line that can be cut, or held."""

    def __init__(self, store: Store) -> None:
        super().__init__(store._database)
        self.is_cut, self.reads, self.is_held = False, 0, False
        self.hold: threading.Event | None = None  # what the next read waits for on its way back

    def known(self) -> tuple[KnownKey, ...]:
        self.reads += 1
        if self.is_cut:
            raise StoreError("the line is cut")
        found, hold, self.hold = super().known(), self.hold, None
        if hold is not None:
            self.is_held = True
            hold.wait(20)
        return found


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Store.ephemeral() as store:
        yield Wire(store)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ring(wire: Wire, clock: Clock) -> KeyRing:
    return KeyRing(wire, clock)


async def test_nothing_is_known_before_it_is_read(ring: KeyRing, wire: Wire) -> None:
    issued = wire.create(NewKey("ci", "infer"), OWNER)
    assert not ring.is_read and not ring.is_empty and ring.find(issued.text) is None
    await ring.fresh()
    assert ring.is_read and ring.find(issued.text) == issued.key


async def test_a_first_read_may_take_its_time(ring: KeyRing, wire: Wire) -> None:
    """While nothing is known a request could only be refused, so it waits longer."""
    issued = wire.create(NewKey("ci", "infer"), OWNER)
    wire.hold = hold = threading.Event()
    asyncio.get_running_loop().call_later(PATIENCE_SECONDS + 0.4, hold.set)
    await ring.fresh()
    assert ring.fault is None and ring.find(issued.text) == issued.key


async def test_only_its_own_secret_finds_a_key(ring: KeyRing, wire: Wire) -> None:
    one, other = (wire.create(NewKey(name, "infer"), OWNER) for name in ("one", "other"))
    await ring.fresh()
    swapped = f"tt-{one.key.id}-{other.text.rpartition('-')[2]}"
    for text in (swapped, one.text[:-1], one.text + "0", f"tt-{one.key.id}-{'0' * 64}", ""):
        assert ring.find(text) is None
    assert ring.find(one.text) == one.key


async def test_what_another_process_did_is_seen_in_time(
    ring: KeyRing, wire: Wire, clock: Clock
) -> None:
    await ring.fresh()
    assert ring.is_empty
    issued = wire.create(NewKey("ci", "infer"), OWNER)
    clock.now += MAX_AGE_SECONDS / 2
    await ring.fresh()
    assert ring.find(issued.text) is None and wire.reads == 1
    clock.now += MAX_AGE_SECONDS / 2
    await ring.fresh()
    assert ring.find(issued.text) == issued.key and not ring.is_empty
    wire.revoke(issued.key.id, OWNER)
    clock.now += MAX_AGE_SECONDS
    await ring.fresh()
    assert ring.find(issued.text) is None and not ring.is_live(issued.key.id)
    assert not ring.is_empty, "a key that is revoked still closes what was open"


async def test_a_change_here_is_known_at_once(ring: KeyRing, wire: Wire) -> None:
    issued = wire.create(NewKey("ci", "infer"), OWNER)
    await ring.refresh()
    assert ring.find(issued.text) == issued.key
    wire.revoke(issued.key.id, OWNER)
    await ring.refresh()
    assert ring.find(issued.text) is None


async def test_many_ask_and_one_reads(ring: KeyRing, wire: Wire) -> None:
    await asyncio.gather(*(ring.fresh() for _ in range(50)))
    assert wire.reads == 1


async def test_the_last_good_holds_when_the_store_is_gone(
    ring: KeyRing, wire: Wire, clock: Clock
) -> None:
    issued = wire.create(NewKey("ci", "infer"), OWNER)
    await ring.fresh()
    wire.is_cut = True
    for _ in range(3):
        clock.now += 60
        await ring.fresh()
        await asyncio.sleep(0.05)
        assert ring.find(issued.text) == issued.key
    assert ring.fault == "the line is cut"
    assert ring.status()["fault"] and ring.status()["age_seconds"] == 180
    wire.is_cut = False
    wire.revoke(issued.key.id, OWNER)
    clock.now += 60
    await ring.fresh()
    await asyncio.sleep(0.05)
    assert ring.fault is None and ring.find(issued.text) is None


async def test_nobody_waits_long_for_a_store_that_hangs(
    ring: KeyRing, wire: Wire, clock: Clock
) -> None:
    issued = wire.create(NewKey("ci", "infer"), OWNER)
    await ring.fresh()
    wire.hold = hold = threading.Event()
    clock.now += 60
    began = time.monotonic()
    await ring.fresh()
    first = time.monotonic() - began
    for _ in range(20):
        clock.now += 60
        await ring.fresh()
    assert first < 2 and time.monotonic() - began - first < 0.5
    assert ring.fault == "the store does not answer" and ring.find(issued.text) == issued.key
    assert wire.reads == 2, "one read hangs, not one a request"
    hold.set()


async def test_a_slow_read_does_not_bring_back_what_was_revoked(
    ring: KeyRing, wire: Wire, clock: Clock
) -> None:
    issued = wire.create(NewKey("ci", "infer"), OWNER)
    wire.hold = hold = threading.Event()
    slow = asyncio.create_task(ring.refresh())
    while not wire.is_held:
        await asyncio.sleep(0.01)
    wire.revoke(issued.key.id, OWNER)
    clock.now += 0.1
    await ring.refresh()
    hold.set()
    await slow
    assert ring.find(issued.text) is None
