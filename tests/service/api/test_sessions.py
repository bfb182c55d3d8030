"""Sessions over HTTP: begun with a key, and worth what the key is worth, from no other site."""

import asyncio
from typing import Any

import httpx
import pytest

from service.callers import OWNER
from service.database import StoreError
from service.keys import NewKey
from tests.service.api.drive import Call
from tests.service.api.world import ADMIN, World, document, server_of

V1 = "/trimtab/v1"
MARK = {"x-trimtab-session": "1"}


async def begin(world: World, headers: dict[str, str] | None = None) -> httpx.Response:
    return await world.call("POST", f"{V1}/session", headers=headers or ADMIN)


async def ask(world: World, cookie: str, method: str = "GET", path: str = "status", **more: Any):
    headers = {"cookie": f"trimtab_session={cookie}"} | more.pop("headers", {})
    return await world.call(method, f"{V1}/{path}", headers=headers, **more)


async def cookie(world: World) -> str:
    return (await begin(world)).cookies["trimtab_session"]


async def test_a_cookie_stands_for_the_key(world: World):
    answer = await begin(world)
    assert answer.json() == {"name": "admin", "key": None, "role": "admin", "tenant": None}
    given = answer.headers["set-cookie"].lower()
    assert "httponly" in given and "samesite=strict" in given and "path=/" in given
    found = answer.cookies["trimtab_session"]
    assert "the-admin-key" not in answer.text + answer.headers["set-cookie"]
    assert (await ask(world, found)).status_code == 200
    assert (await ask(world, found, path="session")).json() == answer.json()
    assert (await ask(world, found[:-1])).status_code == 401


async def test_it_is_secure_where_the_connection_is(world: World):
    transport = httpx.ASGITransport(app=world.app)
    async with httpx.AsyncClient(transport=transport, base_url="https://test") as client:
        answer = await client.post(f"{V1}/session", headers=ADMIN)
    assert "; secure" in answer.headers["set-cookie"].lower()


async def test_a_change_needs_the_header_beside_the_cookie(world: World):
    found, before = await cookie(world), world.store.all_active()
    path, body = "policies/formal/set", {"set": {"mode": "shadow"}}
    refused = await ask(world, found, "POST", path, json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "no_session")
    assert world.store.all_active() == before
    assert (await ask(world, found, "POST", path, json=body, headers=MARK)).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "same-origin", "none"])
async def test_another_sites_page_cannot_use_it(world: World, site: str):
    """The same host's other ports are the same site, and get no further."""
    headers = MARK | {"sec-fetch-site": site}
    answer = await ask(world, await cookie(world), headers=headers)
    assert answer.status_code == (200 if site in ("same-origin", "none") else 401)


async def test_a_preflight_gets_no_leave(world: World):
    asking = {
        "origin": "http://evil.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-trimtab-session",
    }
    answer = await ask(world, await cookie(world), "OPTIONS", "policies", headers=asking)
    assert answer.status_code >= 400
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_it_ends_when_it_is_ended(world: World):
    found = await cookie(world)
    ended = await ask(world, found, "DELETE", "session", headers=MARK)
    assert ended.status_code == 204 and 'trimtab_session=""' in ended.headers["set-cookie"]
    assert (await ask(world, found)).status_code == 401


async def test_a_stream_ends_with_its_session(world: World):
    found = await cookie(world)
    sent = {"cookie": f"trimtab_session={found}", "accept": "text/event-stream"}
    call = Call(world.app, f"{V1}/events", None, "GET", **sent)
    assert (await call.start())["content-type"].startswith("text/event-stream")
    assert (await call.chunk()).startswith(":")
    await ask(world, found, "DELETE", "session", headers=MARK)
    await asyncio.wait_for(call.rest(), 5)


async def test_a_store_that_is_gone_is_said(world: World, monkeypatch):
    found = await cookie(world)

    def gone(secret: str):
        raise StoreError("the store is gone")

    monkeypatch.setattr(server_of(world).keys.sessions, "find", gone)
    answer = await ask(world, found)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "keys_unavailable")


async def test_it_has_the_rights_of_its_key_and_ends_with_it(world: World):
    issued = world.store.keys().create(NewKey("eve", "operator"), OWNER)
    answer = await begin(world, {"Authorization": f"Bearer {issued.text}"})
    assert answer.json()["role"] == "operator"
    found = answer.cookies["trimtab_session"]
    body = document("fresh")
    refused = await ask(world, found, "POST", "policies", json=body, headers=MARK)
    assert refused.status_code == 403
    assert (await ask(world, found)).status_code == 200
    world.store.keys().revoke(issued.key.id, OWNER)
    await server_of(world).keys.ring.refresh()
    assert (await ask(world, found)).status_code == 401


@pytest.mark.parametrize("role", ["infer", None])
async def test_who_may_not_look_gets_none(world: World, role: Any):
    headers = {"Authorization": "Bearer wrong"}
    if role is not None:
        text = world.store.keys().create(NewKey("low", role), OWNER).text
        headers = {"Authorization": f"Bearer {text}"}
    answer = await begin(world, headers)
    assert answer.status_code == (401 if role is None else 403)
    assert "set-cookie" not in answer.headers


async def test_a_session_begins_no_session(world: World):
    """It would last for ever."""
    answer = await ask(world, await cookie(world), "POST", "session", headers=MARK)
    assert answer.status_code == 401 and "set-cookie" not in answer.headers


async def test_a_key_counts_before_a_cookie(world: World):
    wrong = {"Authorization": "Bearer wrong"}
    assert (await ask(world, await cookie(world), headers=wrong)).status_code == 401


async def test_inference_knows_whose_session_it_is(world: World):
    found = await cookie(world)
    world.store.keys().create(NewKey("any", "infer"), OWNER)
    await server_of(world).keys.ring.refresh()
    sent = {"cookie": f"trimtab_session={found}"}
    assert (await world.chat(headers=sent)).status_code == 401, "a change without the header"
    assert (await world.chat(headers=sent | MARK)).status_code == 200
