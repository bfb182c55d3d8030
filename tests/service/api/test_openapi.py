"""The description names every route that is served and no other, and is valid OpenAPI 3.1."""

import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from service.api.openapi.build import describe, served, short
from service.api.openapi.table import OPERATIONS
from service.api.operations import operations_app
from tests.service.api.world import World, server_of

V1 = "/trimtab/v1"
PAGES = "/dashboard"
"""Its files are for browsers, and not described."""


async def described(world: World) -> dict[str, Any]:
    answer = await world.call("GET", f"{V1}/openapi.json", key=True)
    assert answer.status_code == 200
    return answer.json()


async def test_it_names_every_route_and_no_other(world: World):
    routes = operations_app(server_of(world)).routes
    found = {(method, short(path)) for path, method, _ in served(routes)}
    assert {(m, p) for m, p in found if not p.startswith(PAGES)} == set(OPERATIONS)
    shown = await described(world)
    named = {(m.upper(), short(p)) for p, methods in shown["paths"].items() for m in methods}
    assert named == set(OPERATIONS)


async def test_a_route_that_the_table_lacks_is_seen(world: World, monkeypatch):
    """Else the test above could not fail."""
    fewer = {key: one for key, one in OPERATIONS.items() if key != ("GET", "status")}
    monkeypatch.setattr("service.api.openapi.build.OPERATIONS", fewer)
    shown = describe(operations_app(server_of(world)).routes)
    assert f"{V1}/status" not in shown["paths"]


async def test_every_operation_says_what_it_does_and_for_whom(world: World):
    shown = await described(world)
    for path, methods in shown["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], f"{method} {path}"
            is_open = path in ("/livez", "/readyz")
            assert bool(operation["security"]) is not is_open
            assert re.search(
                r"Role: (viewer|operator|author|admin|none, it is open)\.", operation["description"]
            )
            parts = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert parts == set(re.findall(r"\{(\w+)\}", path))


async def test_every_schema_is_one_and_every_reference_leads_to_one(world: World):
    shown = await described(world)
    schemas = shown["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    targets = set(re.findall(r"'(#/components/schemas/[^']+)'", str(shown)))
    assert len(targets) > 50
    assert {target.rsplit("/", 1)[1] for target in targets} <= set(schemas)
    assert "$defs" not in str(shown)


@pytest.mark.parametrize("role", ["infer", None])
async def test_who_may_see_no_operation_may_not_read_of_them(world: World, role: str | None):
    headers = {}
    if role is not None:
        body = {"name": "small", "role": role}
        made = await world.call("POST", f"{V1}/keys", key=True, json=body)
        headers = {"Authorization": f"Bearer {made.json()['key']}"}
    answer = await world.call("GET", f"{V1}/openapi.json", headers=headers)
    assert answer.status_code == (401 if role is None else 403)
