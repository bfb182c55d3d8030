"""The operations API: what is active is listed, applied and removed; nothing by halves."""

import base64
import json
from typing import Any

import torch
from safetensors.torch import save

from steering.card import to_artifact
from steering.defaults import Defaults
from tests.service.api.world import POINT, D, N, World, binding, build, document, steering
from tests.steering.toys import random_direction

V1 = "/trimtab/v1"


async def post(world: World, *documents: Any, path: str = "policies"):
    text = "\n---\n".join(json.dumps(d) for d in documents)
    return await world.call("POST", f"{V1}/{path}", key=True, content=text)


async def status(world: World) -> dict[str, Any]:
    return (await world.call("GET", f"{V1}/status", key=True)).json()


async def test_policies_are_listed(world: World):
    listed = (await world.call("GET", f"{V1}/policies", key=True)).json()["policies"]
    formal = next(p for p in listed if p["name"] == "formal")
    assert formal["revision"] == 1
    assert formal["owner"] == "api"
    assert formal["mode"] == "enforce"
    assert formal["selectable"] is True
    assert formal["strength"] == {"default": 1.0, "min": 0.0, "max": 2.0}
    assert list(formal["artifacts"]) == ["formal"]
    assert len(formal["digest"]) == 64
    assert [p["name"] for p in listed] == sorted(p["name"] for p in listed)


async def test_a_policy_is_shown_with_its_revisions(world: World):
    await post(world, steering("formal", 2.0))
    shown = (await world.call("GET", f"{V1}/policies/formal", key=True)).json()
    assert (shown["revision"], shown["active"]) == (2, True)
    assert [r["revision"] for r in shown["revisions"]] == [2, 1]
    assert shown["content"]["spec"]["steer"][0]["coefficient"] == 2.0
    old = await world.call("GET", f"{V1}/policies/formal", key=True, params={"revision": 1})
    assert (old.json()["revision"], old.json()["active"]) == (1, False)


async def test_post_says_what_changed_and_takes_effect(world: World):
    before = await status(world)
    answer = await post(world, steering("formal", 2.0), steering("fresh", 0.25))
    body = answer.json()
    assert answer.status_code == 200
    assert [(c["name"], c["revision"]) for c in body["changed"]] == [("formal", 2), ("fresh", 1)]
    assert body["applied"] == [
        {"kind": "Policy", "name": "formal", "revision": 2},
        {"kind": "Policy", "name": "fresh", "revision": 1},
    ]
    assert body["generation"] == before["generation"] + 1
    chat = await world.chat(policy="formal")
    assert chat.headers["x-trimtab-policy"] == "guard@1, formal@2"
    again = (await post(world, steering("formal", 2.0))).json()
    assert (again["changed"], again["generation"]) == ([], body["generation"])


async def test_yaml_and_json_are_one_language(world: World):
    text = "apiVersion: trimtab/v1\nkind: Policy\nmetadata: {name: fresh}\nspec: {mode: off}\n"
    answer = await world.call("POST", f"{V1}/policies", key=True, content=text)
    assert answer.json()["changed"][0]["name"] == "fresh"


async def test_a_binding_is_applied_and_listed(world: World):
    answer = await post(world, binding(policy="formal"), path="bindings")
    assert answer.json()["changed_bindings"] == [{"name": "default", "revision": 2}]
    listed = (await world.call("GET", f"{V1}/bindings", key=True)).json()["bindings"]
    assert [b["name"] for b in listed] == ["default"]
    assert listed[0]["spec"]["policy"] == "formal"
    assert (await world.chat()).headers["x-trimtab-policy"] == "formal@1"


async def test_removal_frees_rows_and_keeps_history(world: World):
    await post(world, steering("fresh", 0.25))
    full = (await status(world))["capacity"]["used"]["rows"]
    answer = await world.call("DELETE", f"{V1}/policies/fresh", key=True)
    assert answer.json()["removed"] == ["fresh"]
    assert (await status(world))["capacity"]["used"]["rows"] == full - 1
    assert (await world.chat(policy="fresh")).status_code == 404
    shown = (await world.call("GET", f"{V1}/policies/fresh", key=True)).json()
    assert shown["active"] is False
    assert (await world.call("DELETE", f"{V1}/policies/fresh", key=True)).status_code == 404


async def test_a_bound_policy_stays(world: World):
    answer = await world.call("DELETE", f"{V1}/policies/guard", key=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "policy_in_use")


async def test_one_bad_document_stops_all(world: World):
    before = await status(world)
    answer = await post(world, steering("fresh"), document("broken", colour="red"))
    error = answer.json()["error"]
    assert answer.status_code == 422
    assert error["problems"][0]["path"] == "spec.colour"
    assert error["problems"][0]["line"] == 3
    refused = await post(world, steering("fresh"), steering("deep", at="resid_post.99"))
    assert refused.status_code == 422
    after = await status(world)
    assert (before["generation"], before["capacity"]) == (after["generation"], after["capacity"])


async def test_no_capacity_says_what_to_raise(world: World):
    before = await status(world)
    answer = await post(world, *(steering(f"many-{i}", 0.01 * (i + 1)) for i in range(30)))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (409, "no_capacity")
    assert "--rows" in error["message"]
    assert (await status(world))["capacity"] == before["capacity"]
    elsewhere = document("far", steer=[{"direction": "formal", "at": "resid_post.1"}])
    answer = await post(world, elsewhere)
    assert answer.status_code == 409
    assert "--sites resid_post.1" in answer.json()["error"]["message"]


async def test_ranks_that_disagree_are_503_and_change_nothing(world: World):
    before = await status(world)
    world.ranks.broken = True
    answer = await post(world, steering("fresh", 0.25))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "activation_failed")
    assert (await status(world))["generation"] == before["generation"]
    assert (await world.chat(policy="fresh")).status_code == 404


async def test_status_tells_sites_and_versions(world: World):
    found = await status(world)
    assert found["ready"] is True
    assert found["served_names"] == ["toy", "org/toy"]
    assert found["adapters"] == []
    assert found["capacity"]["sites"] == {str(POINT): {"rows": 24, "reads": 4, "writes": 4}}
    assert found["policies"]["formal"] == 1
    assert found["uptime_seconds"] >= 0
    assert found["model"]["d_model"] == D


async def test_what_is_no_route_is_absent(world: World):
    for method in ("GET", "POST"):
        answer = await world.call(method, f"{V1}/x/y", key=True)
        assert answer.status_code == 404
        assert "not served" in answer.json()["error"]["message"]


def artifact(name: str = "fresh", seed: int = 7, **changes: Any) -> dict[str, Any]:
    given = {"defaults": Defaults((2,)), **changes}
    made = to_artifact(random_direction(seed, given.pop("d_model", D), N, name=name, **given))
    tensors = base64.b64encode(save(dict(made.tensors))).decode()
    return {"card": dict(made.card), "tensors": tensors}


async def add(world: World, body: Any):
    return await world.call("POST", f"{V1}/artifacts", key=True, json=body)


async def test_an_artifact_is_added_and_used(world: World):
    added = await add(world, artifact())
    assert added.status_code == 201
    digest = added.json()["digest"]
    shown = (await world.call("GET", f"{V1}/artifacts/{digest}", key=True)).json()
    assert shown["card"]["name"] == "fresh"
    listed = (await world.call("GET", f"{V1}/artifacts", key=True)).json()["artifacts"]
    assert listed[0]["digest"] == digest
    applied = await post(world, document("with-fresh", steer=[{"direction": "fresh"}]))
    assert applied.json()["changed"][0]["name"] == "with-fresh"
    shown = (await world.call("GET", f"{V1}/policies/with-fresh", key=True)).json()
    assert shown["artifacts"] == {"fresh": digest}


async def test_an_artifact_that_no_policy_could_use_is_not_kept(world: World):
    nan = {name: t * torch.nan for name, t in {"resid_post.2": torch.ones(D)}.items()}
    card = artifact()["card"]
    for body, says in (
        (artifact(model="c" * 64), "was made on model"),
        (artifact(d_model=8), "width 8"),
        (artifact() | {"card": card | {"scale": {}}}, "tensors"),
        (artifact() | {"card": card | {"kind": "edits"}}, "not served"),
        (artifact() | {"card": card | {"kind": "probe"}}, "the card of probe"),
        (artifact() | {"tensors": base64.b64encode(save(nan)).decode()}, "not finite"),
        (artifact() | {"tensors": "AAAA"}, "not a safetensors"),
        (artifact() | {"tensors": "ä"}, "not base64"),
        (artifact() | {"path": "/etc/passwd"}, "unknown field"),
    ):
        answer = await add(world, body)
        assert answer.status_code == 422, says
        assert says in answer.json()["error"]["message"]
    listed = (await world.call("GET", f"{V1}/artifacts", key=True)).json()["artifacts"]
    assert sorted(a["name"] for a in listed) == ["formal", "other"]
    assert (await post(world, steering("formal", 3.0))).status_code == 200


async def test_what_the_directory_owns_cannot_be_posted(tmp_path):
    from service.directory import load_directory

    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "a.yaml").write_text(json.dumps(steering("formal", 0.5)))
    world = await build(documents=[])
    with world.store:
        await world.governor.reload(load_directory(folder))
        for answer in (
            await post(world, steering("formal", 2.0)),
            await world.call("DELETE", f"{V1}/policies/formal", key=True),
        ):
            assert answer.status_code == 409
            assert answer.json()["error"]["code"] == "owned_by_directory"
