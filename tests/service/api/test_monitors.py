"""Monitors over HTTP: applied, listed, used, changed, toggled, removed; what requests watch."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from safetensors.torch import save

from forward.allocation import Allocator
from forward.container import Artifact
from forward.site import Capacity, Site
from monitors import calibration_card, probe_card, sae_card
from monitors.calibration import Calibration
from service.artifacts import ArtifactLibrary
from service.directory import load_directory
from service.engine.books import OwnBooks
from service.engine.lease import Lease
from service.engine.slots import Slots
from service.governor import Governor
from service.selection import select
from service.writes import Stack
from tests.service.api.world import Ranks, World, binding, build, document, steering
from tests.service.monitored import (
    CONDITIONS,
    PROMPTING,
    calibration,
    monitored,
    plan_of,
    post,
    probe,
    sae,
)

V1 = "/trimtab/v1"
HARM = plan_of(monitored(), "harm")
USE = {"mode": "enforce", "fpr": 0.1, "do": "refuse"}


def monitor(name: str = "harm", **spec: Any) -> dict[str, Any]:
    spec = spec or {"read": {"probe": "harm-1"}, "tokens": "prompt"}
    return document(name) | {"kind": "Monitor", "spec": spec}


def guard(name: str = "watchful", **spec: Any) -> dict[str, Any]:
    return document(name, **{"monitors": {"harm": USE}, **spec})


def body_of(artifact: Artifact) -> dict[str, Any]:
    tensors = base64.b64encode(save(dict(artifact.tensors))).decode()
    return {"card": dict(artifact.card), "tensors": tensors}


def calibrated(writes: str = "", n: int = 999, **binding: str) -> Artifact:
    made: Calibration = calibration(HARM, writes, n, **binding).content
    return calibration_card.to_artifact(made)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    made = await build(points=[post(k) for k in (0, 1, 2, 3)], prompting=PROMPTING)
    for artifact in (probe_card.to_artifact(probe("harm-1")), sae_card.to_artifact(sae("world"))):
        assert (await add(made, artifact)).status_code == 201
    yield made
    made.store.close()


async def add(world: World, artifact: Artifact):
    return await world.call("POST", f"{V1}/artifacts", key=True, json=body_of(artifact))


async def apply(world: World, *documents: dict[str, Any], path: str = "policies"):
    text = "\n---\n".join(json.dumps(d) for d in documents)
    return await world.call("POST", f"{V1}/{path}", key=True, content=text)


async def change(world: World, name: str, **fields: Any):
    body = {"set": {field.replace("__", "."): value for field, value in fields.items()}}
    return await world.call("POST", f"{V1}/policies/{name}/set", key=True, json=body)


async def listed(world: World) -> dict[str, Any]:
    answer = await world.call("GET", f"{V1}/monitors", key=True)
    return {m["name"]: m for m in answer.json()["monitors"]}


async def lease_of(world: World, **fields: Any) -> Lease:
    answer = await world.chat(**fields)
    assert answer.status_code == 200, answer.text
    return world.seen[-1]["lease"]


async def test_a_monitor_is_applied_like_a_policy_and_listed(world: World):
    answer = await apply(world, monitor())
    body = answer.json()
    assert body["applied"] == [{"kind": "Monitor", "name": "harm", "revision": 1}]
    assert [m["name"] for m in body["changed_monitors"]] == ["harm"]
    assert body["changed"] == []
    found = (await listed(world))["harm"]
    assert (found["plan"], found["at"]) == (HARM.digest, "resid_post.1")
    assert (found["tokens"], found["pool"], found["reads"]) == ("prompt", "max", 1)
    assert (found["owner"], found["calibrations"], found["policies"]) == ("api", [], {})
    assert list(found["artifacts"]) == ["probe/harm-1"]
    shown = (await world.call("GET", f"{V1}/monitors/harm", key=True)).json()
    assert shown["content"]["spec"]["read"] == {"probe": "harm-1"}
    assert [r["revision"] for r in shown["revisions"]] == [1]
    again = (await apply(world, monitor(), path="monitors")).json()
    assert (again["changed_monitors"], again["generation"]) == ([], body["generation"])
    assert (await world.call("GET", f"{V1}/monitors")).status_code == 401


async def test_calibrations_are_listed_whoever_uses_them(world: World):
    await add(world, calibrated(n=99))
    await apply(world, monitor())
    [shown] = (await listed(world))["harm"]["calibrations"]
    assert (shown["plan"], shown["writes"], shown["benign_requests"]) == (HARM.digest, "", 99)
    supported = {t["fpr"]: t["threshold"] for t in shown["thresholds"]}
    assert supported == {0.1: 90.0, 0.01: 99.0, 0.001: None, 0.0001: None}


async def test_a_monitor_and_its_policy_come_together_in_any_order(world: World):
    watch = guard(monitors={"harm": {**USE, "mode": "shadow"}})
    assert (await apply(world, watch)).status_code == 422
    assert (await apply(world, watch, monitor())).status_code == 200
    shown = (await world.call("GET", f"{V1}/policies/watchful", key=True)).json()
    assert list(shown["artifacts"]) == ["monitor/harm"]


async def test_enforcing_needs_a_calibration_that_holds(world: World):
    answer = await apply(world, monitor(), guard())
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "policy_refused")
    assert (error["policy"], error["path"]) == ("watchful", "spec.monitors.harm.mode")
    assert "trimtab monitor calibrate" in error["message"]
    assert await listed(world) == {}
    await add(world, calibrated(tokenizer="9" * 64))
    answer = await apply(world, monitor(), guard())
    assert "tokenizer: calibrated on 999999999999" in answer.json()["error"]["message"]
    assert (await add(world, calibrated())).status_code == 201
    # The binding of this world has a mandatory policy, which writes after the monitor's site.
    assert (await apply(world, monitor(), guard())).status_code == 200
    use = (await listed(world))["harm"]["policies"]["watchful"]
    assert use == {
        "mode": "enforce", "do": "refuse", "threshold": 900.0, "calibrated": True, "fault": None,
    }  # fmt: skip
    shown = (await world.call("GET", f"{V1}/policies/watchful", key=True)).json()
    assert sorted(shown["artifacts"]) == ["calibration/harm", "monitor/harm"]
    summary = (await listed(world))["harm"]["calibrations"]
    assert [c["benign_requests"] for c in summary] == [999, 999]
    assert summary[0]["thresholds"][0]["threshold"] == 900.0
    assert summary[0]["thresholds"][3]["threshold"] is None


async def test_a_request_watches_what_its_policies_watch(world: World):
    await add(world, calibrated())
    await apply(world, monitor(), guard())
    assert (await lease_of(world)).watched == ()
    lease = await lease_of(world, policy="watchful")
    [watched] = lease.watched
    assert (watched.policy, watched.monitor) == ("watchful@1", "harm")
    assert (watched.mode, watched.threshold, watched.fault) == ("enforce", 900.0, None)
    assert watched.plan.digest == HARM.digest
    [columns] = lease.columns()
    assert len(columns) == 1
    status = (await world.call("GET", f"{V1}/status", key=True)).json()
    assert status["monitors"]["harm"]["watchful"]["mode"] == "enforce"


async def test_mandatory_and_chosen_policies_are_both_watched(world: World):
    await add(world, calibrated())
    shadow = guard("curious", monitors={"harm": {**USE, "mode": "shadow"}})
    await apply(world, monitor(), guard(), shadow, binding(mandatory=["watchful"]))
    lease = await lease_of(world, policy="curious")
    assert [(w.policy_name, w.mode) for w in lease.watched] == [
        ("watchful", "enforce"), ("curious", "shadow"),
    ]  # fmt: skip
    assert lease.columns()[0] == lease.columns()[1]


async def test_writes_before_the_monitor_are_a_fault_while_serving(world: World):
    """A chosen policy that writes upstream of a mandatory monitor: not seen when it was applied."""
    await add(world, calibrated())
    early = document("early", steer=[{"direction": "formal", "at": "resid_post.0"}],
                     strength={"default": 1, "min": 0, "max": 2})  # fmt: skip
    await apply(world, monitor(), guard(), early, binding(mandatory=["watchful"]))
    for fields, holds in (
        ({}, True), ({"policy": "formal"}, True), ({"policy": "early"}, False),
        ({"policy": "early", "strength": 0}, True), ({"policy": "early", "strength": 0.5}, False),
    ):  # fmt: skip
        [watched] = (await lease_of(world, **fields)).watched
        assert (watched.fault is None) == holds
        assert holds or "writes: calibrated on none" in str(watched.fault)
        assert watched.on_error == "block"


async def test_a_calibration_for_the_stack_takes_the_fault_away(world: World):
    await add(world, calibrated())
    early = document("early", steer=[{"direction": "formal", "at": "resid_post.0"}])
    await apply(world, monitor(), guard(), early, binding(mandatory=["watchful"]))
    slot = (await lease_of(world, policy="early")).client
    assert slot is not None
    writes = Stack(slot.placement.program).writes(post(1))
    await add(world, calibrated(writes, n=99))
    await apply(world, document("nothing-else"))
    [watched] = (await lease_of(world, policy="early")).watched
    assert (watched.fault, watched.threshold) == (None, 90.0)
    [plain] = (await lease_of(world)).watched
    assert plain.threshold == 900.0


async def test_a_changed_monitor_makes_a_new_revision_of_its_policies(world: World):
    shadow = {"harm": {**USE, "mode": "shadow"}}
    await apply(world, monitor(), guard(monitors=shadow), steering("formal"))
    before = (await lease_of(world, policy="watchful")).digest
    other = monitor(read={"probe": "harm-1"}, tokens="last_prompt")
    body = (await apply(world, other)).json()
    assert [(p["name"], p["revision"]) for p in body["changed"]] == [("watchful", 2)]
    assert [m["revision"] for m in body["changed_monitors"]] == [2]
    lease = await lease_of(world, policy="watchful")
    assert lease.policies[-1] == "watchful@2"
    assert lease.digest != before
    assert lease.watched[0].plan.clause.phase == "last_prompt"
    described = {**other, "metadata": {"name": "harm", "description": "words only"}}
    assert (await apply(world, described)).json()["changed"] == []


async def test_a_changed_monitor_cannot_leave_its_policies_uncalibrated(world: World):
    await add(world, calibrated())
    await apply(world, monitor(), guard())
    answer = await apply(world, monitor(read={"probe": "harm-1"}, tokens="all"))
    assert answer.status_code == 422
    assert "plan: calibrated on" in answer.json()["error"]["message"]
    assert (await listed(world))["harm"]["revision"] == 1


async def test_toggling_is_one_line(world: World):
    await add(world, calibrated())
    await apply(world, monitor(), guard(steer=[{"direction": "formal"}]))
    body = (await change(world, "watchful", monitors__harm__mode="shadow")).json()
    assert (body["name"], body["revision"]) == ("watchful", 2)
    assert (await lease_of(world, policy="watchful")).watched[0].mode == "shadow"
    await change(world, "watchful", monitors__harm__mode="off")
    assert (await lease_of(world, policy="watchful")).watched == ()
    assert (await listed(world))["harm"]["policies"]["watchful"]["mode"] == "off"
    await change(world, "watchful", monitors__harm__mode="enforce")
    lease = await lease_of(world, policy="watchful")
    assert (lease.policies[-1], lease.watched[0].mode) == ("watchful@4", "enforce")


async def test_a_change_keeps_the_artifacts_that_were_meant(world: World):
    from steering.card import to_artifact
    from steering.defaults import Defaults
    from tests.steering.toys import random_direction

    await apply(world, document("kept", steer=[{"direction": "formal"}]))
    before = (await world.call("GET", f"{V1}/policies/kept", key=True)).json()["artifacts"]
    newer = random_direction(77, 16, 4, name="formal", defaults=Defaults((2,)))
    await add(world, to_artifact(newer))
    await change(world, "kept", selectable=False)
    after = (await world.call("GET", f"{V1}/policies/kept", key=True)).json()
    assert (after["revision"], after["artifacts"]) == (2, before)
    await apply(world, document("kept", steer=[{"direction": "formal"}]))
    posted = (await world.call("GET", f"{V1}/policies/kept", key=True)).json()
    assert posted["artifacts"] != before


async def test_changes_that_cannot_be_made_change_nothing(world: World):
    await apply(world, monitor(), guard(monitors={"harm": {**USE, "mode": "shadow"}}))
    for fields, status, says in (
        ({"monitors__harm__mode": "loud"}, 422, "is not one of"),
        ({"monitors__hram__mode": "off"}, 422, "did you mean 'harm'?"),
        ({"monitors__harm__mode": "enforce"}, 422, "has no calibration"),
    ):
        answer = await change(world, "watchful", **fields)
        assert (answer.status_code, says in answer.json()["error"]["message"]) == (status, True)
    shown = (await world.call("GET", f"{V1}/policies/watchful", key=True)).json()
    assert shown["revision"] == 1


async def test_a_monitor_that_is_used_stays(world: World):
    await apply(world, monitor(), guard(monitors={"harm": {**USE, "mode": "off"}}))
    answer = await world.call("DELETE", f"{V1}/monitors/harm", key=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "monitor_in_use")
    assert "watchful" in answer.json()["error"]["message"]
    await world.call("DELETE", f"{V1}/policies/watchful", key=True)
    answer = await world.call("DELETE", f"{V1}/monitors/harm", key=True)
    assert answer.json()["removed_monitors"] == ["harm"]
    assert await listed(world) == {}


async def test_a_gated_policy_goes_into_the_tables(world: World):
    steer = [{"direction": "formal", "when": {"monitor": "harm", "fpr": 0.1}}]
    uses = {"harm": {"mode": "enforce", "fpr": 0.1, "do": "steer"}}
    await add(world, calibrated())
    await apply(world, monitor(), document("gated", steer=steer, monitors=uses))
    lease = await lease_of(world, policy="gated")
    assert lease.client is not None
    program = lease.client.placement.program
    [(column, _)] = program.contents[0].sites[post(2)].columns
    assert (column.gate.threshold, column.gate.point) == (900.0, post(1))
    used = (await world.call("GET", f"{V1}/status", key=True)).json()["capacity"]["used"]
    assert used["gates"] == 1
    assert lease.reads_all


async def test_a_gates_calibration_is_the_one_in_the_tables(world: World):
    """Another calibration would fit the request, but the gate compares with its own threshold."""
    steer = [{"direction": "formal", "when": {"monitor": "harm", "fpr": 0.1}}]
    uses = {"harm": {"mode": "enforce", "fpr": 0.1, "do": "steer"}}
    early = document("early", steer=[{"direction": "formal", "at": "resid_post.0"}])
    gated = document("gated", steer=steer, monitors=uses)
    await add(world, calibrated())
    await apply(world, monitor(), gated, early, binding(mandatory=["gated"]))
    slot = (await lease_of(world, policy="early")).client
    assert slot is not None
    await add(world, calibrated(Stack(slot.placement.program).writes(post(1)), n=99))
    await apply(world, document("nothing-else"))
    [watched] = (await lease_of(world, policy="early")).watched
    assert watched.threshold == 900.0
    assert "writes" in str(watched.fault)


async def test_steering_by_a_feature(world: World):
    feature = {"sae": "world", "index": 3}
    entry = {"feature": feature, "op": "set", "value": 4.0, "tokens": "generation"}
    assert (await apply(world, document("latent", steer=[entry]))).status_code == 200
    shown = (await world.call("GET", f"{V1}/policies/latent", key=True)).json()
    assert list(shown["artifacts"]) == ["sae/world"]


async def test_a_restart_finds_everything_as_it_was(world: World):
    """What was recorded is pinned: newer artifacts of the same names change nothing."""
    await add(world, calibrated())
    feature = {"feature": {"sae": "world", "index": 3}, "op": "set", "value": 4.0}
    await apply(world, monitor(), guard(steer=[feature]))
    before = world.governor.catalog
    await add(world, probe_card.to_artifact(probe("harm-1", seed=99)))
    await add(world, calibrated(n=99))
    capacities = {post(k): Capacity(24, 4, 4) for k in range(4)}
    ranks = Ranks({point: Site(16, capacity) for point, capacity in capacities.items()})
    slots = Slots(OwnBooks(Allocator(16, capacities, 4), ranks.write))
    library = ArtifactLibrary(world.store)
    again = Governor(slots, world.store, library, CONDITIONS.model, PROMPTING)
    await again.start(None)
    assert again.catalog.policies == before.policies
    assert again.catalog.monitors == before.monitors
    [watched] = again.watching.request(select(again.catalog, body="watchful"))
    assert watched.threshold == 900.0


async def test_no_room_for_gates_says_what_to_raise():
    world = await build(points=[post(1), post(2)], gates=0, prompting=PROMPTING)
    with world.store:
        await add(world, probe_card.to_artifact(probe("harm-1")))
        await add(world, calibrated())
        steer = [{"direction": "formal", "when": {"monitor": "harm", "above": 1.0}}]
        uses = {"harm": {"mode": "enforce", "above": 1.0, "do": "steer"}}
        answer = await apply(world, monitor(), document("gated", steer=steer, monitors=uses))
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_capacity")
        assert "--gates" in answer.json()["error"]["message"]


async def test_artifacts_of_other_models_are_refused(world: World):
    for artifact in (
        probe_card.to_artifact(probe("p", model="c" * 64)),
        probe_card.to_artifact(probe("p", 9)),
        sae_card.to_artifact(sae("s", width=8)),
        sae_card.to_artifact(sae("s", 9)),
        sae_card.to_artifact(replace(sae("s"), hook="blocks.1.hook_mlp_out")),
        calibrated(model="c" * 64),
    ):
        answer = await add(world, artifact)
        assert answer.status_code == 422, answer.text


async def test_what_the_directory_owns_names_its_file(tmp_path: Path):
    folder = tmp_path / "policies"
    folder.mkdir()
    shadow = guard(monitors={"harm": {**USE, "mode": "shadow"}})
    (folder / "watch.yaml").write_text(f"{json.dumps(monitor())}\n---\n{json.dumps(shadow)}\n")
    probe_card.to_artifact(probe("harm-1")).save(folder / "artifacts")
    world = await build(documents=[], points=[post(1), post(2)], prompting=PROMPTING)
    with world.store:
        await world.governor.reload(load_directory(folder))
        assert (await listed(world))["harm"]["owner"] == "directory"
        for answer in (
            await change(world, "watchful", monitors__harm__mode="off"),
            await apply(world, monitor()),
            await world.call("DELETE", f"{V1}/monitors/harm", key=True),
        ):
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (409, "owned_by_directory")
            assert str(folder / "watch.yaml") in error["message"]


def test_the_conditions_of_this_world_are_those_of_its_calibrations():
    assert calibration(HARM).content.binding == CONDITIONS.binding(HARM.digest, "")


@pytest.mark.parametrize("path", ["monitors", "monitors/harm", "policies/formal/set"])
async def test_an_admin_key_is_needed(world: World, path: str):
    for method in ("GET", "POST", "DELETE"):
        assert (await world.call(method, f"{V1}/{path}")).status_code == 401
