"""64 streams for five minutes while policies change: no leak, no lost event, and what it costs.

Plain vLLM carries the same load before and after, so that a machine that slows down shows. Its
processes wait as ours do (docs/design/0023-waiting.md), else the comparison would be of that.
"""

import asyncio
import json
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.commands.serve import DEMO_NAME, with_demo_options
from tests.engine.test_server import DEMO
from tests.served import PLAIN_VLLM, Served

pytestmark = pytest.mark.prove

STREAMS, SECONDS, PLAIN_SECONDS = 64, 300, 75
WARM_SECONDS = 60
"""What is cached grows at first; the slope is taken after it."""
CHANGE_SECONDS = 1.0
TOKENS = 48
MIB = 1 << 20
GROWTH = 1.0
"""MiB a minute of the API process: below it there is no leak that these minutes can show."""
EAGER = ("--enforce-eager",)
WAITING = (
    *("--worker-cls", "service.engine.bench_plain.CPUPlainWorker"),
    *("--scheduler-cls", "service.engine.bench_plain.PlainScheduler"),
)


@dataclass
class Load:
    """What a load of streams saw: seconds to the first token, and to the end."""

    first: list[float] = field(default_factory=list[float])
    whole: list[float] = field(default_factory=list[float])
    policies: set[str] = field(default_factory=set[str])
    resets: int = 0
    """Connections that were reset before an answer began; stock clients try again then."""

    def quantile(self, name: str, q: float) -> float:
        """Return a quantile in seconds."""
        return float(np.quantile(getattr(self, name), q))


@contextmanager
def plain(folder: Path) -> Generator[Served]:
    """The same model under vLLM alone, with the options that the demo is served with."""
    folder.mkdir()
    arguments = [str(DEMO / "checkpoint"), *with_demo_options([*EAGER]), *WAITING]
    with Served(folder, arguments, PLAIN_VLLM) as served:
        yield served


def body(policy: str | None) -> dict[str, Any]:
    """A streamed request of a fixed length."""
    name = DEMO_NAME if policy is None else f"{DEMO_NAME}:{policy}"
    return {
        "model": name,
        "messages": [{"role": "user", "content": "where does sami grant live?"}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


async def streams(server: Served, seconds: float, policy: str | None) -> Load:
    """Keep 64 streams open for a while; each begins anew when it ends."""
    load, until = Load(), time.monotonic() + seconds
    limits = httpx.Limits(max_connections=STREAMS)

    async def one(client: httpx.AsyncClient) -> None:
        while time.monotonic() < until:
            started = time.monotonic()
            request = client.build_request("POST", "/v1/chat/completions", json=body(policy))
            try:
                answer = await client.send(request, stream=True)
            except httpx.ReadError:
                load.resets += 1
                continue
            assert answer.status_code == 200, await answer.aread()
            first, ended = 0.0, False
            async for line in answer.aiter_lines():
                first = first or (time.monotonic() if _has_text(line) else 0.0)
                ended = ended or line == "data: [DONE]"
            await answer.aclose()
            assert ended
            load.policies.add(answer.headers.get("x-trimtab-policy", ""))
            load.first.append(first - started)
            load.whole.append(time.monotonic() - started)

    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:
        await asyncio.gather(*(one(client) for _ in range(STREAMS)))
    return load


def _has_text(line: str) -> bool:
    return '"content":"' in line and '"content":""' not in line


def memory(server: Served) -> tuple[int, int]:
    """Return the bytes that the API process holds, and those of its engine, each page once.

    An engine has a group of its own (``service.engine.orphan``), and its server's session.
    """
    serving, engine = 0, 0
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or _session(process) != server.process.pid:
            continue
        if int(process.name) == server.process.pid:
            serving += _proportional(process)
        else:
            engine += _proportional(process)
    return serving, engine


def _session(process: Path) -> int:
    try:
        return os.getsid(int(process.name))
    except ProcessLookupError:
        return 0


def _proportional(process: Path) -> int:
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def watched(name: str, coefficient: float) -> dict[str, Any]:
    """A steered policy whose monitor fires on every request, so that each leaves an event."""
    return {
        "apiVersion": "trimtab/v1",
        "kind": "Policy",
        "metadata": {"name": name},
        "spec": {
            "steer": [{"direction": "formal", "coefficient": coefficient}],
            "monitors": {"harm": {"mode": "enforce", "above": -1e6, "do": "alert"}},
        },
    }


async def under_churn(server: Served) -> tuple[Load, list[tuple[float, int, int]], int]:
    """Load a server while its policy changes; return memory over time and the changes too."""
    loading = asyncio.create_task(streams(server, SECONDS, "live"))
    samples: list[tuple[float, int, int]] = []
    changes, started = 0, time.monotonic()
    async with httpx.AsyncClient(base_url=server.url, headers=server.admin, timeout=60) as client:
        while not loading.done():
            changes += 1
            document = watched("live", 0.1 + 0.001 * (changes % 500))
            answer = await client.post("/trimtab/v1/policies", json=document)
            assert answer.is_success, answer.text
            if changes % 5 == 0:
                used = await asyncio.to_thread(memory, server)
                samples.append((time.monotonic() - started, *used))
            await asyncio.sleep(CHANGE_SECONDS)
    return await loading, samples, changes


def slope(samples: list[tuple[float, int, int]]) -> float:
    """Return MiB a minute of the API process, over what came after the warm-up."""
    late = [(at / 60, used / MIB) for at, used, _ in samples if at >= WARM_SECONDS]
    return float(np.polyfit(*zip(*late, strict=True), 1)[0])


def events_of(server: Served) -> int:
    """Return how many events the policy's requests left, once all that waits is written."""
    time.sleep(3)
    total, after = 0, 0
    while True:
        listed = server.http.get(
            "/trimtab/v1/events",
            headers=server.admin,
            params={"policy": "live", "since": after, "limit": 1000},
        ).json()["events"]
        if not listed:
            return total
        total, after = total + len(listed), listed[-1]["id"]


def test_five_minutes(tmp_path: Path, figures: dict[str, Any]) -> None:
    """The load under churn, between two spells of plain vLLM."""
    with plain(tmp_path / "before") as server:
        before = asyncio.run(streams(server, PLAIN_SECONDS, None))
    folder = tmp_path / "trimtab"
    folder.mkdir()
    with Served(folder, [*EAGER, "--state", str(folder / "state")]) as server:
        answer = server.http.post(
            "/trimtab/v1/policies", headers=server.admin, json=watched("live", 0.1)
        )
        assert answer.is_success, answer.text
        load, samples, changes = asyncio.run(under_churn(server))
        events = events_of(server)
        status = server.http.get("/trimtab/v1/status", headers=server.admin).json()
        page = server.http.get("/metrics").text
    with plain(tmp_path / "after") as server:
        after = asyncio.run(streams(server, PLAIN_SECONDS, None))
    dropped = [line for line in page.splitlines() if "dropped_total" in line and line[0] != "#"]
    figures["load"] = {
        "streams at once": STREAMS,
        "seconds": SECONDS,
        "requests": len(load.whole),
        "changes": changes,
        "revisions that served": len(load.policies),
        "events": events,
        "dropped": dropped,
        "connections reset before an answer": {
            "plain": before.resets + after.resets,
            "trimtab": load.resets,
        },
        "draining slots at the end": status["capacity"]["draining"],
        "MiB of the API process": [round(samples[0][1] / MIB), round(samples[-1][1] / MIB)],
        # Pages of the cache of keys and values count once they are written to.
        "MiB of the engine's processes": [round(samples[k][2] / MIB) for k in (0, -1)],
        "MiB a minute after the first": round(slope(samples), 2),
        "latency": {name: latency(name, before, load, after) for name in ("first", "whole")},
    }
    (tmp_path / "memory.json").write_text(json.dumps(samples))
    assert events == len(load.whole)
    assert status["capacity"]["draining"] == 0
    assert slope(samples) < GROWTH


def latency(name: str, before: Load, load: Load, after: Load) -> dict[str, Any]:
    """Return seconds at p50 and p99, and the ratio to plain vLLM before and after together."""
    both = Load(before.first + after.first, before.whole + after.whole)
    return {
        f"p{round(100 * q)}": {
            "plain before": round(before.quantile(name, q), 3),
            "plain after": round(after.quantile(name, q), 3),
            "trimtab": round(load.quantile(name, q), 3),
            "ratio": round(load.quantile(name, q) / both.quantile(name, q), 3),
        }
        for q in (0.5, 0.99)
    }
