"""A world that holds something of every kind, so that a request by name finds it."""

from pathlib import Path
from typing import Any

from monitors import probe_card, sae_card
from service.edit_jobs import EditWork
from service.job_runner import JobRunner
from service.store import Store
from tests.service.api.test_monitors import body_of, guard, monitor
from tests.service.api.world import ADMIN, DOCUMENTS, MODEL, World, binding, build, server_of
from tests.service.monitored import PROMPTING, post, probe, sae
from tests.service.solving import PACE
from tests.service.test_events import event

V1 = "/trimtab/v1"
EDIT_SET = {
    "apiVersion": "trimtab/v1",
    "kind": "EditSet",
    "metadata": {"name": "moved"},
    "spec": {"facts": [{"prompt": "w20 {} w21", "subject": "w60", "target": "w31"}]},
}
TRIAL = {"policy": "late", "replaces": "casual", "share": 0.5}


async def _never(*_: object) -> Any:
    raise AssertionError("nobody works on the queue here")


async def full_world() -> World:
    """Return a world whose jobs stay in their queue."""
    store = Store.ephemeral()
    work = EditWork(store, Path("/nowhere"), MODEL, _never)
    jobs = JobRunner(store.jobs(), work, store.artifacts_folder / "jobs", PACE)
    points = [post(layer) for layer in range(4)]
    world = await build(points=points, prompting=PROMPTING, store=store, jobs=jobs)
    for artifact in (probe_card.to_artifact(probe("harm-1")), sae_card.to_artifact(sae("world"))):
        await _posted(world, "artifacts", body_of(artifact))
    bound = binding(mandatory=["guard"], policy="casual", canary=TRIAL)
    watched = guard(monitors={"harm": {"mode": "shadow", "fpr": 0.1, "do": "alert"}})
    for document in (monitor(), watched, bound):
        await _posted(world, "policies", document)
    await _posted(world, "edits", EDIT_SET)
    await _posted(world, "keys", {"name": "reader", "role": "viewer"})
    server = server_of(world)
    server.events.store.add([event(number) for number in range(3)])
    for model in ("toy:formal", "toy:casual"):
        answer = await world.chat(model=model, headers=ADMIN)
        assert answer.status_code == 200, answer.text
    await server.decisions.flush()
    return world


async def names_of(world: World) -> dict[str, list[str]]:
    """Return what there is, by the part of a path that names it."""

    async def listed(path: str) -> Any:
        return (await world.call("GET", f"{V1}/{path}", key=True)).json()

    documents = [d["metadata"]["name"] for d in DOCUMENTS]
    return {
        "name": [*documents, "harm", "watchful", "moved"],
        "digest": [a["digest"] for a in (await listed("artifacts"))["artifacts"]],
        "jobs": [str(j["id"]) for j in (await listed("jobs"))["jobs"]],
        "events": [str(e["id"]) for e in (await listed("events"))["events"]],
        "keys": [k["id"] for k in (await listed("keys"))["keys"]],
        "decisions": [d["request"] for d in (await listed("decisions"))["decisions"]],
    }


async def _posted(world: World, path: str, body: Any) -> None:
    answer = await world.call("POST", f"{V1}/{path}", key=True, json=body)
    assert answer.status_code < 300, answer.text
