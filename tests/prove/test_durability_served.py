"""``kill -9`` of a served engine while it applies and answers, on SQLite and on PostgreSQL.

The same is held against the store as in ``test_durability.py``, and no process of the engine
outlives its server.
"""

import json
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from forward.fingerprint import model_fingerprint
from service.store import Store
from steering.card import to_artifact
from steering.defaults import Defaults
from tests.enduring import GROUP, PER_THOUSAND
from tests.models import D_MODEL, N_LAYERS
from tests.outlived import Auditor, Told, check_control
from tests.postgres import Postgres
from tests.processes import left_of
from tests.served import Served
from tests.service.api.world import binding, steering
from tests.service.places import StorePlace
from tests.steering.toys import random_direction

pytestmark = pytest.mark.prove

SERVED = 4
SECONDS = (1.0, 5.0)
"""A server is killed at a random moment after it is ready."""
SMALL = (
    *("--enforce-eager", "--dtype", "float32", "--block-size", "32", "--max-model-len", "512"),
    *("--kv-cache-memory-bytes", "134217728", "--served-model-name", "tiny"),
)


def test_on_sqlite(tmp_path: Path, checkpoint, figures: dict[str, Any]) -> None:
    place = StorePlace(f"sqlite:///{tmp_path}/trimtab.db", tmp_path / "artifacts")
    figures["sqlite"] = served_rounds(place, checkpoint("llama"), tmp_path)


def test_on_postgresql(tmp_path: Path, checkpoint, figures: dict[str, Any]) -> None:
    with Postgres() as server:
        place = StorePlace(server.url(server.create()), tmp_path / "artifacts")
        figures["postgresql"] = served_rounds(place, checkpoint("llama"), tmp_path)


def served_rounds(place: StorePlace, model: Path, folder: Path) -> dict[str, Any]:
    """Kill served engines while they apply and answer; return what was found."""
    with place.open() as store:
        _add_direction(store, model)
    told, auditor, moments = Told(), Auditor(), random.Random(9)
    answered, gone = 0, list[float]()
    for number in range(SERVED):
        os.environ["TRIMTAB_ARTIFACTS"] = str(place.artifacts)
        with Served(folder, [str(model), *SMALL, "--state", place.url]) as server:
            clients = Clients(server, told, number)
            clients.start()
            time.sleep(moments.uniform(*SECONDS))
            gone.append(_kill(server))
            clients.join()
            answered += clients.answered
        with place.open() as store:
            check_control(store, told, auditor)
    assert told.done["group"] >= SERVED and answered >= SERVED, told.done
    return {
        "rounds": SERVED,
        "acknowledged": dict(sorted(told.done.items())),
        "answers": answered,
        "audit_rows_verified": auditor.seq,
        "seconds_until_no_process_was_left": round(max(gone), 3),
    }


class Clients:
    """Who applies, makes keys and asks for answers until the server is gone."""

    def __init__(self, server: Served, told: Told, number: int) -> None:
        self._url, self._admin, self._told = server.url, server.admin, told
        self._k, self._lock = number * 100_000, threading.Lock()
        self.answered = 0
        self._faults: list[str] = []
        works = (self._apply, self._key, self._ask)
        self._threads = [threading.Thread(target=self._again, args=(work,)) for work in works]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        assert not self._faults, self._faults

    def _again(self, work: Callable[[httpx.Client], None]) -> None:
        with httpx.Client(base_url=self._url, headers=self._admin, timeout=30) as client:
            while True:
                try:
                    work(client)
                except httpx.TransportError:
                    return
                except AssertionError as error:
                    self._faults.append(str(error)[:500])
                    return

    def _apply(self, client: httpx.Client) -> None:
        k = self._next()
        documents: list[Any] = [steering(name, k / PER_THOUSAND / 1000) for name in GROUP]
        documents.append(binding(policy=GROUP[k % len(GROUP)]))
        self._hear("begun", "group", k=k)
        text = "\n---\n".join(map(json.dumps, documents))
        answer = client.post("/trimtab/v1/policies", content=text)
        assert answer.status_code == 200, answer.text
        self._hear("done", "group", k=k, generation=answer.json()["generation"])

    def _key(self, client: httpx.Client) -> None:
        name = f"key-{self._next()}"
        answer = client.post("/trimtab/v1/keys", json={"name": name, "role": "infer"})
        assert answer.is_success, answer.text
        self._hear("done", "key", id=answer.json()["id"])
        time.sleep(0.1)

    def _ask(self, client: httpx.Client) -> None:
        asked = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 8, "temperature": 0}
        answer = client.post("/v1/completions", json=asked)
        assert answer.status_code == 200, answer.text
        self.answered += 1

    def _next(self) -> int:
        with self._lock:
            self._k += 1
            return self._k

    def _hear(self, word: str, what: str, **more: Any) -> None:
        with self._lock:
            self._told.hear(word, what, more)
            self._told.done[what] += word == "done"


def _kill(server: Served) -> float:
    """Kill a server, and return how long its engine still took to go."""
    below = psutil.Process(server.process.pid).children(recursive=True)
    server.process.kill()
    started = time.monotonic()
    server.process.wait()
    assert not left_of(below), "a process of the engine outlived its server"
    return time.monotonic() - started


def _add_direction(store: Store, model: Path) -> None:
    served = model_fingerprint(model)
    fields = {"name": "formal", "model": served.digest, "defaults": Defaults((1,))}
    artifact = to_artifact(random_direction(0, D_MODEL, N_LAYERS, **fields))
    store.add_artifact(artifact.save(store.artifacts_folder), artifact.card)
