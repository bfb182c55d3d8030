"""A server that ends or lacks its store, as clients and probes see it: every reason is said."""

import asyncio

import pytest

from service.store import Store
from tests.service.api.drive import Call
from tests.service.api.world import SERVED, World, server_of, steering

BODY = {"model": SERVED, "messages": [{"role": "user", "content": "hi"}], "stream": True}


async def reasons(world: World) -> list[str]:
    ready = await world.call("GET", "/readyz")
    assert ready.json()["ready"] is (ready.status_code == 200)
    return ready.json()["reasons"]


async def test_every_reason_is_said(world: World):
    assert await reasons(world) == []
    world.alive[0] = False
    assert await reasons(world) == ["the engine is not running"]
    server_of(world).drain.begin(30)
    assert await reasons(world) == [
        "the engine is not running",
        "the server is ending: it finishes what it has begun",
    ]
    server_of(world).door.close_for_good("the weights are not known")
    status = (await world.call("GET", "/trimtab/v1/status", key=True)).json()
    assert status["ready"] is False
    assert status["reasons"][0] == "the weights are not known"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/messages"),
        ("POST", "/tokenize"),
        ("POST", "/trimtab/v1/policies"),
        ("DELETE", "/trimtab/v1/policies/formal"),
    ],
)
async def test_nothing_new_begins(world: World, method: str, path: str):
    server_of(world).drain.begin(30)
    refused = await world.call(method, path, key=True, json=BODY)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) in range(25, 31)
    assert refused.json()["error"]["code"] == "draining"
    assert "formal" in world.governor.catalog.policies


@pytest.mark.parametrize("path", ["/trimtab/v1/status", "/metrics", "/livez", "/v1/models"])
async def test_looking_on_goes_on(world: World, path: str):
    server_of(world).drain.begin(30)
    assert (await world.call("GET", path, key=True)).status_code == 200


async def test_what_has_begun_is_waited_for(world: World):
    drain = server_of(world).drain
    world.pace.clear()
    call = Call(world.app, "/v1/chat/completions", BODY)
    await call.start()
    drain.begin(30)
    waiting = asyncio.ensure_future(drain.emptied())
    await asyncio.sleep(0.05)
    assert (drain.inside, waiting.done()) == (1, False)
    world.pace.set()
    assert "[DONE]" in await call.rest()
    assert await asyncio.wait_for(waiting, 2) is True


async def test_not_for_ever(world: World):
    drain = server_of(world).drain
    world.pace.clear()
    call = Call(world.app, "/v1/chat/completions", BODY)
    await call.start()
    drain.begin(0.05)
    assert await asyncio.wait_for(drain.emptied(), 2) is False
    await call.disconnect()
    assert drain.inside == 0


async def test_a_store_that_is_gone_is_told_and_last_good_serves(world: World):
    await world.chat()  # keys that were read once are kept
    file = world.store.artifacts_folder.parent / "trimtab.db"
    away = file.rename(file.with_name("away.db"))
    refused = await world.call("POST", "/trimtab/v1/policies", key=True, json=steering("new"))
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "store_unavailable"
    assert "is gone" in refused.json()["error"]["message"]
    answer = await world.chat(policy="formal")
    assert answer.status_code == 200
    assert answer.headers["x-trimtab-policy"] == "guard@1, formal@1"
    told = (await world.call("GET", "/trimtab/v1/status", key=True)).json()["store"]
    assert told["ok"] is False and "is gone" in told["error"] and told["since"]
    assert "trimtab_store_up 0.0" in (await world.call("GET", "/metrics")).text
    assert await reasons(world) == [], "last good serves: that is no reason not to be asked"
    away.rename(file)
    world.store.probe()
    told = (await world.call("GET", "/trimtab/v1/status", key=True)).json()["store"]
    assert (told["ok"], told["error"]) == (True, None)
    assert "trimtab_store_up 1.0" in (await world.call("GET", "/metrics")).text
    applied = await world.call("POST", "/trimtab/v1/policies", key=True, json=steering("new"))
    assert applied.status_code == 200
    await server_of(world).decisions.flush()
    name = answer.headers["x-trimtab-request"]
    kept = await world.call("GET", f"/trimtab/v1/decisions/{name}", key=True)
    assert kept.status_code == 200, "the record waited"


async def test_a_server_is_not_ready_before_it_knows_the_keys(world: World):
    """Once it does, it does without the store."""
    file = world.store.artifacts_folder.parent / "trimtab.db"
    away = file.rename(file.with_name("away.db"))
    (reason,) = await reasons(world)
    assert "the keys cannot be read" in reason and "is gone" in reason
    away.rename(file)
    server_of(world).keys.ring._tried = float("-inf")
    assert await reasons(world) == []
    file.rename(away)
    assert (await world.chat()).status_code == 200


async def test_records_that_find_no_room_are_counted(world: World, monkeypatch):
    await world.chat()  # keys that were read once are kept
    file = world.store.artifacts_folder.parent / "trimtab.db"
    decisions = server_of(world).decisions
    await decisions.flush()
    monkeypatch.setattr(decisions, "_max", 2)
    away = file.rename(file.with_name("away.db"))
    for _ in range(5):
        assert (await world.chat()).status_code == 200
    await asyncio.sleep(0.2)
    assert "trimtab_decisions_dropped_total 3.0" in (await world.call("GET", "/metrics")).text
    away.rename(file)


def test_an_ephemeral_store_is_well():
    with Store.ephemeral() as store:
        store.probe()
        assert store.health.ok
