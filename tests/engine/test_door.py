"""The door: nobody comes in while it is shut, and shutting waits for those inside."""

import asyncio

import pytest

from service.engine.door import Door, DoorError


async def stay(door: Door, until: asyncio.Event, seen: list[str], name: str) -> None:
    """Come in, say so, and leave when told."""
    async with door.passage():
        seen.append(name)
        await until.wait()
    seen.append(f"{name} left")


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_shutting_waits_for_those_inside_and_keeps_others_out() -> None:
    door, leave, seen = Door(), asyncio.Event(), list[str]()
    first = asyncio.create_task(stay(door, leave, seen, "first"))
    await settle()

    async def change() -> None:
        async with door.shut(10):
            seen.append("changed")
            await settle()
            assert door.inside == 0

    changing = asyncio.create_task(change())
    await settle()
    second = asyncio.create_task(stay(door, leave, seen, "second"))
    await settle()
    assert seen == ["first"] and door.inside == 1
    leave.set()
    await asyncio.gather(first, changing, second)
    assert seen == ["first", "first left", "changed", "second", "second left"]


async def test_a_visit_goes_on_behind_a_shut_door_and_is_waited_for() -> None:
    """What a visitor starts is let in, also from tasks; once the visit is over it is not."""
    door, seen, leave = Door(), list[str](), asyncio.Event()
    begin, outlive = asyncio.Event(), asyncio.Event()

    async def later(name: str, after: asyncio.Event) -> None:
        await after.wait()
        async with door.passage():
            seen.append(name)

    async def visit() -> list[asyncio.Task[None]]:
        async with door.visit():
            await begin.wait()
            tasks = [
                asyncio.create_task(later("inner", asyncio.Event())),
                asyncio.create_task(later("outlived", outlive)),
            ]
            async with door.passage():
                seen.append("own")
            tasks[0].cancel()
            await leave.wait()
            return tasks

    visiting = asyncio.create_task(visit())
    await settle()

    async def change() -> None:
        async with door.shut(10):
            seen.append("changed")
            outlive.set()
            await settle()
            assert "outlived" not in seen

    changing = asyncio.create_task(change())
    await settle()
    begin.set()
    await settle()
    assert seen == ["own"], "the visit's own passage waits at the door that waits for it"
    leave.set()
    [_, outlived] = await visiting
    await asyncio.gather(changing, outlived)
    assert seen == ["own", "changed", "outlived"]


async def test_a_wait_too_long_opens_the_door_again() -> None:
    door, leave, seen = Door(), asyncio.Event(), list[str]()
    staying = asyncio.create_task(stay(door, leave, seen, "long"))
    await settle()
    with pytest.raises(DoorError, match="1 requests were still being answered"):
        async with door.shut(0.01):
            seen.append("changed")
    async with door.passage():
        assert seen == ["long"] and door.inside == 2
    leave.set()
    await staying
    assert door.inside == 0


async def test_closed_for_good_tells_why_those_who_wait_too() -> None:
    door = Door()

    async def come() -> None:
        async with door.passage():
            raise AssertionError("let in")

    async with door.shut(1):
        waiting = asyncio.create_task(come())
        await settle()
        door.close_for_good("the weights are not known")
    for who in (waiting, come()):
        with pytest.raises(DoorError, match="the weights are not known"):
            await who


async def test_leaving_by_an_error_counts() -> None:
    door = Door()
    with pytest.raises(ValueError, match="mine"):
        async with door.visit(), door.passage():
            raise ValueError("mine")
    async with door.shut(0.1):
        assert door.inside == 0
