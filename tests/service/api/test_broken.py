"""A stream that will not be finished ends with an error of its route."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from service.api.broken import last_words
from tests.service.api import world as worlds
from tests.service.api.drive import Call
from tests.service.api.world import SERVED, World, build, events_of, server_of

BODY = {"model": SERVED, "messages": [{"role": "user", "content": "hi"}], "stream": True}
GONE = "the engine is not running"


@pytest.fixture
async def dying(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A world whose engine dies after a stream's first event, and whose handler then raises."""
    made: list[World] = []

    async def events(path: str, pace: asyncio.Event) -> AsyncIterator[str]:
        whole = worlds_events(path, pace)
        yield await anext(whole)
        await pace.wait()
        made[0].alive[0] = False
        raise RuntimeError("the engine died")

    worlds_events = worlds._events
    monkeypatch.setattr(worlds, "_events", events)
    made.append(await build())
    yield made[0]
    made[0].store.close()


@pytest.mark.parametrize("extra", [{}, {"trimtab": {}}])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_openais_routes_say_it_and_are_done(dying: World, path: str, extra: dict):
    text = (await dying.call("POST", path, json=BODY | extra)).text
    *_, error, done = events_of(text)
    assert done == "[DONE]"
    assert (error["error"]["message"], error["error"]["code"]) == (GONE, "engine_unavailable")


async def test_responses_have_an_event_for_it(dying: World):
    text = (await dying.call("POST", "/v1/responses", json=BODY)).text
    error = events_of(text)[-1]
    assert "event: error\n" in text
    assert (error["type"], error["message"], error["param"]) == ("error", GONE, None)


async def test_messages_have_one_too(dying: World):
    text = (await dying.call("POST", "/v1/messages", json=BODY)).text
    assert "event: error\n" in text
    assert events_of(text)[-1] == {"type": "error", "error": {"type": "api_error", "message": GONE}}


async def test_a_client_that_left_gets_nothing(world: World):
    world.pace.clear()
    call = Call(world.app, "/v1/chat/completions", BODY)
    await call.start()
    await call.chunk()
    await call.disconnect()
    rest = [call._outgoing.get_nowait() for _ in range(call._outgoing.qsize())]
    assert all(b"error" not in message["body"] for message in rest)


async def test_what_an_end_cuts_short_says_so(world: World):
    world.pace.clear()
    call = Call(world.app, "/v1/chat/completions", BODY)
    await call.start()
    await call.chunk()
    server_of(world).drain.begin(0)
    call.task.cancel()
    text = ""
    while "[DONE]" not in text:
        text += await call.chunk()
    assert "it finishes what it has begun" in text


def test_numbers_go_on_where_the_stream_was():
    last = b'data: {"sequence_number":7}\n\ndata: {"sequence_number": 8}\n\n'
    words = last_words("/v1/responses", "why", last).decode()
    assert json.loads(words.splitlines()[1].removeprefix("data: "))["sequence_number"] == 9
    assert '"sequence_number":0' in last_words("/v1/responses", "why", b"").decode()
