"""What a request may ask for, on every generating route, and what then reaches the engine."""

import json

import pytest

from service.engine.stamp import Stamp
from tests.service.api.world import COUNTING, GENERATING, SERVED, World, binding, build


def stamp_of(world: World) -> Stamp:
    return Stamp.unpack({"trimtab": world.seen[-1]["stamp"]})


def rows_of(world: World, name: str) -> tuple[int, ...]:
    active = world.governor._publisher.active
    return active.policies[active.catalog.binding.mandatory, name].placement.rows


WAYS = {
    "model": ({"model": f"{SERVED}:formal"}, {}),
    "body": ({"policy": "formal"}, {}),
    "header": ({}, {"X-Trimtab-Policy": "formal"}),
    "all": ({"model": f"{SERVED}:formal", "policy": "formal"}, {"x-trimtab-policy": " formal "}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", GENERATING)
async def test_a_policy_is_named_in_three_ways_on_every_route(world: World, way, path):
    fields, headers = WAYS[way]
    answer = await world.call("POST", path, json={"model": SERVED, **fields}, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["x-trimtab-policy"] == "guard@1, formal@1"
    assert world.seen[-1]["body"]["model"] == SERVED
    assert not {"policy", "strength", "trimtab"} & set(world.seen[-1]["body"])
    assert stamp_of(world).client.rows.rows == rows_of(world, "formal")


async def test_rows_do_what_the_policy_says(world: World):
    await world.chat(policy="formal")
    formal = world.applied(stamp_of(world).client.rows.rows[0])
    await world.chat(policy="casual")
    casual = world.applied(stamp_of(world).client.rows.rows[0])
    assert formal.norm() > 1
    assert casual.tolist() == (-formal).tolist()


async def test_naming_none_leaves_it_to_the_binding(world: World):
    answer = await world.chat()
    assert answer.headers["x-trimtab-policy"] == "guard@1"
    assert set(stamp_of(world).client.rows.rows) == {0}
    assert set(stamp_of(world).operator.rows.rows) != {0}


async def test_no_policy_at_all_says_none(world: World):
    await world.call("POST", "/trimtab/v1/bindings", key=True, json=binding())
    answer = await world.chat()
    assert answer.headers["x-trimtab-policy"] == "none"
    assert len(answer.headers["x-trimtab-digest"]) == 64


async def test_the_operator_applies_whatever_the_client_says(world: World):
    for fields in ({}, {"policy": "none"}, {"policy": "formal"}, {"model": f"{SERVED}:casual"}):
        await world.chat(**fields)
        operator = stamp_of(world).operator
        assert set(operator.rows.rows) != {0}
        assert operator.rows.strength == 1.0


async def test_strength_scales_the_client_only_and_is_in_the_digest(world: World):
    one = await world.chat(policy="formal")
    two = await world.chat(policy="formal", strength=2)
    assert stamp_of(world).client.rows.strength == 2.0
    assert stamp_of(world).operator.rows.strength == 1.0
    assert one.headers["x-trimtab-digest"] != two.headers["x-trimtab-digest"]
    again = await world.chat(model=f"{SERVED}:formal", strength=2.0)
    assert again.headers["x-trimtab-digest"] == two.headers["x-trimtab-digest"]


async def test_shadow_changes_nothing_but_is_named(world: World):
    answer = await world.chat(policy="shade")
    assert answer.headers["x-trimtab-policy"] == "guard@1, shade@1"
    assert set(stamp_of(world).client.rows.rows) == {0}


async def test_a_served_name_with_a_slash_has_aliases(world: World):
    await world.chat(model="org/toy:formal")
    assert world.seen[-1]["body"]["model"] == "org/toy"


@pytest.mark.parametrize("path", GENERATING)
async def test_a_policy_is_chosen_on_an_adapter(path):
    """The longest name is the model; what follows its colon is the policy."""
    world = await build(adapters=["poet", f"{SERVED}:formal"])
    for model, sent, policy in (
        ("poet", "poet", None),
        ("poet:casual", "poet", "casual"),
        (f"{SERVED}:formal", f"{SERVED}:formal", None),
        (f"{SERVED}:formal:casual", f"{SERVED}:formal", "casual"),
        (f"{SERVED}:casual", SERVED, "casual"),
    ):
        answer = await world.call("POST", path, json={"model": model})
        assert world.seen[-1]["body"]["model"] == sent
        applied = f"guard@1, {policy}@1" if policy else "guard@1"
        assert answer.headers["x-trimtab-policy"] == applied
        rows = rows_of(world, policy) if policy else (0, 0, 0)
        assert stamp_of(world).client.rows.rows == rows
    refused = await world.call("POST", path, json={"model": "poet:nothing"})
    assert refused.status_code == 404
    world.store.close()


async def test_an_unknown_model_is_left_to_vllm_and_gets_no_headers(world: World):
    answer = await world.chat(model="other:formal")
    assert answer.status_code == 404
    assert world.seen[-1]["body"]["model"] == "other:formal"
    assert "x-trimtab-policy" not in answer.headers


async def test_null_counts_as_absent(world: World):
    answer = await world.chat(policy=None, strength=None, trimtab=None)
    assert answer.headers["x-trimtab-policy"] == "guard@1"
    assert "trimtab" not in answer.json()


async def test_all_other_fields_reach_vllm_as_they_were(world: World):
    fields = {"n": 2, "x": [1.5, None, {"y": "é\u2028"}], "vllm_xargs": {"mine": 1}, "seed": 2**60}
    await world.chat(policy="formal", **fields)
    body = world.seen[-1]["body"]
    assert {name: body[name] for name in fields} == fields


async def test_a_body_that_is_no_object_is_vllms_to_refuse(world: World):
    answer = await world.call("POST", "/v1/chat/completions", content=b"{nope")
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "no JSON")
    assert "x-trimtab-policy" not in answer.headers


@pytest.mark.parametrize("path", COUNTING)
async def test_counting_takes_aliases_and_runs_under_no_lease(world: World, path):
    answer = await world.call("POST", path, json={"model": f"{SERVED}:formal", "strength": 1})
    assert answer.status_code == 200
    assert world.seen[-1]["body"] == {"model": SERVED}
    assert world.seen[-1]["lease"] is None
    assert "x-trimtab-policy" not in answer.headers
    refused = await world.call("POST", path, json={"model": f"{SERVED}:nothing"})
    assert refused.status_code == 404


@pytest.mark.parametrize(("policy", "status"), [("formal", 200), ("none", 200), ("late", 400)])
async def test_beam_search_only_where_all_tokens_are_alike(world: World, policy, status):
    answer = await world.chat(policy=policy, use_beam_search=True, n=2)
    assert answer.status_code == status
    assert (await world.chat(policy=policy, use_beam_search=False)).status_code == 200


async def test_beam_search_under_a_mandatory_policy_that_tells_phases_apart(world: World):
    bound = binding(mandatory=["late"])
    assert (await world.call("POST", "/trimtab/v1/bindings", key=True, json=bound)).is_success
    answer = await world.chat(use_beam_search=True)
    assert answer.status_code == 400
    assert "beam search" in answer.json()["error"]["message"]


async def test_messages_are_refused_in_their_own_shape(world: World):
    answer = await world.call("POST", "/v1/messages", json={"policy": "nothing"})
    body = answer.json()
    assert answer.status_code == 404
    assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
    assert "nothing" in body["error"]["message"]


async def test_openai_error_shape(world: World):
    error = (await world.chat(policy="formall")).json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == ("policy_not_found", "policy")
    assert "did you mean 'formal'" in error["message"]


async def test_two_headers_that_disagree(world: World):
    headers = [("X-Trimtab-Policy", "formal"), ("X-Trimtab-Policy", "casual")]
    answer = await world.call("POST", "/v1/chat/completions", json={}, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "conflicting_policies"


async def test_a_forged_stamp_is_refused(world: World):
    for fields in (
        {"vllm_xargs": {"trimtab": "x"}},
        {"extra_args": {"trimtab": {}}},
        {"sampling_params": {"extra_args": {"trimtab": None}}},
    ):
        answer = await world.chat(**fields)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "forged_argument"
    assert not world.seen


async def test_a_deep_body_is_refused_before_anything_recurses(world: World):
    for depth in (200, 900, 100_000):
        body = b'{"x":' + b"[" * depth + b"]" * depth + b"}"
        answer = await world.call("POST", "/v1/chat/completions", content=body)
        assert answer.status_code == 400
        assert "nested" in answer.json()["error"]["message"]
    flat = {"x": [[i] for i in range(1000)]}
    assert (await world.chat(**flat)).status_code == 200


async def test_a_large_body_is_refused_declared_or_not(world: World):
    body = json.dumps({"prompt": "x" * (8 << 20)}).encode()

    async def chunks():
        for start in range(0, len(body), 1 << 20):
            yield body[start : start + (1 << 20)]

    for content in (body, chunks()):
        answer = await world.call("POST", "/v1/completions", content=content)
        assert answer.status_code == 413
    assert not world.seen
