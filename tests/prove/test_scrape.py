"""What a scrape costs a server with 64 monitors, each of whose series exists.

A scrape is work of the API process's event loop, so the time of one is taken from serving; every 15
seconds it is a share of a core. vLLM's own metrics, which it has without us, are not on that page.
Then a real server under load, its page whole: tokens a second while it is scraped, and while not.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest, multiprocess

from monitors import probe_card
from service.api.metrics import Metrics
from service.commands.serve import DEMO_NAME
from service.speed import median_interval
from service.verdicts import Verdict
from tests.served import Served
from tests.service.api.test_monitors import add, apply, calibrated, monitor
from tests.service.api.world import World, build, document, server_of
from tests.service.monitored import PROMPTING, post, probe

pytestmark = pytest.mark.prove

MONITORS = 64
EVERY_SECONDS = 15
SCRAPES = 40
SHARE = 0.01
USE = {"mode": "shadow", "fpr": 0.1, "do": "alert"}


def verdict(number: int, outcome: str, reason: str, score: float) -> Verdict:
    return Verdict(
        f"m{number}", "prompt", "watchful@1", "shadow", "alert", score, 900.0, 1.0,
        outcome == "fired", 3, 0 if outcome == "fired" else None, False, 9, 10, {reason: 1},
        reason if outcome == "fault" else None, "block",
    )  # fmt: skip


def fill(metrics: Metrics) -> None:
    """Have every monitor say everything, and remember as many scores as are remembered."""
    words = product(range(MONITORS), ("fired", "quiet", "fault"), ("nan", "late", "channel"))
    for number, outcome, reason in words:
        metrics.monitors.verdict(verdict(number, outcome, reason, 500.0))
    for number, score in product(range(MONITORS), range(1000)):
        metrics.monitors.recent.note(verdict(number, "quiet", "nan", float(score)))
    metrics.monitors.held("watchful", 0.1)


async def watching() -> World:
    """A server whose policy uses 64 monitors that have a calibration."""
    world = await build(points=[post(k) for k in (0, 1, 2, 3)], prompting=PROMPTING)
    await add(world, probe_card.to_artifact(probe("harm-1")))
    await add(world, calibrated())
    spec = {"read": {"probe": "harm-1"}, "tokens": "prompt"}
    probes = {"bad": ["x"], "good": ["y"]}
    monitors = [monitor(f"m{n}", **spec, probes=probes) for n in range(MONITORS)]
    uses = {f"m{n}": USE for n in range(MONITORS)}
    answer = await apply(world, *monitors, document("watchful", monitors=uses))
    assert answer.status_code == 200, answer.text
    fill(server_of(world).metrics)
    world.app.state.lookout.drift()
    return world


async def timed(world: World) -> tuple[list[float], list[float], int]:
    """Return the time and the processor time of each scrape, and the page's size."""
    wall: list[float] = []
    cpu: list[float] = []
    size = 0
    async with world.client() as client:
        for _ in range(SCRAPES):
            started, worked = time.perf_counter(), time.process_time()
            page = await client.get("/metrics", follow_redirects=True)
            wall.append(time.perf_counter() - started)
            cpu.append(time.process_time() - worked)
            assert page.status_code == 200
            size = len(page.content)
    return wall, cpu, size


def test_a_scrape_takes_less_than_a_hundredth(figures: dict[str, Any]) -> None:
    """One process, 64 monitors in use, every series there."""

    async def run() -> tuple[list[float], list[float], int, float]:
        world = await watching()
        found = await timed(world)
        started = time.process_time()
        world.app.state.lookout.drift()
        drift = time.process_time() - started
        world.store.close()
        return (*found, drift)

    wall, cpu, size, drift = asyncio.run(run())
    share = statistics.median(cpu) / EVERY_SECONDS
    figures["one_process"] = {
        "monitors": MONITORS,
        "scrapes": SCRAPES,
        "page_bytes": size,
        "seconds_median": round(statistics.median(wall), 5),
        "processor_seconds_median": round(statistics.median(cpu), 5),
        "processor_seconds_worst": round(max(cpu), 5),
        "share_of_a_core_at_one_in_15_s": round(share, 6),
        "drift_processor_seconds": round(drift, 5),
    }
    assert share < SHARE
    assert drift / 10 < SHARE  # every ten seconds


_WRITES = """
import sys, time
from prometheus_client import CollectorRegistry
from service.api.metrics import Metrics
from tests.prove.test_scrape import fill
fill(Metrics(CollectorRegistry()))
"""


def test_several_processes_cost_no_more_than_that(tmp_path: Path, figures: dict[str, Any]) -> None:
    """Four API processes' files, read by the one that is asked."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(4):
        subprocess.run([sys.executable, "-c", _WRITES], check=True, env=environment)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=str(tmp_path))
    cpu, page = list[float](), b""
    for _ in range(SCRAPES):
        started = time.process_time()
        page = generate_latest(registry)
        cpu.append(time.process_time() - started)
    share = statistics.median(cpu) / EVERY_SECONDS
    figures["four_processes"] = {
        "page_bytes": len(page),
        "processor_seconds_median": round(statistics.median(cpu), 5),
        "share_of_a_core_at_one_in_15_s": round(share, 6),
    }
    assert share < SHARE


STREAMS, WINDOW_SECONDS, SETTLE_SECONDS, PAIRS = 16, 8.0, 1.0, 20
OFTEN_SECONDS = 0.5
"""Thirty times as often as is usual, so that what one scrape costs stands out of the noise."""


def many() -> list[dict[str, Any]]:
    """64 monitors of one probe, and a policy that watches with all."""
    names = [f"m{number}" for number in range(MONITORS)]
    read = {"read": {"probe": "harm"}, "tokens": "last_prompt", "pool": "max"}
    uses = {name: {"mode": "shadow", "above": 0.0, "do": "log"} for name in names}
    monitors = [_document("Monitor", name, read) for name in names]
    return [*monitors, _document("Policy", "many", {"mode": "shadow", "monitors": uses})]


def _document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "trimtab/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


class Stream:
    """One client that streams answers under the policy, one after another, and counts."""

    def __init__(self, url: str) -> None:
        """Begin with none."""
        self.url, self.tokens, self.ended = url, 0, False

    def run(self) -> None:
        """Ask until told to end."""
        body = {
            "model": f"{DEMO_NAME}:many",
            "messages": [{"role": "user", "content": "where does sami grant live?"}],
            **{"max_tokens": 200, "temperature": 0, "ignore_eos": True, "stream": True},
        }
        with httpx.Client(base_url=self.url, timeout=60) as http:
            while not self.ended:
                with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                    assert answer.status_code == 200
                    self.tokens += sum(line.startswith("data: {") for line in answer.iter_lines())


def speed(server: Served, streams: list[Stream], every: float) -> tuple[float, list[float]]:
    """Return tokens a second over a window, and how long each scrape in it took."""
    took = list[float]()
    time.sleep(SETTLE_SECONDS)
    started, before = time.monotonic(), sum(stream.tokens for stream in streams)
    while (passed := time.monotonic() - started) < WINDOW_SECONDS:
        if every:
            begun = time.monotonic()
            assert server.http.get("/metrics").status_code == 200
            took.append(time.monotonic() - begun)
        time.sleep(min(every or WINDOW_SECONDS, WINDOW_SECONDS - passed))
    return (sum(stream.tokens for stream in streams) - before) / (time.monotonic() - started), took


def test_a_served_scrape(tmp_path: Path, figures: dict[str, Any]) -> None:
    """Windows with and without, in turn; the loss by scraping so often, over how much too often."""
    with Served(tmp_path, ["--enforce-eager"]) as server:
        text = "\n---\n".join(map(json.dumps, many()))
        applied = server.http.post("/trimtab/v1/policies", content=text, headers=server.admin)
        assert applied.status_code == 200, applied.text
        streams = [Stream(server.url) for _ in range(STREAMS)]
        with ThreadPoolExecutor(STREAMS) as pool:
            running = [pool.submit(stream.run) for stream in streams]
            speed(server, streams, 0)
            ratios, took = list[float](), list[float]()
            for pair in range(PAIRS):
                found = dict[float, float]()
                for every in (0.0, OFTEN_SECONDS) if pair % 2 else (OFTEN_SECONDS, 0.0):
                    found[every], more = speed(server, streams, every)
                    took += more
                ratios.append(found[OFTEN_SECONDS] / found[0.0])
            page = server.http.get("/metrics").text
            for stream in streams:
                stream.ended = True
            for one in running:
                one.result(60)
    spread = median_interval(ratios)
    times = EVERY_SECONDS / OFTEN_SECONDS
    figures["served"] = {
        "monitors": MONITORS,
        "page_bytes": len(page),
        "streams": STREAMS,
        "pairs": PAIRS,
        "seconds_of_a_scrape_under_load": round(statistics.median(took), 4),
        "throughput_scraped_twice_a_second": round(spread.median, 4),
        "interval": [round(spread.low, 4), round(spread.high, 4)],
        "loss_at_one_in_15_s": round((1 - spread.median) / times, 6),
        "loss_at_one_in_15_s_at_most": round((1 - spread.low) / times, 6),
    }
    assert all(f'"m{number}"' in page for number in range(MONITORS))
    assert (1 - spread.low) / times < SHARE
