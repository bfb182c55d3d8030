"""Keys over HTTP, and who a request is taken for."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.api.keys import INFERENCE, caller_of
from service.callers import ANONYMOUS, OWNER, Caller
from service.database import StoreError
from service.keys import NewKey
from service.limits import Limits
from tests.service.api.drive import Call
from tests.service.api.world import KEY, SERVED, World, build, server_of

V1 = "/trimtab/v1"
PATH = f"{V1}/keys"
CHAT = {"model": SERVED, "messages": [{"role": "user", "content": "hi"}]}


def carrying(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


async def made(world: World, name: str = "ci", role: str = "infer", **more: Any) -> Any:
    answer = await world.call("POST", PATH, key=True, json={"name": name, "role": role, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def status_with(world: World, text: str) -> int:
    return (await world.chat(headers=carrying(text))).status_code


async def test_a_key_is_shown_once(world: World):
    answer = await world.call("POST", PATH, key=True, json={"name": "ci", "role": "viewer"})
    issued = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    text = issued.pop("key")
    assert text.startswith(f"tt-{issued['id']}-") and issued["state"] == "live"
    listed = await world.call("GET", PATH, key=True)
    one = await world.call("GET", f"{PATH}/{issued['id']}", key=True)
    assert listed.json() == {"keys": [issued]} and one.json() == issued
    secret = text.rpartition("-")[2]
    assert secret not in listed.text + one.text and "hash" not in listed.text


async def test_a_key_lets_in_until_it_is_revoked(world: World):
    issued = await made(world)
    assert await status_with(world, issued["key"]) == 200
    revoked = await world.call("DELETE", f"{PATH}/{issued['id']}", key=True)
    assert revoked.json()["state"] == "revoked"
    answer = await world.chat(headers=carrying(issued["key"]))
    assert answer.status_code == 401
    assert "expired or revoked" in answer.json()["error"]["message"]
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_what_another_process_revoked_is_out_within_two_seconds(world: World):
    issued = await made(world)
    assert await status_with(world, issued["key"]) == 200
    world.store.keys().revoke(issued["id"], OWNER)
    await asyncio.sleep(1.1)
    assert await status_with(world, issued["key"]) == 401


async def test_inference_is_open_until_there_is_a_key(world: World):
    assert (await world.chat()).status_code == 200
    assert await status_with(world, "unused") == 200
    issued = await made(world, role="viewer")
    assert (await world.chat()).status_code == 401
    assert await status_with(world, "unused") == 401
    assert (await world.call("GET", "/v1/models")).status_code == 401
    await world.call("DELETE", f"{PATH}/{issued['id']}", key=True)
    assert (await world.chat()).status_code == 401, "the last key is gone, and nothing opens"


async def test_a_key_expires(world: World):
    soon = (datetime.now(UTC) + timedelta(seconds=0.4)).isoformat()
    issued = await made(world, expires_at=soon)
    assert await status_with(world, issued["key"]) == 200
    await asyncio.sleep(0.5)
    assert await status_with(world, issued["key"]) == 401


async def test_both_keys_work_while_one_replaces_the_other(world: World):
    old = await made(world, tenant="acme", limits={"concurrent": 3})
    path = f"{PATH}/{old['id']}/rotate"
    answer = await world.call("POST", path, key=True, json={"grace_seconds": 0.4})
    assert answer.status_code == 201 and answer.headers["cache-control"] == "no-store"
    new = answer.json()
    kept = ("name", "role", "tenant", "limits")
    assert {n: new[n] for n in kept} == {n: old[n] for n in kept}
    assert [await status_with(world, k["key"]) for k in (old, new)] == [200, 200]
    await asyncio.sleep(0.5)
    assert [await status_with(world, k["key"]) for k in (old, new)] == [401, 200]
    assert (await world.call("POST", path, key=True)).status_code == 409


async def test_the_last_good_keys_hold_when_the_store_is_gone(world: World, monkeypatch: Any):
    issued = await made(world, role="viewer")
    ring = server_of(world).keys.ring

    def gone() -> None:
        raise StoreError("the disk is gone")

    monkeypatch.setattr(ring._store, "known", gone)
    monkeypatch.setattr(ring, "_tried", float("-inf"))
    assert await status_with(world, issued["key"]) == 200
    assert await status_with(world, "tt-" + "0" * 16 + "-" + "0" * 64) == 401
    answer = await world.call("GET", f"{V1}/status", headers=carrying(issued["key"]))
    assert answer.json()["keys"]["fault"] == "the disk is gone"
    assert answer.json()["keys"]["live"] == 1


async def test_keys_that_were_never_read_let_nobody_in(monkeypatch: pytest.MonkeyPatch):
    world = await build()
    with world.store:
        ring = server_of(world).keys.ring

        def gone() -> None:
            raise StoreError("the disk is gone")

        monkeypatch.setattr(ring._store, "known", gone)
        answer = await world.chat()
        assert answer.status_code == 503
        assert "the disk is gone" in answer.json()["error"]["message"]
        assert (await world.call("GET", f"{V1}/status", key=True)).status_code == 200


async def test_the_caller_is_on_the_scope(world: World):
    seen: list[Caller] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(caller_of(scope))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    layer: Any = world.app.middleware_stack
    layer._app = app
    await world.chat()
    issued = await made(world, tenant="acme", limits={"max_seconds": 5})
    await world.chat(headers=carrying(issued["key"]))
    await world.chat(headers=carrying(KEY))
    limits = Limits(max_seconds=5)
    assert seen == [ANONYMOUS, Caller(issued["id"], "ci", "infer", "acme", limits), OWNER]
    assert caller_of({}) == ANONYMOUS


async def test_vllm_sees_a_key_of_its_own_whoever_asks():
    world = await build(api_keys=["first", "second"])
    with world.store:
        seen: list[tuple[Caller, str]] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            given = [value for name, value in scope["headers"] if name == b"authorization"]
            seen.append((caller_of(scope), b"|".join(given).decode()))
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        layer: Any = world.app.middleware_stack
        layer._app = app
        issued = world.store.keys().create(NewKey("ci", "infer"), OWNER)
        for text in ("second", issued.text, KEY):
            assert (await world.chat(headers=carrying(text))).status_code == 204
        assert (await world.chat()).status_code == 401
        known = "Bearer first"
        assert seen == [(INFERENCE, known), (issued.key.caller(), known), (OWNER, known)]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "name"),
        ({"name": "ci"}, "role"),
        ({"name": "ci", "role": "root"}, "role"),
        ({"name": "ci", "role": "infer", "colour": 1}, "colour"),
        ({"name": "C I", "role": "infer"}, "name"),
        ({"name": "ci", "role": "infer", "tenant": ""}, "tenant"),
        ({"name": "ci", "role": "infer", "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "ci", "role": "infer", "expires_at": "2027-01-01T00:00:00"}, "zone"),
        ({"name": "ci", "role": "infer", "expires_at": "2001-01-01T00:00:00Z"}, "expired"),
        ({"name": "ci", "role": "infer", "expires_at": "0001-01-01T00:00:00+14:00"}, "expires_at"),
        ({"name": "ci", "role": "infer", "expires_at": "9999-12-31T23:59:59-14:00"}, "100 years"),
        ({"name": "ci", "role": "infer", "expires_at": 1.0}, "expires_at"),
        ({"name": "ci", "role": "infer", "limits": {"concurrent": 0}}, "limits.concurrent"),
        ({"name": "ci", "role": "infer", "limits": {"concurrent": True}}, "limits.concurrent"),
        ({"name": "ci", "role": "infer", "limits": {"max_seconds": 0}}, "limits.max_seconds"),
        ({"name": "ci", "role": "infer", "limits": {"rate": 1}}, "limits.rate"),
        ([], "object"),
        ("ci", "object"),
    ],
)
async def test_a_key_that_cannot_be(world: World, body: object, says: str):
    answer = await world.call("POST", PATH, key=True, json=body)
    assert answer.status_code == 422
    assert says in answer.json()["error"]["message"]
    assert world.store.keys().all() == ()


async def test_a_name_is_taken_once(world: World):
    await made(world)
    answer = await world.call("POST", PATH, key=True, json={"name": "ci", "role": "infer"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "key_taken")


@pytest.mark.parametrize("identity", ["0" * 16, "x", "0" * 15, "%00" * 16, "..%2Fpolicies", "'--"])
async def test_a_key_that_is_not_there(world: World, identity: str):
    calls = [("GET", ""), ("DELETE", ""), ("POST", "/rotate")]
    found = [await world.call(m, f"{PATH}/{identity}{p}", key=True) for m, p in calls]
    assert {answer.status_code for answer in found} <= {404, 405}


async def test_the_server_says_who_did_it(world: World):
    admin = await made(world, "boss", "admin")
    body = {"name": "ci", "role": "infer"}
    await world.call("POST", PATH, headers=carrying(admin["key"]), json=body)
    newest = world.store.audit().entries()[0]
    assert (newest.action, newest.actor) == ("key.create", f"boss ({admin['id']})")


async def test_an_open_stream_of_events_ends_with_its_key(world: World):
    issued = await made(world, role="viewer")
    headers = {"authorization": f"Bearer {issued['key']}", "accept": "text/event-stream"}
    call = Call(world.app, f"{V1}/events", None, "GET", **headers)
    await call.start()
    await call.chunk()
    await world.call("DELETE", f"{PATH}/{issued['id']}", key=True)
    began = asyncio.get_running_loop().time()
    await asyncio.wait_for(call.rest(), 4)
    assert asyncio.get_running_loop().time() - began < 2
