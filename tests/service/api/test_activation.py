"""One revision a request: leases are held to the last byte and let go after it."""

import asyncio

from tests.service.api.drive import Call
from tests.service.api.world import SERVED, World, steering

ASK = {"model": SERVED, "policy": "formal", "stream": True}


async def change(world: World, coefficient: float) -> None:
    body = steering("formal", coefficient)
    answer = await world.call("POST", "/trimtab/v1/policies", key=True, json=body)
    assert answer.status_code == 200


async def capacity(world: World) -> tuple[int, int]:
    """Return rows in use and slots that drain."""
    status = (await world.call("GET", "/trimtab/v1/status", key=True)).json()["capacity"]
    return status["used"]["rows"], status["draining"]


async def test_a_stream_keeps_its_revision_while_the_next_request_has_the_new_one(world: World):
    rows, _ = await capacity(world)
    world.pace.clear()
    old = Call(world.app, "/v1/chat/completions", ASK)
    headers = await old.start()
    await old.chunk()
    before = world.seen[-1]["stamp"]
    await change(world, 2.0)
    assert headers["x-trimtab-policy"] == "guard@1, formal@1"
    new = await world.chat(policy="formal")
    assert new.headers["x-trimtab-policy"] == "guard@1, formal@2"
    assert world.seen[-1]["stamp"]["spans"][1][0] != before["spans"][1][0]
    assert await capacity(world) == (rows + 1, 1)
    world.pace.set()
    assert "[DONE]" in await old.rest()
    assert await capacity(world) == (rows, 0)


async def test_a_client_that_goes_away_lets_go(world: World):
    rows, _ = await capacity(world)
    world.pace.clear()
    gone = Call(world.app, "/v1/chat/completions", ASK)
    await gone.start()
    await gone.chunk()
    await change(world, 2.0)
    assert await capacity(world) == (rows + 1, 1)
    await gone.disconnect()
    assert await capacity(world) == (rows, 0)


async def test_a_client_that_goes_away_before_its_body_is_whole_holds_nothing(world: World):
    messages = [
        {"type": "http.request", "body": b'{"mo', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive():
        return messages.pop(0)

    async def send(message):
        raise AssertionError(message)

    scope = {"type": "http", "path": "/v1/completions", "method": "POST", "headers": []}
    await world.app(scope, receive, send)
    assert not world.seen


async def test_thirty_two_streams_and_ten_changes(world: World):
    rows, _ = await capacity(world)
    world.pace.clear()
    streams: list[Call] = []
    expected: list[str] = []
    for turn in range(1, 11):
        for _ in range(3):
            streams.append(Call(world.app, "/v1/chat/completions", ASK | {"trimtab": {}}))
            expected.append(f"formal@{turn}")
            await asyncio.sleep(0)
        for stream in streams[-3:]:
            headers = await stream.start()
            assert headers["x-trimtab-policy"] == f"guard@1, formal@{turn}"
        await change(world, 0.11 * turn)
    assert (await capacity(world))[1] == 10
    world.pace.set()
    for stream, label in zip(streams, expected, strict=True):
        text = await stream.rest()
        assert f'"policy":["guard@1","{label}"]' in text
    assert await capacity(world) == (rows, 0)


async def test_a_request_that_fails_lets_go(world: World):
    rows, _ = await capacity(world)
    await world.chat(model="unknown", policy="formal")
    await world.chat(policy="formal", die=True)
    world.alive[0] = True
    await change(world, 2.0)
    assert await capacity(world) == (rows, 0)


async def test_requests_that_interleave_see_their_own_lease(world: World):
    async def ask(policy: str) -> str:
        return (await world.chat(policy=policy)).headers["x-trimtab-policy"]

    names = ["formal", "casual", "late", "none"] * 8
    found = await asyncio.gather(*(ask(name) for name in names))
    wanted = ["guard@1" if n == "none" else f"guard@1, {n}@1" for n in names]
    assert found == wanted
