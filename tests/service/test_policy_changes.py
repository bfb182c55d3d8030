"""The commands that plan and make changes, on a server with real tables."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.activation import By
from service.replicas import Replica
from service.store import Store
from tests.service.api.world import KEY, World, binding, build, document, server_of, steering
from tests.service.commanding import Call
from tests.service.serving import served_world


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, World]]:
    """A world behind a socket, with its key in the environment."""
    monkeypatch.setenv("TRIMTAB_ADMIN_KEY", KEY)
    with served_world(build) as served:
        yield served


@pytest.fixture
def files(tmp_path: Path) -> Any:
    """Return a function that writes documents into a file and returns its path."""

    def write(*documents: dict[str, Any]) -> str:
        path = tmp_path / "policies.yaml"
        path.write_text("\n---\n".join(map(json.dumps, documents)))
        return str(path)

    return write


def test_plan_ends_with_0_3_or_1(call: Call, world: tuple[str, World], files: Any) -> None:
    url = ("--url", world[0])
    changing = call("policy", "plan", files(steering("formal", 2.0)), *url)
    assert changing.code == 3
    assert changing.out.splitlines() == [
        f"plan for generation {world[1].governor.catalog.generation}",
        "~ Policy formal  revision 1 -> 2",
        "    spec.steer[0].coefficient: 1.0 -> 2.0",
        "    spec.strength.max: 2.0 -> 1.0",
        f"    uses formal {world[1].governor.catalog.policies['formal'].artifacts['formal'][:12]}",
        "caches     prompts and answers of requests under binding default that choose formal fork",
        "capacity   1 more rows; 18 of 23 free",
    ]
    same = call("policy", "plan", files(steering("casual", -1.0)), *url)
    assert (same.code, same.out.splitlines()[-1]) == (0, "nothing would change")
    refused = call("policy", "plan", files(document("x", steer=[{"direction": "y"}])), *url)
    assert (refused.code, "refused    " in refused.out) == (1, True)
    machine = call("policy", "plan", files(steering("formal", 2.0)), *url, "--json")
    assert (machine.code, machine.json["changes"]) == (3, True)


def test_apply_is_idempotent_and_waits(call: Call, world: tuple[str, World], files: Any) -> None:
    url = ("--url", world[0], "--wait")
    path = files(steering("formal", 2.0), steering("fresh", 0.25))
    done = call("policy", "apply", path, *url)
    now = world[1].governor.catalog.generation
    assert done.out.splitlines() == [
        "Policy formal@2 is active",
        "Policy fresh@1 is active",
        f"generation {now}",
    ]
    again = call("policy", "apply", path, *url)
    assert (again.code, again.out) == (0, f"nothing changed: generation {now} says so already\n")
    assert call("policy", "apply", path, *url, "--json").json["generation"] == now


def test_waiting_names_the_servers_that_lag(
    call: Call, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_ADMIN_KEY", KEY)
    following: list[asyncio.Task[None]] = []

    async def make() -> World:
        world = await build()
        following.append(asyncio.create_task(server_of(world).reconciler.run()))
        return world

    with served_world(make) as (url, world):
        replicas = world.store.replicas()
        other = replace(Replica.new(), id="other", fault="no capacity")
        replicas.say(other)
        arguments = ("policy", "apply", files(steering("formal", 2.0)), "--url", url, "--wait")
        deadline = time.monotonic() + 20
        while "other serves 0" not in (late := call(*arguments, "--timeout", "0")).err:
            assert time.monotonic() < deadline
        assert (late.code, "other serves 0 (no capacity)" in late.err) == (1, True)
        now = world.governor.catalog.generation
        replicas.say(replace(other, beats=1, generation=now))
        assert call(*arguments).code == 0


def test_a_change_for_another_generation_is_refused(
    call: Call, world: tuple[str, World], files: Any
) -> None:
    url, now = ("--url", world[0]), world[1].governor.catalog.generation
    path = files(steering("formal", 2.0))
    stale = call("policy", "apply", path, *url, "--if-generation", str(now - 1))
    assert (stale.code, "somebody else changed something" in stale.err) == (1, True)
    assert call("policy", "apply", path, *url, "--if-generation", str(now)).code == 0
    assert call("policy", "rollback", "formal", *url, "--if-generation", str(now)).code == 1
    assert call("policy", "remove", "late", *url, "--if-generation", str(now)).code == 1


def test_set_changes_fields(call: Call, world: tuple[str, World]) -> None:
    url, now = ("--url", world[0]), world[1].governor.catalog.generation
    done = call("policy", "set", "formal", "strength.max=2.5", "mode=shadow", *url, "--wait")
    assert done.out.splitlines() == ["Policy formal@2 is active", f"generation {now + 1}"]
    again = call("policy", "set", "formal", "mode=shadow", *url, "--json")
    assert (again.json["changed"], again.json["revision"]) == ([], 2)
    stale = call("policy", "set", "formal", "mode=off", *url, "--if-generation", str(now))
    assert (stale.code, "somebody else changed something" in stale.err) == (1, True)
    assert "write FIELD=VALUE" in call("policy", "set", "formal", "mode", *url).err
    unknown = call("policy", "set", "b", "mode=off", *url)
    assert (unknown.code, "there is no policy 'b'" in unknown.err) == (1, True)


def test_rollback_and_remove(call: Call, world: tuple[str, World], files: Any) -> None:
    url = ("--url", world[0])
    call("policy", "apply", files(steering("formal", 2.0)), *url)
    back = call("policy", "rollback", "formal", *url)
    assert back.out.splitlines()[0] == "Policy formal@3 is active"
    assert call("policy", "rollback", "formal", "2", *url, "--json").json["revision"] == 4
    assert "there are 1 to 4" in call("policy", "rollback", "formal", "9", *url).err
    gone = call("policy", "remove", "formal", *url, "--wait")
    assert (gone.code, gone.out.splitlines()[0]) == (0, "Policy formal is removed")
    assert call("policy", "remove", "formal", *url).code == 1
    assert call("policy", "rollback", "formal", *url).out.startswith("Policy formal@4 is active")


def test_a_file_that_is_wrong_is_refused_before_anybody_is_asked(call: Call, files: Any) -> None:
    path = files(document("x", mod="off"))
    for command in ("plan", "apply"):
        done = call("policy", command, path, "--url", "http://127.0.0.1:1")
        assert (done.code, "did you mean 'mode'?" in done.err) == (1, True)


def test_bindings_are_listed_and_shown(call: Call, world: tuple[str, World]) -> None:
    url = ("--url", world[0])
    assert "default@1" in call("binding", "list", *url).out
    assert [b["name"] for b in call("binding", "list", *url, "--json").json] == ["default"]
    shown = call("binding", "show", "default", *url)
    assert "mandatory  guard" in shown.out
    assert call("binding", "show", "default", *url, "--json").json["spec"]["policy"] == "none"
    assert call("binding", "show", "other", *url).code == 1


def test_a_binding_is_applied_halted_and_removed(
    call: Call, world: tuple[str, World], files: Any
) -> None:
    url = ("--url", world[0])
    canary = {"policy": "late", "replaces": "casual", "share": 0.5}
    wanted = binding(policy="casual", canary=canary)
    done = call("binding", "apply", files(wanted), *url)
    assert done.out.splitlines()[0] == "Binding default@2 is active"
    assert "late" in call("binding", "list", *url).out
    assert "ended by admin" in call("binding", "halt", "default", *url).out
    assert "canary     ended: ended by admin" in call("binding", "show", "default", *url).out
    assert call("binding", "halt", "default", *url).code == 1
    gone = call("binding", "remove", "default", *url, "--wait")
    assert gone.out.splitlines()[0] == "Binding default is removed"
    assert call("binding", "list", *url, "--json").json == []


def test_the_audit_log_is_listed_and_verified(
    call: Call, world: tuple[str, World], files: Any
) -> None:
    url = ("--url", world[0])
    call("policy", "apply", files(steering("formal", 2.0)), *url)
    listed = call("audit", "list", *url, "--limit", "1")
    assert "Policy/formal" in listed.out and "1 -> 2" in listed.out
    assert "older ones: --before" in listed.out
    found = call("audit", "verify", *url)
    assert (found.code, found.out.splitlines()[0].endswith("each as it was written")) == (0, True)
    anchor = found.out.splitlines()[1].removeprefix("anchor ")
    assert call("audit", "verify", *url, "--anchor", anchor, "--json").json["ok"] is True
    forged = call("audit", "verify", *url, "--anchor", f"1:{'a' * 64}")
    assert (forged.code, forged.err.startswith("row 1: unanchored")) == (1, True)


def test_a_store_is_verified_without_a_server(call: Call, tmp_path: Path, policy: Any) -> None:
    with Store.open(str(tmp_path)) as store:
        for mode in ("off", "enforce", "shadow"):
            store.activate(By("ann"), [store.record(policy("a", mode=mode), {}, "api")])
    state = ("--state", str(tmp_path))
    assert call("audit", "verify", *state).code == 0
    with sqlite3.connect(tmp_path / "trimtab.db") as database:
        database.execute("DROP TRIGGER audit_no_DELETE")
        database.execute("DELETE FROM audit WHERE seq = 2")
    gap = call("audit", "verify", *state)
    assert (gap.code, gap.err.splitlines()[0]) == (
        1,
        "row 2: gap: row 2 is missing: after 1 comes 3",
    )
    assert call("audit", "verify", *state, "--json").json["bad"]["seq"] == 2
    assert [e["seq"] for e in call("audit", "list", *state, "--json").json["entries"]] == [3, 1]


def test_artifacts_are_listed_collected_and_removed(call: Call, world: tuple[str, World]) -> None:
    url = ("--url", world[0])
    listed = call("artifact", "list", *url, "--json").json
    named = {artifact["name"]: artifact["digest"] for artifact in listed}
    assert "direction" in call("artifact", "list", *url).out
    assert call("artifact", "gc", *url).out == "nothing removed, 0 bytes\n"
    would = call("artifact", "gc", *url, "--hours", "0", "--dry-run")
    first = f"{named['other'][:12]} direction other would be removed\n"
    assert would.out.startswith(f"{first}1 would be removed, ")
    kept = call("artifact", "remove", named["formal"], *url)
    assert (kept.code, "is named by Policy" in kept.err) == (1, True)
    assert call("artifact", "remove", named["other"], *url).out == "direction other removed\n"
    assert call("artifact", "gc", *url, "--hours", "0", "--json").json["removed"] == []
