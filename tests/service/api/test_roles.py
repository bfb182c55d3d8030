"""Every route, method and role against the table that is written by hand, both ways."""

import asyncio
import json
from typing import Any

import pytest
from starlette.routing import Route

from service.api.access import TABLE, Access
from service.api.operations import operations_app
from service.api.roles import PERMISSIONS
from service.callers import OWNER, ROLES
from service.keys import NewKey
from tests.service.api.role_table import (
    ANYONE,
    CATCH_ALL,
    CLOSED_PATHS,
    OPERATIONS,
    OTHERS,
    V1,
    Who,
    cells,
    everyone,
    expected,
    filled,
    rule,
    spied,
)
from tests.service.api.world import World, binding, server_of, steering

PROBES = ("/livez", "/readyz", *(path for path in OTHERS if path.startswith("/dashboard")))


def test_every_operation_is_in_the_table_by_hand(world: World) -> None:
    routes = [r for r in operations_app(server_of(world)).routes if isinstance(r, Route)]
    assert {r.path for r in routes} - set(PROBES) - set(OPERATIONS) == set()
    assert {p.template for p in PERMISSIONS} == set(OPERATIONS), "a role, and no such route"


def test_every_permission_is_the_one_by_hand() -> None:
    for permission in PERMISSIONS:
        for method, least in permission.least.items():
            assert rule(permission.template, method) == least, (method, permission.template)


def test_every_other_route_is_in_the_table_by_hand() -> None:
    known = set(OTHERS) | set(CLOSED_PATHS) | set(CATCH_ALL) | {"/dashboard", "/dashboard/"}
    assert {route.template for route in TABLE} == known
    closed = {route.template for route in TABLE if route.access is Access.CLOSED}
    assert closed == set(CLOSED_PATHS)


async def test_every_cell(world: World) -> None:
    """Allowed reaches a handler, denied reaches none."""
    spy, people = spied(world), everyone(world)
    await asyncio.sleep(0.6)  # the key that expires soon has expired
    wrong: list[Any] = []
    for template, method in cells():
        for who in people:
            spy.reached.clear()
            status = await spy.ask(method, filled(template), who)
            reaches, statuses = expected(template, method, who)
            if bool(spy.reached) is not reaches or status not in statuses:
                wrong.append((method, template, who.name, status, spy.reached))
            elif spy.reached and rule(template, method) != ANYONE:
                assert {caller.role for _, caller in spy.reached} == {who.role}
    assert not wrong, f"{len(wrong)} cells, such as {wrong[:10]}"


async def test_inference_alone_is_open_where_there_is_no_key(world: World) -> None:
    spy, nobody = spied(world), Who("nobody", None, None)
    for template, method in cells():
        spy.reached.clear()
        await spy.ask(method, filled(template), nobody)
        is_open = rule(template, method) in (ANYONE, "infer")
        assert bool(spy.reached) is is_open, (method, template)


def key_of(world: World, role: Any) -> dict[str, str]:
    text = world.store.keys().create(NewKey(f"the-{role}", role), OWNER).text
    return {"Authorization": f"Bearer {text}"}


@pytest.mark.parametrize("role", ROLES)
async def test_a_binding_needs_an_admin_wherever_it_is_posted(world: World, role: str):
    headers, before = key_of(world, role), world.store.all_active()
    for number, path in enumerate(("policies", "monitors", "bindings")):
        documents = [steering(f"fresh-{number}"), binding(mandatory=[], policy="none")]
        body = "\n---\n".join(json.dumps(document) for document in documents)
        answer = await world.call("POST", f"{V1}/{path}", headers=headers, content=body)
        assert answer.status_code == (200 if role == "admin" else 403), answer.text
    assert (world.store.all_active() == before) is (role != "admin")


CHANGES = (
    ({"mode": "shadow"}, "operator"),
    ({}, "operator"),
    ({"monitors.harm.mode": "shadow"}, "operator"),
    ({"selectable": False}, "author"),
    ({"mode": "shadow", "selectable": False}, "author"),
    ({"steer[0].coefficient": 2}, "author"),
    ({"steer[0].mode": "off"}, "author"),
    ({"monitors": {}}, "author"),
    ({"monitors.harm": None}, "author"),
    ({"monitors[0].mode": "off"}, "author"),
    ({"strength.max": 100}, "author"),
    ({"Mode": "off"}, "author"),
    ({"mode ": "off"}, "author"),
    ({"mode\n": "off"}, "author"),
    ({".mode": "off"}, "author"),
    ({"monitors.harm.mode.x": "off"}, "author"),
    ({"monitors.harm.fpr": 0.5}, "author"),
)


@pytest.mark.parametrize("role", ROLES)
async def test_an_operator_changes_modes_only(world: World, role: str):
    path, headers = f"{V1}/policies/formal/set", key_of(world, role)
    for fields, least in CHANGES:
        before = world.store.all_active()
        answer = await world.call("POST", path, headers=headers, json={"set": fields})
        may = ROLES.index(role) >= ROLES.index(least)
        assert (answer.status_code == 403) is not may, (fields, answer.text)
        if not may:
            assert world.store.all_active() == before
