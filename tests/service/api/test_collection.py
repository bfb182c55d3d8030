"""Artifacts over HTTP: removed and collected, never while something names them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from monitors import probe_card
from service.directory import load_directory
from service.store import Store
from steering.card import to_artifact
from tests.service.api.test_monitors import body_of, calibrated, monitor
from tests.service.api.test_operations import add, artifact, post
from tests.service.api.world import World, build, document
from tests.service.monitored import PROMPTING, probe
from tests.steering.toys import random_direction

V1 = "/trimtab/v1"


async def gc(world: World, **params: Any) -> dict[str, Any]:
    await asyncio.sleep(0.01)
    answer = await world.call("POST", f"{V1}/artifacts/gc", key=True, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def held(world: World) -> set[str]:
    listed = (await world.call("GET", f"{V1}/artifacts", key=True)).json()["artifacts"]
    return {one["digest"] for one in listed}


async def test_what_nothing_names_goes_and_what_was_ever_named_stays(world: World):
    other = next(a for a in world.store.all_artifacts() if a.name == "other").digest
    fresh = (await add(world, artifact("fresh"))).json()["digest"]
    spare = (await add(world, artifact("spare"))).json()["digest"]
    await post(world, document("with-fresh", steer=[{"direction": "fresh"}]))
    await world.call("DELETE", f"{V1}/policies/with-fresh", key=True)
    before = await held(world)
    assert (await gc(world))["removed"] == []  # a day old, unless asked for otherwise
    tried = await gc(world, hours=0, dry_run="true")
    assert {one["digest"] for one in tried["removed"]} == {other, spare}
    assert await held(world) == before
    done = await gc(world, hours=0)
    assert (done["removed"], done["bytes"]) == (tried["removed"], tried["bytes"])
    assert await held(world) == before - {other, spare}
    back = await world.call("POST", f"{V1}/policies/with-fresh/rollback", key=True)
    assert back.status_code == 200
    gone = await post(world, document("with-spare", steer=[{"direction": "spare"}]))
    assert gone.json()["error"]["code"] == "policy_refused"
    assert fresh in await held(world)


async def test_one_is_removed_unless_something_names_it(world: World):
    named = next(a for a in world.store.all_artifacts() if a.name == "formal").digest
    spare = (await add(world, artifact("spare"))).json()["digest"]
    answers = [
        await world.call("DELETE", f"{V1}/artifacts/{digest}", key=True)
        for digest in (named, spare, spare, "x")
    ]
    assert [answer.status_code for answer in answers] == [409, 200, 404, 404]
    error = answers[0].json()["error"]
    assert error["code"] == "artifact_in_use"
    assert "named by Policy" in error["message"]
    newest = world.store.audit().entries(limit=1)[0]
    assert (newest.actor, newest.action, newest.target) == ("admin", "remove", f"Artifact/{spare}")


async def test_calibrations_of_active_monitors_stay():
    world = await build(documents=[], prompting=PROMPTING)
    with world.store:
        bodies = [body_of(probe_card.to_artifact(probe("harm-1", 2))), body_of(calibrated())]
        kept, calibration = [(await add(world, body)).json()["digest"] for body in bodies]
        await post(world, monitor())
        plan = world.governor.monitors["harm"].plan.digest
        is_bound = world.store.artifact(calibration).card["binding"]["plan"] == plan
        taken = {one["digest"] for one in (await gc(world, hours=0))["removed"]}
        assert kept not in taken
        assert (calibration in taken) is not is_bound
        await world.call("DELETE", f"{V1}/monitors/harm", key=True)
        later = {one["digest"] for one in (await gc(world, hours=0))["removed"]}
        assert later == ({calibration} if is_bound else set())


async def test_what_lies_in_the_policy_directory_stays(tmp_path: Path):
    (tmp_path / "a.yaml").write_text(json.dumps(document("quiet")))
    (tmp_path / "artifacts").mkdir()
    made = to_artifact(random_direction(9, 16, 4, name="beside"))
    made.save(tmp_path / "artifacts")
    world = await build(documents=[])
    with world.store:
        await world.governor.reload(load_directory(tmp_path))
        taken = {one["digest"] for one in (await gc(world, hours=0))["removed"]}
        assert made.digest not in taken
        refused = await world.call("DELETE", f"{V1}/artifacts/{made.digest}", key=True)
        assert "the policy directory" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "query", ["hours=-1", "hours=x", "dry_run=yes", "age=1", "hours=999999999"]
)
async def test_what_cannot_be_asked_is_refused(world: World, query):
    answer = await world.call("POST", f"{V1}/artifacts/gc?{query}", key=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_query")


async def test_a_full_store_says_how_full():
    world = await build(documents=[], store=Store.ephemeral(artifact_quota=4096))
    with world.store:
        answers = [await add(world, artifact(f"d{n}", seed=n)) for n in range(9)]
        full = next(answer for answer in answers if answer.status_code != 201)
        assert (full.status_code, full.json()["error"]["code"]) == (507, "artifact_quota")
        assert (
            "of the 4096 that --artifact-quota allows are used" in full.json()["error"]["message"]
        )
        assert (await gc(world, hours=0))["bytes"] > 0
        assert (await add(world, artifact("again"))).status_code == 201
