"""A bad policy directory: the last good one goes on being served, and an alert can see it."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.directory import load_directory
from service.entry import CompileError
from tests.service.api.world import World, build, document, steering


async def seen(world: World) -> tuple[float | None, dict[str, Any], list[int]]:
    """Return the metric, what status says, and the served revisions of formal."""
    await world.call("GET", "/metrics", follow_redirects=True)
    status = (await world.call("GET", "/trimtab/v1/status", key=True)).json()
    good = world.registry.get_sample_value("trimtab_directory_good")
    served = (await world.chat(policy="formal")).headers["x-trimtab-policy"]
    return good, status["directory"], [int(served.rpartition("@")[2])]


async def test_a_bad_directory_keeps_the_last_good_and_says_so(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text(json.dumps(steering("formal", 0.5)))
    world = await build(documents=[])
    with world.store:
        state = load_directory(tmp_path)
        await world.governor.reload(state)
        assert (await seen(world))[0] == 1

        file.write_text("kind: Policy\n  spec: {")  # no YAML
        state = load_directory(tmp_path, state)
        await world.governor.reload(state)
        good, told, served = await seen(world)
        assert (good, served) == (0, [1])
        assert told["errors"][0]["file"].endswith("a.yaml") and told["errors"][0]["line"]

        file.write_text(json.dumps(document("formal", steer=[{"direction": "unknown"}])))
        state = load_directory(tmp_path, state)
        with pytest.raises(CompileError):
            await world.governor.reload(state)  # it parses, and cannot be served
        good, told, served = await seen(world)
        assert (good, served) == (0, [1])
        assert "unknown" in told["refused"]

        file.write_text(json.dumps(steering("formal", 0.7)))
        await world.governor.reload(load_directory(tmp_path, state))
        good, told, served = await seen(world)
        assert (good, served) == (1, [2])
        assert (told["errors"], told["refused"]) == ([], None)
        newest = world.store.audit().entries(limit=1)[0]
        assert (newest.actor, newest.target) == ("policy directory", "Policy/formal")
