"""A request within its key's limits: rate, requests at once, body, time."""

import asyncio
import json
from typing import Any

import pytest

from service.callers import OWNER
from service.keys import NewKey
from service.limits import Limits
from tests.service.api.drive import Call
from tests.service.api.world import SERVED, World, events_of

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": SERVED, "messages": [{"role": "user", "content": "hi"}]}


def limited(world: World, role: Any = "infer", **limits: Any) -> dict[str, str]:
    wanted = NewKey("limited", role, None, Limits(**limits))
    return {"authorization": f"Bearer {world.store.keys().create(wanted, OWNER).text}"}


async def test_one_request_too_many_is_told_when_to_come_again(world: World):
    headers = limited(world, requests_per_minute=3)
    found = [await world.chat(headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in found] == [200, 200, 200, 429]
    error = found[-1].json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert 1 <= int(found[-1].headers["retry-after"]) <= 20
    assert len(world.seen) == 3
    other = {
        "authorization": f"Bearer {world.store.keys().create(NewKey('b', 'infer'), OWNER).text}"
    }
    await asyncio.sleep(1.1)
    assert (await world.chat(headers=other)).status_code == 200


async def test_messages_have_errors_of_their_own_shape(world: World):
    headers = limited(world, requests_per_minute=1)
    for expected in (200, 429):
        answer = await world.call("POST", "/v1/messages", headers=headers, json=BODY)
        assert answer.status_code == expected
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "rate_limit_error"


async def test_operations_count_too(world: World):
    headers = limited(world, "viewer", requests_per_minute=2)
    found = [await world.call("GET", "/trimtab/v1/status", headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in found] == [200, 200, 429]


async def test_so_many_at_once_and_then_again(world: World):
    headers = limited(world, concurrent=1)
    world.pace.clear()
    stream = Call(world.app, CHAT, BODY | {"stream": True}, **headers)
    assert "content-type" in await stream.start()
    refused = await world.chat(headers=headers)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    world.pace.set()
    await stream.rest()
    assert (await world.chat(headers=headers)).status_code == 200


async def test_a_client_that_leaves_gives_its_place_back(world: World):
    headers = limited(world, concurrent=1)
    world.pace.clear()
    stream = Call(world.app, CHAT, BODY | {"stream": True}, **headers)
    await stream.start()
    await stream.disconnect()
    assert (await world.chat(headers=headers)).status_code == 200


@pytest.mark.parametrize("path", [CHAT, "/tokenize", "/v1/messages"])
async def test_a_body_too_large_for_its_key(world: World, path: str):
    headers = limited(world, max_body_bytes=300)
    assert (await world.call("POST", path, headers=headers, json=BODY)).status_code == 200
    large = BODY | {"padding": "x" * 300}
    answer = await world.call("POST", path, headers=headers, json=large)
    assert answer.status_code == 413 and "300 bytes" in answer.text

    async def in_parts():
        for byte in json.dumps(large):
            yield byte.encode()

    chunked = await world.call("POST", path, headers=headers, content=in_parts())
    assert chunked.status_code == 413
    assert len(world.seen) == 1


async def test_a_document_too_large_for_its_key(world: World):
    headers = limited(world, "author", max_body_bytes=100)
    before = world.governor.status()
    answer = await world.call("POST", "/trimtab/v1/policies", headers=headers, content=b"#" * 101)
    assert answer.status_code == 413 and world.governor.status() == before


async def test_a_stream_over_its_time_ends_with_an_error(world: World):
    headers = limited(world, max_seconds=0.3)
    world.pace.clear()
    stream = Call(world.app, CHAT, BODY | {"stream": True}, **headers)
    assert (await stream.start())["content-type"].startswith("text/event-stream")
    text = await asyncio.wait_for(stream.rest(), 5)
    *_, last = events_of(text)
    assert last["error"]["code"] == "time_limit" and "[DONE]" not in text
    assert world.governor.status()["capacity"]["draining"] == 0
    await stream.task


async def test_a_stream_of_messages_over_its_time(world: World):
    headers = limited(world, max_seconds=0.3)
    world.pace.clear()
    stream = Call(world.app, "/v1/messages", BODY | {"stream": True}, **headers)
    await stream.start()
    text = await asyncio.wait_for(stream.rest(), 5)
    assert "event: error" in text
    assert events_of(text)[-1]["error"]["type"] == "timeout_error"


async def test_an_answer_over_its_time_that_has_not_begun(world: World, monkeypatch: Any):
    left: list[str] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            continue
        left.append(message["type"])

    layer: Any = world.app.middleware_stack
    monkeypatch.setattr(layer, "_app", slow)
    answer = await world.chat(headers=limited(world, max_seconds=0.2))
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "time_limit")
    assert "0.2 s" in answer.json()["error"]["message"]
    assert left == ["http.disconnect"], "to the handler it is a client that left"


async def test_a_handler_that_does_not_listen_is_cancelled(world: World, monkeypatch: Any):
    ended: list[str] = []

    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    layer: Any = world.app.middleware_stack
    monkeypatch.setattr(layer, "_app", deaf)
    monkeypatch.setattr("service.api.meter.ENDING_SECONDS", 0.1)
    answer = await world.chat(headers=limited(world, max_seconds=0.1))
    await asyncio.sleep(0)
    assert answer.status_code == 504 and ended == ["cancelled"]


async def test_a_body_that_never_ends_is_408(world: World):
    headers = limited(world, max_seconds=0.2)

    async def dripping():
        while True:
            yield b" "
            await asyncio.sleep(0.05)

    answer = await world.call("POST", CHAT, headers=headers, content=dripping())
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "time_limit")


async def test_in_time_nothing_is_changed(world: World):
    headers = limited(world, max_seconds=30, concurrent=9, max_body_bytes=9999)
    timed = await world.chat(headers=headers, stream=True)
    free = {
        "authorization": f"Bearer {world.store.keys().create(NewKey('b', 'infer'), OWNER).text}"
    }
    await asyncio.sleep(1.1)
    plain = await world.chat(headers=free, stream=True)
    assert timed.status_code == plain.status_code == 200
    assert events_of(timed.text) == events_of(plain.text)


async def test_an_error_of_the_handler_is_its_own(world: World):
    headers = limited(world, max_seconds=30)
    assert (await world.chat(headers=headers, policy="no-such")).status_code == 404
