"""Requests under bindings: a key's, a tenant's, everybody else's; canaries and their end."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
import torch

from service.api.canaries import RULE
from service.audit import AuditLog
from service.callers import OWNER
from service.keys import NewKey
from service.selection import select
from tests.service.api.world import DOCUMENTS, SERVED, World, binding, build, steering

V1 = "/trimtab/v1"


def bound(name: str, **spec: Any) -> dict[str, Any]:
    return binding(**spec) | {"metadata": {"name": name}}


BINDINGS = (
    steering("strict", 0.3, selectable=False),
    bound("acme", **{"for": {"tenants": ["acme"]}}, mandatory=["strict"], policy="formal"),
    bound("ann", **{"for": {"keys": ["ann"]}}, choices=["casual"], strength={"max": 0.5}),
    bound("free", **{"for": {"keys": ["free"]}}, inherit=False),
)


@pytest_asyncio.fixture
async def bounded() -> AsyncIterator[tuple[World, dict[str, dict[str, str]]]]:
    world = await build((*DOCUMENTS, *BINDINGS), rows=48)
    headers: dict[str, dict[str, str]] = {"nobody": {}}
    for name, tenant in (("ann", "acme"), ("bob", "acme"), ("eve", None), ("free", None)):
        issued = world.store.keys().create(NewKey(name, "infer", tenant), OWNER)
        headers[name] = {"Authorization": f"Bearer {issued.text}"}
    # A key exists now, so that nobody is served without one.
    yield world, headers
    world.store.close()


async def policies(world: World, headers: dict[str, str], **fields: Any) -> str:
    answer = await world.chat(headers=headers, **fields)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-trimtab-policy"]


async def test_each_key_runs_under_its_own_binding(bounded: Any) -> None:
    world, headers = bounded
    assert await policies(world, headers["eve"]) == "guard@1"
    assert await policies(world, headers["bob"]) == "guard@1, strict@1, formal@1"
    assert await policies(world, headers["bob"], policy="none") == "guard@1, strict@1"
    assert await policies(world, headers["ann"]) == "guard@1"
    assert await policies(world, headers["free"]) == "none"


async def test_what_applies_is_what_is_written(bounded: Any) -> None:
    """The rows that a request is stamped with add what its own binding says."""
    world, headers = bounded
    added: dict[str, torch.Tensor] = {}
    for name in ("eve", "bob", "free"):
        await world.chat(headers=headers[name], policy="none")
        spans = world.seen[-1]["stamp"]["spans"]
        added[name] = world.applied(spans[0][0][0])
    direction = added["eve"] / 0.5
    assert torch.allclose(added["bob"], 0.8 * direction, atol=1e-6)
    assert not added["free"].any()
    assert direction.any()


async def test_choices_and_strength_are_those_of_the_binding(bounded: Any) -> None:
    world, headers = bounded
    refused = await world.chat(headers=headers["ann"], policy="formal")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "policy_not_allowed")
    assert "allowed: casual" in refused.text
    strong = await world.chat(headers=headers["ann"], policy="casual", strength=0.6)
    assert (strong.status_code, strong.json()["error"]["code"]) == (400, "invalid_strength")
    # Without a number it is the nearest allowed to the policy's own.
    assert await policies(world, headers["ann"], policy="casual") == "guard@1, casual@1"
    assert world.seen[-1]["lease"].strength == 0.5
    assert (await world.chat(headers=headers["eve"], policy="casual", strength=0.6)).is_success


async def test_models_lists_what_a_key_may_choose(bounded: Any) -> None:
    world, headers = bounded
    for name, expected in (("ann", {"casual"}), ("eve", {"formal", "casual", "late", "shade"})):
        listed = await world.call("GET", "/v1/models", headers=headers[name])
        found = {card["id"] for card in listed.json()["data"] if ":" in card["id"]}
        assert {i.split(":")[1] for i in found if i.startswith(f"{SERVED}:")} == expected


async def test_a_key_that_is_removed_from_a_binding_falls_back(bounded: Any) -> None:
    world, headers = bounded
    removed = await world.call("DELETE", f"{V1}/bindings/acme", key=True)
    assert removed.json()["removed_bindings"] == ["acme"]
    assert await policies(world, headers["bob"]) == "guard@1"
    gone = await world.call("GET", f"{V1}/bindings/acme", key=True)
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "binding_not_found")


async def test_a_bound_policy_is_not_removed(bounded: Any) -> None:
    world, _ = bounded
    answer = await world.call("DELETE", f"{V1}/policies/strict", key=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "policy_in_use")
    assert "acme" in answer.text


async def test_a_binding_says_what_it_comes_to(bounded: Any) -> None:
    world, _ = bounded
    listed = (await world.call("GET", f"{V1}/bindings", key=True)).json()["bindings"]
    assert {b["name"]: b["mandatory"] for b in listed} == {
        "acme": ["guard", "strict"],
        "ann": ["guard"],
        "default": ["guard"],
        "free": [],
    }
    shown = (await world.call("GET", f"{V1}/bindings/ann", key=True)).json()
    assert (shown["content"]["spec"]["choices"], shown["active"]) == (["casual"], True)


def with_canary(**fields: Any) -> dict[str, Any]:
    return binding(mandatory=["guard"], canary={"share": 0.5, **fields})


async def apply(world: World, *documents: dict[str, Any]) -> Any:
    listed = {"documents": list(documents)}
    for document in documents:
        answer = await world.call("POST", f"{V1}/policies", key=True, json=document)
        assert answer.status_code == 200, answer.text
    return listed


RULES = [{"metric": "failed", "above": 0.3, "at_least": 10}]


async def test_a_canary_takes_its_place_in_a_share_of_requests(world: World) -> None:
    await apply(world, steering("next", 0.25, selectable=False))
    await apply(world, with_canary(policy="next", replaces="guard"))
    seen = [await policies(world, {}, policy="formal") for _ in range(200)]
    assert set(seen) == {"guard@1, formal@1", "next@1, formal@1"}
    assert 60 < seen.count("next@1, formal@1") < 140  # half, within 5.6 deviations
    (shown,) = (await world.call("GET", f"{V1}/canaries", key=True)).json()["canaries"]
    assert shown["requests"]["canary"] == seen.count("next@1, formal@1")
    assert shown["requests"]["stable"] == seen.count("guard@1, formal@1")


async def test_a_canary_by_key_keeps_its_side(world: World) -> None:
    await apply(world, steering("next", 0.25, selectable=False))
    await apply(world, with_canary(policy="next", replaces="guard", by="key"))
    keys = world.store.keys()
    issued = [keys.create(NewKey(name, "infer"), OWNER) for name in ("a", "b", "c", "d", "e", "f")]
    sides: list[set[str]] = []
    for one in issued:
        headers = {"Authorization": f"Bearer {one.text}"}
        sides.append({await policies(world, headers) for _ in range(5)})
    assert all(len(found) == 1 for found in sides)
    assert {policy for found in sides for policy in found} == {"guard@1", "next@1"}


async def test_a_broken_rule_rolls_back_for_good(world: World) -> None:
    await apply(world, steering("next", 0.25, selectable=False))
    document = with_canary(policy="next", replaces="guard", share=1.0, rollback=RULES)
    await apply(world, document)
    for _ in range(9):  # one less than enough
        await world.chat(die=True)
        world.alive[0] = True
    await settle(world)
    assert await policies(world, {}) == "next@1"  # the tenth: 9 of 10 failed
    await settle(world)
    assert await policies(world, {}) == "guard@1"
    (shown,) = (await world.call("GET", f"{V1}/canaries", key=True)).json()["canaries"]
    assert shown["halted"] == "failed: 9 of 10 requests, 0.9, is above 0.3"
    entry = AuditLog(world.store._database).entries()[0]
    assert (entry.actor, entry.action, entry.target) == (RULE, "halt", "Binding/default")
    # The same declaration stays ended, over other changes too; a new one starts anew.
    await apply(world, steering("later", 0.7))
    await apply(world, document)
    assert await policies(world, {}) == "guard@1"
    await apply(world, with_canary(policy="next", replaces="guard", share=0.999999))
    assert {await policies(world, {}) for _ in range(5)} == {"next@1"}


async def settle(world: World) -> None:
    await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0.01)


async def test_a_canary_within_its_rule_goes_on(world: World) -> None:
    await apply(world, steering("next", 0.25, selectable=False))
    await apply(world, with_canary(policy="next", replaces="guard", share=1.0, rollback=RULES))
    for i in range(40):
        await world.chat(**({"die": True} if i % 4 == 3 else {}))
        world.alive[0] = True
    await settle(world)
    assert await policies(world, {}) == "next@1"


async def test_an_operator_ends_a_canary(world: World) -> None:
    await apply(world, steering("next", 0.25, selectable=False))
    await apply(world, with_canary(policy="next", replaces="guard", share=1.0))
    assert await policies(world, {}) == "next@1"
    answer = await world.call("POST", f"{V1}/bindings/default/halt", key=True)
    assert answer.json()["halted"] == "ended by admin"
    assert await policies(world, {}) == "guard@1"
    again = await world.call("POST", f"{V1}/bindings/default/halt", key=True)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "no_canary")


async def test_a_canary_whose_policy_is_off_takes_nothing_away(world: World) -> None:
    await apply(world, steering("next", 0.25, selectable=False, mode="off"))
    await apply(world, with_canary(policy="next", replaces="guard", share=1.0))
    assert await policies(world, {}) == "guard@1"


@pytest.mark.parametrize("named", ["default", "choice"])
async def test_a_canary_replaces_a_chosen_policy(world: World, named: str) -> None:
    await apply(world, steering("next", 0.25, selectable=False, strength={"max": 2}))
    canary = {"policy": "next", "replaces": "formal", "share": 1.0}
    default = {"policy": "formal"} if named == "default" else {}
    await apply(world, binding(mandatory=["guard"], canary=canary, **default))
    fields = {} if named == "default" else {"policy": "formal"}
    assert await policies(world, {}, **fields) == "guard@1, next@1"
    assert await policies(world, {}, policy="casual") == "guard@1, casual@1"
    assert await policies(world, {}, policy="none") == "guard@1"


async def test_what_was_selected_elsewhere_has_no_lease(world: World) -> None:
    """No stack is taken for an empty one: that would serve without what is mandatory."""
    selection = select(world.governor.catalog)
    other = replace(selection, stack=("guard", "unheard-of"))
    assert world.governor.lease(selection).operator is not None
    with pytest.raises(KeyError):
        world.governor.lease(other)
