"""Nobody without the right gets in: every route by method and role, and hostile requests.

The table is driven on the middleware with all handlers replaced, so that a cell says whether a
handler was reached. Hostile requests go over sockets, byte for byte: to the operations and an echo
in the model's place on SQLite and on PostgreSQL, and to a real ``trimtab serve`` with its engine.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from forward.fingerprint import model_fingerprint
from service.callers import OWNER
from service.keys import NewKey
from service.store import Store
from steering.card import to_artifact
from steering.defaults import Defaults
from tests.models import D_MODEL, N_LAYERS, save_checkpoint
from tests.served import ADMIN_KEY, Served
from tests.service.api.bad_inputs import Subject
from tests.service.api.role_table import cells, everyone, expected, filled, spied
from tests.service.api.surviving import (
    Outcome,
    all_attacks,
    attack,
    besieged,
    everything,
    is_well,
    make_keys,
    stored,
)
from tests.service.api.world import KEY, SERVED, World, build
from tests.service.places import StorePlace
from tests.service.serving import served_world
from tests.steering.toys import random_direction

pytestmark = pytest.mark.prove

ROUNDS = 40
LEAST = 300


async def test_every_cell_both_ways(figures: dict[str, Any]) -> None:
    """Allowed reaches a handler as who asks; denied reaches none and says 401, 403, 404 or 405."""
    world = await build()
    counted: Counter[str] = Counter()
    wrong: list[Any] = []
    with world.store:
        spy, people = spied(world), everyone(world)
        await asyncio.sleep(0.6)  # until the key that expires has expired
        for template, method in cells():
            for who in people:
                spy.reached.clear()
                status = await spy.ask(method, filled(template), who)
                reaches, statuses = expected(template, method, who)
                counted["allowed" if reaches else f"denied with {status}"] += 1
                if bool(spy.reached) is not reaches or status not in statuses:
                    wrong.append((method, template, who.name, status, spy.reached))
    figures["table"] = {
        "routes": len({template for template, _ in cells()}),
        "routes by method": len(list(cells())),
        "callers": [who.name for who in people],
        "cells": sum(counted.values()),
        "wrong": len(wrong),
        **counted,
    }
    assert not wrong
    assert {"allowed", "denied with 401", "denied with 403"} <= set(counted)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> StorePlace:
    """A place for a store."""
    on_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/trimtab.db" if on_sqlite else ""
    return StorePlace(url or request.getfixturevalue("postgres_url"), tmp_path / "artifacts")


def on(place: StorePlace) -> Callable[[], Awaitable[World]]:
    return lambda: build(store=place.open())


def told(outcome: Outcome, seconds: float) -> dict[str, Any]:
    return {
        "sent": outcome.sent.total(),
        "by kind": dict(outcome.sent),
        "answers by kind and status": {
            kind: {str(status): n for status, n in sorted(found.items())}
            for kind, found in outcome.statuses.items()
        },
        "got in": len(outcome.got_in),
        "5xx": len(outcome.broke),
        "seconds": round(seconds, 1),
    }


def test_hostile_requests(place: StorePlace, figures: dict[str, Any]) -> None:
    with besieged(on(place)) as (port, world, keys):
        is_well(port, keys)
        before, began = everything(world), time.monotonic()
        outcome = attack(port, all_attacks(keys))
        after = everything(world)
        figures[f"hostile requests, {place.url.partition(':')[0]}"] = told(
            outcome, time.monotonic() - began
        ) | {"store changed": after != before}
        assert outcome.sent.total() >= LEAST
        assert (outcome.got_in, outcome.broke) == ([], [])
        assert after == before
        is_well(port, keys)


def test_a_revoked_key_is_refused_by_the_other_server(
    place: StorePlace, figures: dict[str, Any]
) -> None:
    """Two servers on one store, each asked all the time."""
    waits: list[float] = []
    with served_world(on(place)) as (one, world), served_world(on(place)) as (other, _):
        for number in range(ROUNDS):
            issued = world.store.keys().create(NewKey(f"k{number}", "infer"), OWNER)
            while _chat(other, issued.text) != 200:
                time.sleep(0.02)
            owner = {"Authorization": f"Bearer {KEY}"}
            answer = httpx.delete(f"{one}/trimtab/v1/keys/{issued.key.id}", headers=owner)
            revoked = time.monotonic()
            assert answer.status_code == 200
            assert _chat(one, issued.text) == 401, "at once where it was revoked"
            while _chat(other, issued.text) != 401:
                time.sleep(0.02)
            waits.append(time.monotonic() - revoked)
    figures[f"seconds until the other server refuses, {place.url.partition(':')[0]}"] = {
        "rounds": ROUNDS,
        "median": round(float(np.median(waits)), 3),
        "p95": round(float(np.quantile(waits, 0.95)), 3),
        "most": round(max(waits), 3),
    }
    assert max(waits) < 2


def _chat(url: str, key: str) -> int:
    body = {"model": SERVED, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers).status_code


# --- a real server --------------------------------------------------------------------------------


def document(name: str, kind: str = "Policy", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name}
    return {"apiVersion": "trimtab/v1", "kind": kind, "metadata": metadata, "spec": spec}


def policies(checkpoint: Path, folder: Path) -> Path:
    """Write policies of the names that the attacks know."""
    (folder / "artifacts").mkdir(parents=True)
    model, at = model_fingerprint(checkpoint), Defaults((0,))
    made = random_direction(0, D_MODEL, N_LAYERS, name="formal", model=model.digest, defaults=at)
    to_artifact(made).save(folder / "artifacts")
    steer = [{"direction": "formal", "coefficient": 0.1}]
    documents = [
        document("formal", steer=steer, strength={"default": 1, "min": 0, "max": 2}),
        document("casual", steer=steer),
        document("guard", steer=steer, selectable=False),
        document("hidden", steer=steer, selectable=False),
        document("asleep", mode="off"),
        document("default", "Binding", mandatory=["guard"], policy="none"),
    ]
    (folder / "all.yaml").write_text("\n---\n".join(map(json.dumps, documents)))
    return folder


def test_hostile_requests_to_a_real_server(tmp_path: Path, figures: dict[str, Any]) -> None:
    """Store and status are as they were; who may still can."""
    checkpoint = save_checkpoint("llama", tmp_path / "llama")
    state = tmp_path / "state"
    arguments = [str(checkpoint), "--policies", str(policies(checkpoint, tmp_path / "policies"))]
    arguments += ["--state", str(state), "--served-model-name", "tiny", "--dtype", "float32"]
    arguments += ["--block-size", "32", "--max-model-len", "256", "--enforce-eager"]
    arguments += ["--kv-cache-memory-bytes", "67108864", "--max-num-seqs", "8"]
    # vLLM checks its own keys again, behind ours: keys of the store must pass there too.
    arguments += ["--api-key", "a-key-of-vllms"]
    model = model_fingerprint(checkpoint)
    with Served(tmp_path, arguments) as server, Store.open(str(state)) as store:
        keys = make_keys(store.keys(), ADMIN_KEY)
        rows = server.http.get("/trimtab/v1/status", headers=server.admin).json()
        size = next(iter(rows["capacity"]["sites"].values()))["rows"]
        subject = Subject(
            "tiny",
            "formal",
            "casual",
            "formal",
            2.0,
            model.digest,
            D_MODEL,
            N_LAYERS,
            size,
            ADMIN_KEY,
            owns_binding=True,
        )
        is_well(server.port, keys, subject)
        listed = server.http.get("/v1/models", headers={"Authorization": "Bearer a-key-of-vllms"})
        assert listed.status_code == 200
        before, began = (stored(store), _served(server)), time.monotonic()
        outcome = attack(server.port, all_attacks(keys, subject))
        after = (stored(store), _served(server))
        figures["hostile requests, real server"] = told(outcome, time.monotonic() - began) | {
            "store changed": after != before
        }
        assert (outcome.got_in, outcome.broke) == ([], [])
        assert after == before
        is_well(server.port, keys, subject)


def _served(server: Served) -> dict[str, Any]:
    """Return what the server says of itself, without what changes by itself."""
    status = server.http.get("/trimtab/v1/status", headers=server.admin).json()
    names = ("policies", "monitors", "edits", "merged", "generation", "directory", "ready")
    return {name: status[name] for name in names}
