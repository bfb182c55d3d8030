"""Plans change nothing and say all; rollbacks are new revisions; the lock is a header."""

import json
from typing import Any

import pytest

from service.directory import load_directory
from tests.service.api.test_operations import add, artifact
from tests.service.api.world import World, binding, build, document, steering

V1 = "/trimtab/v1"


async def send(world: World, path: str, *documents: Any, **more: Any) -> Any:
    text = "\n---\n".join(json.dumps(d) for d in documents)
    return await world.call("POST", f"{V1}/{path}", key=True, content=text, **more)


async def plan(world: World, *documents: Any) -> dict[str, Any]:
    answer = await send(world, "policies/plan", *documents)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def status(world: World) -> dict[str, Any]:
    found = (await world.call("GET", f"{V1}/status", key=True)).json()
    return {name: found[name] for name in ("generation", "policies", "capacity")}


async def test_a_plan_says_field_by_field_what_differs(world: World):
    found = await plan(world, steering("formal", 2.0, selectable=False), steering("fresh", 0.25))
    assert found["changes"] is True
    assert found["refused"] is None
    formal, fresh = found["documents"]
    assert (formal["name"], formal["action"], formal["before"], formal["after"]) == (
        "formal",
        "change",
        1,
        2,
    )
    assert {(d["path"], d["before"], d["after"]) for d in formal["differences"]} == {
        ("spec.selectable", True, False),
        ("spec.strength.max", 2.0, 1.0),
        ("spec.steer[0].coefficient", 1.0, 2.0),
    }
    assert (fresh["action"], fresh["before"], fresh["after"]) == ("add", None, 1)
    assert list(fresh["artifacts"]) == ["formal"]
    assert {d["path"] for d in fresh["differences"]} >= {"metadata.name", "spec.mode", "spec.steer"}
    assert not any("before" in difference for difference in fresh["differences"])


async def test_a_plan_changes_nothing_and_applying_does_what_it_said(world: World):
    before = await status(world)
    documents = (steering("formal", 2.0), steering("fresh", 0.25))
    first = await plan(world, *documents)
    assert await plan(world, *documents) == first
    assert await status(world) == before
    applied = (await send(world, "policies", *documents)).json()["applied"]
    said = {d["name"]: d["after"] for d in first["documents"]}
    assert {a["name"]: a["revision"] for a in applied} == said
    after = await plan(world, *documents)
    assert after["changes"] is False
    assert [d["action"] for d in after["documents"]] == ["none", "none"]
    assert (after["caches"], after["capacity"]) == ([], [])


async def test_a_plan_says_which_caches_fork(world: World):
    async def forks(*documents: Any) -> set[tuple[str, str | None, bool, bool]]:
        found = (await plan(world, *documents))["caches"]
        return {(c["binding"], c["policy"], c["prompts"], c["answers"]) for c in found}

    assert await forks(steering("formal", 2.0)) == {("default", "formal", True, True)}
    assert await forks(steering("late", 0.1, tokens="generation")) == {
        ("default", "late", False, True)
    }
    assert (
        await forks(
            steering("formal", 1.0, strength={"default": 1, "min": 0, "max": 2}, refusal="no")
        )
        == set()
    )
    guarded = await forks(steering("guard", 0.1, selectable=False))
    assert {policy for _, policy, *_ in guarded} == {
        None,
        "formal",
        "casual",
        "late",
        "asleep",
        "shade",
    }
    assert await forks(steering("asleep", mode="enforce")) == {("default", "asleep", True, True)}
    assert await forks(steering("fresh", 1.0)) == set()


async def test_a_plan_says_what_capacity_is_needed(world: World):
    found = await plan(world, steering("formal", 2.0), steering("fresh", 0.25))
    rows = next(t for t in found["capacity"] if t["table"] == "rows")
    used = (await status(world))["capacity"]["used"]["rows"]
    assert rows == {"table": "rows", "more": 2, "free": 23 - used, "size": 23}


async def test_a_plan_says_why_it_would_be_refused_as_applying_does(world: World):
    for documents in (
        [document("fresh", steer=[{"direction": "unknown"}])],
        [document("elsewhere", steer=[{"direction": "formal", "at": "resid_post.1"}])],
        [steering(f"p{i}", 1 + i / 100) for i in range(30)],
        [binding(policy="nobody")],
        [document("watched", monitors={"harm": {"mode": "shadow", "above": 1.0, "do": "log"}})],
    ):
        before = await status(world)
        found = await plan(world, *documents)
        answer = await send(world, "policies", *documents)
        error = answer.json()["error"]
        assert answer.status_code >= 400
        assert found["refused"]["status"] == answer.status_code
        assert (found["refused"]["code"], found["refused"]["message"]) == (
            error["code"],
            error["message"],
        )
        assert [d["name"] for d in found["documents"]] == [
            d["metadata"]["name"] for d in sorted(documents, key=lambda d: d["metadata"]["name"])
        ]
        assert await status(world) == before


async def test_a_plan_of_what_the_directory_owns_names_its_file(tmp_path):
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "a.yaml").write_text(json.dumps(steering("formal", 0.5)))
    world = await build(documents=[])
    with world.store:
        await world.governor.reload(load_directory(folder))
        found = await plan(world, steering("formal", 2.0))
        assert found["refused"]["code"] == "owned_by_directory"
        assert "a.yaml" in found["refused"]["message"]
        assert found["documents"][0]["differences"] == [
            {"path": "spec.steer[0].coefficient", "before": 0.5, "after": 2.0},
            {"path": "owner", "before": "directory", "after": "api"},
        ]
        back = await send(world, "policies/formal/rollback")
        assert back.status_code == 409
        assert "a.yaml" in back.json()["error"]["message"]


async def test_a_plan_of_the_whole_directory_is_what_its_reload_does(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, *documents in (
        (old, steering("formal", 0.5), steering("gone", 0.1)),
        (new, steering("formal", 0.7), steering("mine", 0.2), steering("fresh", 0.3)),
    ):
        folder.mkdir()
        (folder / "a.yaml").write_text("\n---\n".join(map(json.dumps, documents)))
    world = await build(documents=[steering("mine", 0.2), steering("theirs", 0.4)])
    with world.store:
        alone = await send(world, "policies/plan?owner=directory", steering("formal"))
        assert (alone.status_code, alone.json()["error"]["code"]) == (409, "no_directory")
        await world.governor.reload(load_directory(old))
        wanted = [d.content for d in load_directory(new).documents]
        before = await status(world)
        found = (await send(world, "policies/plan?owner=directory", *wanted)).json()
        assert await status(world) == before
        assert found["refused"] is None
        said = {d["name"]: (d["action"], d["before"], d["after"]) for d in found["documents"]}
        assert said == {
            "formal": ("change", 1, 2),
            "fresh": ("add", None, 1),
            "gone": ("remove", 1, None),
            "mine": ("change", 1, 2),
        }
        mine = next(d for d in found["documents"] if d["name"] == "mine")
        assert mine["differences"] == [{"path": "owner", "before": "api", "after": "directory"}]
        applied = await world.governor.reload(load_directory(new))
        assert {p.name: p.revision for p in applied.changes.changed} == {
            name: after for name, (_, _, after) in said.items() if after is not None
        }
        assert [p.name for p in applied.changes.removed] == ["gone"]
        wrong = await send(world, "policies/plan?owner=me", steering("formal"))
        assert wrong.status_code == 400


async def test_a_rollback_is_a_new_revision_with_the_old_content_and_artifacts(world: World):
    shown = await world.call("GET", f"{V1}/policies/formal", key=True)
    first = shown.json()
    await send(world, "policies", steering("formal", 2.0))
    answer = await send(world, "policies/formal/rollback")
    assert answer.status_code == 200
    assert (answer.json()["name"], answer.json()["revision"]) == ("formal", 3)
    now = (await world.call("GET", f"{V1}/policies/formal", key=True)).json()
    assert (now["digest"], now["artifacts"]) == (first["digest"], first["artifacts"])
    chat = await world.chat(policy="formal")
    assert chat.headers["x-trimtab-policy"] == "guard@1, formal@3"
    again = await send(world, "policies/formal/rollback", {"revision": 1})
    assert again.json()["changed"] == []
    assert again.json()["revision"] == 3


async def test_a_rollback_takes_back_a_newer_artifact_too(world: World):
    old = (await world.call("GET", f"{V1}/policies/formal", key=True)).json()
    assert (await add(world, artifact("formal", seed=9))).status_code == 201
    moved = await send(world, "policies", old["content"])
    assert [c["revision"] for c in moved.json()["changed"]] == [2]
    new = (await world.call("GET", f"{V1}/policies/formal", key=True)).json()
    assert new["digest"] == old["digest"]
    assert new["artifacts"] != old["artifacts"]
    await send(world, "policies/formal/rollback")
    back = (await world.call("GET", f"{V1}/policies/formal", key=True)).json()
    assert (back["revision"], back["artifacts"]) == (3, old["artifacts"])
    found = await plan(world, old["content"])
    assert [d["path"] for d in found["documents"][0]["artifact_differences"]] == ["formal"]


async def test_a_removed_policy_comes_back_by_a_rollback(world: World):
    await world.call("DELETE", f"{V1}/policies/late", key=True)
    assert (await world.chat(policy="late")).status_code == 404
    answer = await send(world, "policies/late/rollback")
    assert answer.status_code == 200
    assert (await world.chat(policy="late")).headers["x-trimtab-policy"] == "guard@1, late@1"


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("formal", "", 404),
        ("nobody", "", 404),
        ("formal", '{"revision": 7}', 404),
        ("formal", '{"revision": 0}', 422),
        ("formal", '{"revision": true}', 422),
        ("formal", '{"revision": "1"}', 422),
        ("formal", '{"to": 1}', 422),
        ("formal", "[1]", 422),
        ("formal", "{", 400),
    ],
)
async def test_what_cannot_be_rolled_back_is_refused(world: World, name, body, code):
    before = await status(world)
    answer = await world.call("POST", f"{V1}/policies/{name}/rollback", key=True, content=body)
    assert answer.status_code == code
    assert await status(world) == before


async def test_changes_are_made_for_a_generation(world: World):
    listed = await world.call("GET", f"{V1}/policies", key=True)
    tag = listed.headers["etag"]
    assert tag == f'"{listed.json()["generation"]}"'
    planned = await send(world, "policies/plan", steering("formal", 2.0))
    assert planned.headers["etag"] == tag
    applied = await send(world, "policies", steering("formal", 2.0), headers={"If-Match": tag})
    assert applied.status_code == 200
    assert applied.headers["etag"] == f'"{applied.json()["generation"]}"' != tag
    before = await status(world)
    calls = [
        ("POST", "policies", json.dumps(steering("formal", 3.0))),
        ("POST", "policies/formal/set", '{"set": {"mode": "shadow"}}'),
        ("POST", "policies/formal/rollback", ""),
        ("DELETE", "policies/late", ""),
    ]
    for method, path, body in calls:
        stale = await world.call(
            method, f"{V1}/{path}", key=True, content=body, headers={"If-Match": tag}
        )
        assert (stale.status_code, stale.json()["error"]["code"]) == (412, "generation_moved")
    assert await status(world) == before
    for wrong in ("7", '"x"', 'W/"7"', ""):
        answer = await send(world, "policies", steering("a"), headers={"If-Match": wrong})
        assert answer.status_code == 400
    anything = await send(world, "policies", steering("formal", 3.0), headers={"If-Match": "*"})
    assert anything.status_code == 200


async def test_the_audit_log_is_read_in_pages_and_verified(world: World):
    await send(world, "policies", steering("formal", 2.0))
    await send(world, "policies/formal/rollback")
    await world.call("DELETE", f"{V1}/policies/late", key=True)
    page = (await world.call("GET", f"{V1}/audit", key=True, params={"limit": 3})).json()
    told = [(e["actor"], e["action"], e["target"]) for e in page["entries"]]
    assert told == [
        ("admin", "remove", "Policy/late"),
        ("admin", "rollback", "Policy/formal"),
        ("admin", "apply", "Policy/formal"),
    ]
    assert page["entries"][1]["after"]["revision"] == 3
    rest = await world.call("GET", f"{V1}/audit", key=True, params={"before": page["next"]})
    assert rest.json()["next"] is None
    assert {e["actor"] for e in rest.json()["entries"]} == {"ann"}
    found = (await world.call("GET", f"{V1}/audit/verify", key=True)).json()
    assert found["ok"] is True
    assert found["rows"] == 3 + len(rest.json()["entries"])
    params = {"anchor": found["anchor"]}
    assert (await world.call("GET", f"{V1}/audit/verify", key=True, params=params)).json()["ok"]
    params = {"anchor": f"1:{'a' * 64}"}
    lost = (await world.call("GET", f"{V1}/audit/verify", key=True, params=params)).json()
    assert (lost["ok"], lost["bad"]["flaw"]) == (False, "unanchored")


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "before=0", "limit=5000", "page=1"])
async def test_what_cannot_be_asked_of_the_audit_log_is_refused(world: World, query):
    answer = await world.call("GET", f"{V1}/audit?{query}", key=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_query")
    bad = await world.call("GET", f"{V1}/audit/verify?anchor=7", key=True)
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "invalid_anchor")
