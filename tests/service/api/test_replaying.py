"""An event's prompt asked again under no policy: what reaches the engine, and what is kept."""

import asyncio
import json
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from service.api.replaying import MOST_TOKENS
from service.callers import OWNER
from service.digest import canonical_json
from service.engine.lease import CURRENT_LEASE
from service.engine.stamp import UNSTEERED_SPAN
from service.keys import NewKey
from service.probes import PROBING
from service.settings import EventRetention
from tests.service.api.world import ADMIN, World, server_of
from tests.service.test_events import event
from tests.service.test_labels import TRACE

V1 = "/trimtab/v1"
PROMPT = "<s>user: hi you\nassistant:"


class Model:
    """In vLLM's place: says a fixed answer and keeps what it was asked under what."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.seen: list[tuple[dict[str, Any], Any, bool]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await Request(scope, receive).json()
        self.seen.append((body, CURRENT_LEASE.get(), PROBING.get()))
        choice = {"index": 0, "text": "sure, here", "finish_reason": "length"}
        found = {"choices": [choice], "usage": {"completion_tokens": 3}}
        await JSONResponse(found, self.status)(scope, receive, send)


@pytest.fixture
def model(world: World) -> Model:
    """Put a model into the world's place for the server's own questions."""
    made = Model()
    server_of(world).inside._inner = made
    captured = canonical_json(TRACE.shown() | {"prompt": PROMPT})
    world.store.events().add([event(0, trace=captured), event(1)])
    return made


async def replay(world: World, number: int = 1, **headers: str) -> Any:
    async with world.client(**(headers or ADMIN)) as client:
        return await client.post(f"{V1}/events/{number}/replay")


async def test_the_prompt_is_asked_again_with_no_policy_at_all(world: World, model: Model):
    answer = await replay(world)
    assert answer.status_code == 200, answer.text
    [(body, lease, is_probing)] = model.seen
    assert body == {
        **{"model": "toy", "prompt": PROMPT, "add_special_tokens": False},
        **{"temperature": 0, "max_tokens": MOST_TOKENS},
    }
    # The default binding mandates 'guard', which a client cannot do without.
    stamp = lease.stamp()
    assert lease.policies == () and not lease.watched
    assert stamp.operator == stamp.client == UNSTEERED_SPAN and is_probing
    assert len(stamp.tenant) == 32
    assert CURRENT_LEASE.get() is None


async def test_what_was_said_is_kept_beside_the_event_and_replaced(world: World, model: Model):
    before = await world.call("GET", f"{V1}/events/1", key=True)
    assert before.json()["unsteered"] is None
    answer = (await replay(world)).json()
    again = (await world.call("GET", f"{V1}/events/1", key=True)).json()
    assert answer == again
    kept = again["unsteered"]
    assert (kept["answer"], kept["generated"], kept["finish"]) == ("sure, here", 3, "length")
    assert kept["by"] and kept["at"] and again["trace"]["prompt"] == PROMPT
    await replay(world)
    assert len(model.seen) == 2
    listed = (await world.call("GET", f"{V1}/events", key=True)).json()["events"]
    assert all("unsteered" not in one for one in listed)


async def test_it_is_audited_and_recorded_without_a_word(world: World, model: Model):
    await replay(world)
    [row] = world.store.audit().entries(None, 1)
    assert (row.action, row.target) == ("event.replay", "Event/1")
    assert row.after == {"generated": 3, "finish": "length"}
    log = server_of(world).decisions
    await log.close()
    [record] = (await world.call("GET", f"{V1}/decisions", key=True)).json()["decisions"]
    assert record["policies"] == [] and record["outcome"] == "served"
    assert "sure" not in json.dumps(record) and "hi you" not in json.dumps(record)


async def test_without_a_captured_prompt_there_is_nothing_to_ask(world: World, model: Model):
    answer = await replay(world, 2)
    assert answer.status_code == 409
    error = answer.json()["error"]
    assert error["code"] == "nothing_captured" and "capture: true" in error["message"]
    assert (await replay(world, 7)).status_code == 404
    assert not model.seen


async def test_a_viewer_may_not(world: World, model: Model):
    made = await asyncio.to_thread(world.store.keys().create, NewKey("v", "viewer"), OWNER)
    answer = await replay(world, Authorization=f"Bearer {made.text}")
    assert answer.status_code == 403 and not model.seen


async def test_an_answer_that_fails_is_told_and_not_kept(world: World, model: Model):
    model.status = 500
    answer = await replay(world)
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "replay_failed"
    world.alive[0] = False
    assert (await replay(world)).status_code == 503
    assert len(model.seen) == 1
    found = await asyncio.to_thread(world.store.events().one, 1)
    assert found["unsteered"] is None


async def test_it_goes_with_its_event(world: World, model: Model):
    await replay(world)
    events = world.store.events(EventRetention(count=1))
    events.add([event(2)])
    assert (await world.call("GET", f"{V1}/events/1", key=True)).status_code == 404
