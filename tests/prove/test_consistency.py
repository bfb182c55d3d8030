"""Two servers on one PostgreSQL while a policy changes: an answer is of one revision and says so.

What an answer's header says, what its decision record says, and the answer itself, recomputed for
that revision's content when nothing changes, must agree.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.replicas import Replica
from service.store import Store
from tests.cable import Cable
from tests.engine.test_server import NAME
from tests.postgres import Postgres
from tests.served import Served

pytestmark = pytest.mark.prove

N_REQUESTS, N_CHANGES, AT_ONCE, PROCESSES = 1000, 50, 16, 2
CONVERGED_SECONDS = 2.0
LIMITS = httpx.Limits(max_connections=AT_ONCE, keepalive_expiry=1)
"""A server closes what is idle for five seconds: a client that does so first never meets it."""
LIVE = "live"
COEFFICIENTS = (0.0, 1.0, -1.0, 0.5)
"""What the policy's revisions add; each gives another answer to some question."""
QUESTIONS = ("where does sami grant live?", "hello", "how do i bake bread?", "who are you?")


@dataclass
class Pair:
    """Two servers of one store; the second one's database hangs on a cable."""

    servers: tuple[Served, Served]
    cable: Cable
    store: Store

    def ask(self, n: int) -> Served:
        """Return a server in turn."""
        return self.servers[n % 2]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Start PostgreSQL and both servers, each with its own engine and API processes."""
    folder = tmp_path_factory.mktemp("consistency")
    artifacts = folder / "artifacts"
    artifacts.mkdir()
    with (
        Postgres() as postgres,
        Cable(postgres.folder) as cable,
        pytest.MonkeyPatch.context() as to,
    ):
        to.setenv("TRIMTAB_ARTIFACTS", str(artifacts))
        url = postgres.url(postgres.create())
        far = url.replace(str(postgres.folder), str(cable.folder))
        with started(folder / "a", url) as one, started(folder / "b", far) as other:
            store = Store.open(url, artifacts)
            yield Pair((one, other), cable, store)
            store.close()


def started(folder: Path, url: str) -> Served:
    """Start the demo on a store."""
    folder.mkdir()
    count = ["--api-server-count", str(PROCESSES)] if PROCESSES > 1 else []
    return Served(folder, ["--enforce-eager", "--state", url, *count])


def policy(name: str, coefficient: float) -> dict[str, Any]:
    """A policy that adds the direction of formal language."""
    return {
        "apiVersion": "trimtab/v1",
        "kind": "Policy",
        "metadata": {"name": name},
        "spec": {"steer": [{"direction": "formal", "coefficient": coefficient}]},
    }


def operate(server: Served, method: str, path: str, **more: Any) -> Any:
    """Call an operation as the admin."""
    answer = server.http.request(method, f"/trimtab/v1/{path}", headers=server.admin, **more)
    assert answer.is_success, answer.text
    return answer.json()


def chat(question: str, name: str) -> dict[str, Any]:
    """The body of a greedy request."""
    return {
        "model": f"{NAME}:{name}",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 12,
        "temperature": 0,
    }


def text_of(answer: httpx.Response) -> str:
    """The words of an answer."""
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"] or ""


def served_by_all(pair: Pair, generation: int, within: float = 30.0) -> float:
    """Return the seconds until every process of both servers serves a generation."""
    started = time.monotonic()
    while time.monotonic() - started < within:
        found = pair.store.replicas().all()
        if len(found) == 2 * PROCESSES and _all_at(found, generation):
            return time.monotonic() - started
        time.sleep(0.02)
    raise AssertionError(f"after {within:g} s not at {generation}: {pair.store.replicas().all()}")


def _all_at(found: tuple[Replica, ...], generation: int) -> bool:
    return all(replica.generation >= generation for replica in found)


@dataclass(frozen=True)
class Asked:
    """One request and what came of it."""

    question: str
    revision: int
    text: str
    request: str


def test_every_answer_is_of_one_revision(pair: Pair, figures: dict[str, Any]) -> None:
    """1,000 requests to both servers during 50 applies and rollbacks, made through both."""
    operate(pair.servers[0], "POST", "policies", json=policy(LIVE, COEFFICIENTS[0]))
    for i, coefficient in enumerate(COEFFICIENTS):
        operate(pair.servers[0], "POST", "policies", json=policy(f"still-{i}", coefficient))
    served_by_all(pair, pair.store.generation().number)
    waits, found = asyncio.run(churn(pair))
    contents = {
        r.revision: r.content["spec"]["steer"][0]["coefficient"] for r in pair.store.revisions(LIVE)
    }
    expected = {
        (question, coefficient): text_of(
            pair.servers[0].http.post("/v1/chat/completions", json=chat(question, f"still-{i}"))
        )
        for question in QUESTIONS
        for i, coefficient in enumerate(COEFFICIENTS)
    }
    wrong = [one for one in found if one.text != expected[one.question, contents[one.revision]]]
    records = recorded(pair, found)
    p95 = float(np.percentile(waits, 95))
    figures["consistency"] = {
        "servers": 2,
        "API processes each": PROCESSES,
        "requests": len(found),
        "changes": len(waits),
        "revisions that served": len({one.revision for one in found}),
        "texts by coefficient": {
            str(c): len({expected[q, c] for q in QUESTIONS}) for c in COEFFICIENTS
        },
        "answers of another revision's text": len(wrong),
        "records that differ from the header": len(records),
        "convergence seconds": {
            "p50": round(float(np.median(waits)), 3),
            "p95": round(p95, 3),
            "max": round(max(waits), 3),
        },
    }
    assert len({tuple(expected[q, c] for q in QUESTIONS) for c in COEFFICIENTS}) == len(
        COEFFICIENTS
    )
    assert not wrong and not records
    assert len(waits) == N_CHANGES and p95 < CONVERGED_SECONDS


async def churn(pair: Pair) -> tuple[list[float], list[Asked]]:
    """Ask while the policy changes; return how long each change took to be everywhere."""
    found: list[Asked] = []
    done = asyncio.Event()
    rng = random.Random("consistency")

    async def asking(clients: list[httpx.AsyncClient], n: int) -> None:
        question = rng.choice(QUESTIONS)
        answer = await clients[n % 2].post("/v1/chat/completions", json=chat(question, LIVE))
        name, _, revision = answer.headers["x-trimtab-policy"].partition("@")
        assert name == LIVE
        request = answer.headers["x-trimtab-request"]
        found.append(Asked(question, int(revision), text_of(answer), request))

    async def load(clients: list[httpx.AsyncClient]) -> None:
        running: set[asyncio.Task[None]] = set()
        for n in range(10 * N_REQUESTS):
            if done.is_set() and n >= N_REQUESTS:
                break
            if len(running) >= AT_ONCE:
                ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
            running.add(asyncio.create_task(asking(clients, n)))
        await asyncio.gather(*running)

    def change(n: int) -> float:
        server = pair.ask(n)
        if n % 5 == 4:
            changed = operate(server, "POST", f"policies/{LIVE}/rollback")
        else:
            changed = operate(
                server, "POST", "policies", json=policy(LIVE, COEFFICIENTS[n % len(COEFFICIENTS)])
            )
        return served_by_all(pair, changed["generation"])

    near, far = (
        httpx.AsyncClient(base_url=server.url, timeout=300, limits=LIMITS)
        for server in pair.servers
    )
    async with near, far:
        loading = asyncio.create_task(load([near, far]))
        waits = [await asyncio.to_thread(change, n) for n in range(1, N_CHANGES + 1)]
        done.set()
        await loading
    return waits, found


def recorded(pair: Pair, found: list[Asked]) -> list[str]:
    """Return the requests whose decision record does not say what the header said."""
    wrong: list[str] = []
    for n, one in enumerate(found):
        record = operate(pair.ask(n), "GET", f"decisions/{one.request}")
        if [p["policy"] for p in record["policies"]] != [f"{LIVE}@{one.revision}"]:
            wrong.append(one.request)
    return wrong


def test_a_server_that_is_cut_off_serves_the_last_good(pair: Pair, figures: dict[str, Any]) -> None:
    """Without its database a server goes on and says so; with it again, it catches up."""
    near, far = pair.servers
    generation = operate(near, "POST", "policies", json=policy(LIVE, 1.0))["generation"]
    served_by_all(pair, generation)
    before = near.http.post("/v1/chat/completions", json=chat("hello", LIVE))
    last_good = before.headers["x-trimtab-policy"]
    pair.cable.pull()
    changed = operate(near, "POST", "policies", json=policy(LIVE, -1.0))
    answers = [far.http.post("/v1/chat/completions", json=chat("hello", LIVE)) for _ in range(50)]
    refused = far.http.post("/trimtab/v1/policies", headers=far.admin, json=policy("other", 0.1))
    started = time.monotonic()
    while (told := operate(far, "GET", "status"))["store"]["ok"]:
        assert time.monotonic() - started < 20
        time.sleep(0.1)
    told_after = time.monotonic() - started
    pair.cable.plug()
    caught_up = served_by_all(pair, changed["generation"])
    after = far.http.post("/v1/chat/completions", json=chat("hello", LIVE))
    figures["cut off"] = {
        "requests": len(answers),
        "served by": dict(Counter(a.headers["x-trimtab-policy"] for a in answers)),
        "told after seconds": round(told_after, 2),
        "status": {"store ok": told["store"]["ok"], "says why": bool(told["store"]["error"])},
        "a change there": [refused.status_code, refused.json()["error"]["code"]],
        "caught up after seconds": round(caught_up, 2),
    }
    assert {a.headers["x-trimtab-policy"] for a in answers} == {last_good}
    assert {text_of(a) for a in answers} == {text_of(before)}
    assert refused.status_code == 503
    assert after.headers["x-trimtab-policy"] != last_good
    assert not pair.store.revisions("other")
