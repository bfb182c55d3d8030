"""The table: every route is classified, keys are asked for, and what is not named is denied."""

import pytest

from service.api.access import TABLE, Access, AccessTable, route_path
from tests.service.api.world import ADMIN, KEY, World, build

FIND = AccessTable()


@pytest.mark.parametrize(
    ("path", "access"),
    [
        ("/v1/chat/completions", Access.GENERATE),
        ("/v1/chat/completions/", Access.UNKNOWN),
        ("//v1/chat/completions", Access.UNKNOWN),
        ("/V1/chat/completions", Access.UNKNOWN),
        ("/v1/chat/completions/batch", Access.GENERATE),
        ("/v1/chat/completions/render", Access.CLOSED),
        ("/v1/models/org/toy:formal", Access.MODELS),
        ("/v1/models/", Access.UNKNOWN),
        ("/v1/responses/resp_1", Access.INFERENCE),
        ("/v1/responses/resp_1/cancel", Access.INFERENCE),
        ("/v1/responses/a/b", Access.UNKNOWN),
        ("/v1/responses/render", Access.CLOSED),
        ("/trimtab/v1/policies/x", Access.OPERATIONS),
        ("/trimtab", Access.UNKNOWN),
        ("/metrics", Access.PUBLIC),
        ("/metrics/x", Access.UNKNOWN),
        ("/metricsx", Access.UNKNOWN),
        ("/pause", Access.CLOSED),
        ("/v1/embeddings", Access.CLOSED),
        ("/", Access.UNKNOWN),
        ("", Access.UNKNOWN),
        ("/v1/chat/completions\n", Access.UNKNOWN),
    ],
)
def test_find(path, access):
    assert FIND.find(path).access is access


def test_templates_are_named_once():
    templates = [route.template for route in TABLE]
    assert len(templates) == len(set(templates))


def test_closed_routes_say_why():
    assert all(route.reason for route in TABLE if route.access is Access.CLOSED)


def test_root_path_is_taken_off_like_the_router_does():
    assert route_path({"path": "/proxy/pause", "root_path": "/proxy"}) == "/pause"
    assert route_path({"path": "/proxypause", "root_path": "/proxy"}) == "/proxypause"
    assert route_path({"path": "/pause", "root_path": ""}) == "/pause"


@pytest.mark.parametrize(
    ("key", "status"), [(None, 401), ("wrong", 401), ("", 401), (KEY, 200), (KEY + " ", 200)]
)
async def test_operations_need_the_admin_key(world: World, key, status):
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    answer = await world.call("GET", "/trimtab/v1/status", headers=headers)
    assert answer.status_code == status
    if status != 200:
        assert answer.json()["error"]["message"]


@pytest.mark.parametrize("scheme", ["Basic", "Token", ""])
async def test_other_schemes_carry_no_key(world: World, scheme):
    headers = {"Authorization": f"{scheme} {KEY}"}
    answer = await world.call("GET", "/trimtab/v1/status", headers=headers)
    assert answer.status_code == 401


async def test_key_is_asked_for_before_the_route_exists(world: World):
    assert (await world.call("GET", "/trimtab/v1/nothing")).status_code == 401
    answer = await world.call("GET", "/trimtab/v1/nothing", key=True)
    assert answer.status_code == 404
    assert (await world.call("OPTIONS", "/trimtab/v1/policies")).status_code == 401


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
async def test_documentation_needs_the_admin_key(world: World, path):
    assert (await world.call("GET", path)).status_code == 401
    assert (await world.call("GET", path, key=True)).status_code == 200


@pytest.mark.parametrize("path", ["/pause", "/sleep", "/invocations", "/update_weights"])
async def test_control_routes_are_closed_even_with_the_key(world: World, path):
    answer = await world.call("POST", path, key=True, json={})
    assert answer.status_code == 403
    assert path in answer.json()["error"]["message"]


async def test_a_route_that_the_table_does_not_know_is_denied(world: World):
    answer = await world.call("POST", "/never-heard-of", key=True, json={})
    assert answer.status_code == 404
    assert "reached" not in answer.text


@pytest.mark.parametrize("path", ["/health", "/ping", "/version", "/load", "/livez", "/readyz"])
async def test_open_routes_pass(world: World, path):
    assert (await world.call("GET", path)).status_code == 200


async def test_a_wrong_method_is_405(world: World):
    answer = await world.call("GET", "/v1/chat/completions")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


async def test_websockets_are_refused(world: World):
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "websocket", "path": "/v1/realtime", "headers": []}
    await world.app(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_with_keys_inference_needs_one():
    world = await build(host="0.0.0.0", api_keys=["inference-key"])
    with world.store:
        assert (await world.chat()).status_code == 401
        assert (await world.chat(headers={"Authorization": "Bearer wrong"})).status_code == 401
        assert (await world.chat(headers=ADMIN)).status_code == 200
        right = {"Authorization": "Bearer inference-key"}
        assert (await world.chat(headers=right)).status_code == 200
        assert (await world.call("POST", "/tokenize", json={})).status_code == 401
        assert (await world.call("GET", "/version")).status_code == 401
        for path in ("/livez", "/readyz", "/metrics", "/health"):
            answer = await world.call("GET", path, follow_redirects=True)
            assert answer.status_code == 200


async def test_without_keys_only_loopback_is_open():
    world = await build(host="0.0.0.0")
    with world.store:
        assert (await world.chat()).status_code == 401


async def test_a_dead_engine_is_503(world: World):
    world.alive[0] = False
    answer = await world.chat()
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "engine_unavailable"
    ready = await world.call("GET", "/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert (await world.call("GET", "/livez")).status_code == 200


async def test_an_engine_that_dies_under_a_request_is_503(world: World):
    assert (await world.chat(die=True)).status_code == 503


async def test_two_keys_are_no_key(world: World):
    headers = [("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer other")]
    answer = await world.call("GET", "/trimtab/v1/status", headers=headers)
    assert answer.status_code == 400
    twice = [("Authorization", f"Bearer {KEY}")] * 2
    assert (await world.call("GET", "/trimtab/v1/status", headers=twice)).status_code == 200
