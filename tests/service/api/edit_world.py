"""A server in one process whose edits are solved by real jobs on a tiny checkpoint."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from forward.allocation import Allocator
from forward.fingerprint import model_fingerprint
from forward.hookpoints import HookPoint
from forward.site import Capacity
from forward.sites import make_sites
from service.api.app import wrap
from service.api.metrics import Metrics
from service.artifacts import ArtifactLibrary
from service.edit_jobs import EditWork
from service.engine.books import OwnBooks
from service.engine.slots import Slots
from service.governor import Governor
from service.job_runner import JobRunner
from service.settings import Settings
from service.store import Store
from tests.models import D_MODEL
from tests.service.api.world import KEY, SERVED, Echo, Ranks, World, echo_app
from tests.service.solving import LOOSE, PACE, QUICK, WAIT_SECONDS

D_MLP = 192
SITE = HookPoint("mlp", 1)
V1 = "/trimtab/v1"


class EditWorld(World):
    """A world with a runner of jobs."""

    async def solve(self, document: Any, **fields: Any) -> httpx.Response:
        body = {"document": document, "override": list(LOOSE), "settings": QUICK} | fields
        return await self.call("POST", f"{V1}/edits", key=True, json=body)

    async def get(self, path: str) -> Any:
        return (await self.call("GET", f"{V1}/{path}", key=True)).json()

    async def ended(self, job: Any) -> dict[str, Any]:
        """Wait for a job's end, by asking the server as a client does."""
        limit = time.monotonic() + WAIT_SECONDS
        while (found := await self.get(f"jobs/{job['id']}"))["state"] in ("queued", "running"):
            assert time.monotonic() < limit, found
            await asyncio.sleep(0.05)
        return found

    async def solved(self, document: Any, **fields: Any) -> dict[str, Any]:
        answer = await self.solve(document, **fields)
        assert answer.status_code == 202, answer.text
        ended = await self.ended(answer.json())
        assert ended["state"] == "succeeded", ended["error"]
        return ended


@asynccontextmanager
async def edit_world(
    checkpoint: Path, folder: Path, runs_jobs: bool = True
) -> AsyncGenerator[EditWorld]:
    """Serve a tiny checkpoint with an edit site, with the store in a folder."""
    capacities = {SITE: Capacity(8, 8, 8)}
    ranks = Ranks(make_sites(D_MODEL, capacities, d_mlp=D_MLP))
    model = model_fingerprint(checkpoint)
    with Store.open(str(folder)) as store:
        slots = Slots(OwnBooks(Allocator(D_MODEL, capacities, 4, D_MLP), ranks.write))
        governor = Governor(slots, store, ArtifactLibrary(store), model)
        await governor.start(None)
        work = EditWork(store, checkpoint, model.digest, governor.apply)
        runner = JobRunner(store.jobs(), work, store.artifacts_folder / "jobs", PACE)
        alive, pace, registry = [True], asyncio.Event(), CollectorRegistry()
        seen: list[dict[str, Any]] = []
        app = wrap(
            echo_app(Echo(alive, pace, seen), registry),
            governor,
            store=store,
            settings=Settings("toy", admin_key=KEY),
            served_names=[SERVED],
            is_ready=lambda: alive[0],
            capacities=capacities,
            metrics=Metrics(registry),
            jobs=runner if runs_jobs else None,
        )
        runner.start()
        try:
            yield EditWorld(app, governor, store, ranks, alive, pace, seen, registry)
        finally:
            await runner.close()


def policy(name: str, edits: Sequence[str], **spec: Any) -> dict[str, Any]:
    head = {"apiVersion": "trimtab/v1", "kind": "Policy", "metadata": {"name": name}}
    return head | {"spec": {"edits": list(edits)} | spec}
