"""``/v1/models`` lists what a client may choose."""

import pytest

from tests.service.api.world import SERVED, World, binding, build

CHOICES = ["casual", "formal", "late", "shade"]


async def ids(world: World) -> list[str]:
    answer = await world.call("GET", "/v1/models")
    return [card["id"] for card in answer.json()["data"]]


async def test_each_choice_is_a_model_under_each_name(world: World):
    aliases = [f"{name}:{choice}" for name in (SERVED, "org/toy") for choice in CHOICES]
    assert await ids(world) == [SERVED, "org/toy", *aliases]


async def test_a_listed_policy_looks_like_a_model(world: World):
    card = (await world.call("GET", f"/v1/models/{SERVED}:formal")).json()
    assert card == {
        "id": f"{SERVED}:formal",
        "object": "model",
        "created": 1,
        "owned_by": "trimtab",
        "max_model_len": 64,
        "root": SERVED,
        "parent": SERVED,
    }


@pytest.mark.parametrize("name", [SERVED, "org/toy", "org/toy:formal", "org%2Ftoy"])
async def test_one_model_by_name(world: World, name):
    answer = await world.call("GET", f"/v1/models/{name}")
    assert answer.status_code == 200
    assert answer.json()["id"] == name.replace("%2F", "/")


@pytest.mark.parametrize("name", ["other", f"{SERVED}:guard", f"{SERVED}:hidden", f"{SERVED}:"])
async def test_what_may_not_be_chosen_is_not_there(world: World, name):
    answer = await world.call("GET", f"/v1/models/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


async def test_a_binding_narrows_the_list(world: World):
    bound = binding(mandatory=["guard"], choices=["casual", "none"])
    assert (await world.call("POST", "/trimtab/v1/bindings", key=True, json=bound)).is_success
    assert await ids(world) == [SERVED, "org/toy", f"{SERVED}:casual", "org/toy:casual"]


async def test_every_listed_model_can_be_asked(world: World):
    for name in await ids(world):
        assert (await world.chat(model=name)).status_code == 200


async def test_adapters_are_models_with_the_same_choices():
    """One has the name of a policy under a served name, and then is what that name means."""
    adapters = ["poet", f"{SERVED}:poet", f"{SERVED}:formal"]
    world = await build(adapters=adapters)
    names = [SERVED, "org/toy", *adapters]
    aliases = {f"{name}:{choice}" for name in names for choice in CHOICES}
    listed = await ids(world)
    assert len(listed) == len(set(listed))
    assert set(listed) == {*names, *aliases}
    card = (await world.call("GET", f"/v1/models/{SERVED}:formal:casual")).json()
    assert (card["root"], card["owned_by"]) == (f"{SERVED}:formal", "trimtab")
    assert (await world.call("GET", f"/v1/models/{SERVED}:formal")).json()["owned_by"] == "vllm"
    for name in listed:
        assert (await world.chat(model=name)).status_code == 200
    world.store.close()
