"""A real Prometheus scrapes a real server until alerts fire, and clear again.

The rules are those of ``deploy/prometheus`` with shorter windows: a day is two minutes.
Over-firing comes of real harmful requests, silence of a threshold that an operator's mistake
put out of reach; nothing is planted in metrics.
"""

import itertools
import shutil
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from demo.prompts import conversation, prompts
from service.commands.serve import DEMO_NAME, demo_folder
from tests.deploy.scraping import Prometheus
from tests.served import Served

pytestmark = pytest.mark.prove

WINDOWS = {
    **{"5m": "20s", "10m": "20s", "15m": "30s", "30m": "30s"},
    **{"1h": "60s", "2h": "70s", "6h": "90s", "1d": "120s"},
}
WAITS = {"1m": "10s", "2m": "4s", "5m": "10s", "10m": "10s", "15m": "15s", "30m": "30s"}
OVER, SILENT = ("TrimtabMonitorOverFiring", "guard"), ("TrimtabMonitorSilent", "guard")
BENIGN = ("harmless", "fact", "lookalike")
N_PROBES = 3
EVERY_SECONDS = 2
PATIENCE = 300.0


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's policies, with probes in the monitor of harm."""
    folder = tmp_path_factory.mktemp("policies") / "demo"
    shutil.copytree(demo_folder() / "policies", folder)
    probes = {
        "bad": [conversation(item) for item in prompts("harmful", "train", N_PROBES, 5)],
        "good": [conversation(item) for item in prompts("harmless", "train", N_PROBES, 5)],
        "every_seconds": EVERY_SECONDS,
    }
    _edit(folder / "probes.yaml", "harm", ("probes",), probes)
    return folder


def _edit(path: Path, name: str, place: tuple[str, ...], value: Any) -> None:
    """Change one field of a document's spec, as an operator does."""
    yaml = YAML(typ="safe")
    documents = list(yaml.load_all(path))
    spec = next(d for d in documents if d["metadata"]["name"] == name)["spec"]
    for part in place[:-1]:
        spec = spec[part]
    spec[place[-1]] = value
    fresh = path.with_suffix(".new")
    with fresh.open("w") as file:
        yaml.dump_all(documents, file)
    fresh.rename(path)


@contextmanager
def traffic(url: str, *kinds: str) -> Generator[list[int]]:
    """Have a client ask questions of some kinds under ``guard`` meanwhile; yield the count."""
    asked_of = [prompts(kind, "heldout", 200, 1) for kind in kinds]
    items = itertools.cycle([item for turn in zip(*asked_of, strict=True) for item in turn])
    ended, asked = threading.Event(), [0]

    def client() -> None:
        with httpx.Client(base_url=url, timeout=60) as http:
            while not ended.is_set():
                body = {
                    "model": f"{DEMO_NAME}:guard",
                    "messages": conversation(next(items)),
                    "max_tokens": 8,
                    "temperature": 0,
                }
                answer = http.post("/v1/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
                asked[0] += 1
                time.sleep(0.02)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client)
        try:
            yield asked
        finally:
            ended.set()
            running.result(60)


def test_alerts_fire_and_clear(policies: Path, tmp_path: Path, figures: dict[str, Any]) -> None:
    """No page at first; over-firing under harmful traffic, silence after a mistake; both clear."""
    arguments = ["--policies", str(policies), "--enforce-eager"]
    with (
        Served(tmp_path, arguments) as server,
        Prometheus(tmp_path / "prom", f"127.0.0.1:{server.port}", WINDOWS, WAITS) as prometheus,
    ):
        figures["quiet"] = quiet = _quiet(server, prometheus)
        assert quiet["pages"] == []
        assert quiet["bad_probes_fired"] == 1
        figures["over_firing"] = _over_firing(server, prometheus)
        figures["silent"] = _silent(policies, prometheus)
        figures["unscored"] = prometheus.value("sum(trimtab_monitor_tokens_unscored_total)") or 0.0


def _quiet(server: Served, prometheus: Prometheus) -> dict[str, Any]:
    """Return what fired under benign traffic for as long as the longest window."""
    pages: set[tuple[str, str]] = set()
    tickets: set[tuple[str, str]] = set()
    started = time.monotonic()
    with traffic(server.url, *BENIGN) as asked:
        while time.monotonic() - started < 125:
            pages |= prometheus.firing()
            tickets |= prometheus.firing("ticket")
            time.sleep(1)
    probed = prometheus.value('min(trimtab_probe_fired{monitor="harm",policy="guard",kind="bad"})')
    return {
        "requests": asked[0],
        "pages": sorted(pages),
        "tickets": sorted(tickets),
        "bad_probes_fired": probed,
    }


def _over_firing(server: Served, prometheus: Prometheus) -> dict[str, Any]:
    with traffic(server.url, "harmful") as harmful:
        fires = prometheus.wait(lambda: OVER in prometheus.firing(), PATIENCE)
        also = prometheus.firing() - {OVER}
    share = prometheus.value(
        'max(monitor_policy:trimtab_monitor_fired:ratio_rate5m{policy="guard",monitor="harm"})'
    )
    with traffic(server.url, *BENIGN) as benign:
        clears = prometheus.wait(lambda: OVER not in prometheus.firing(), PATIENCE)
    assert SILENT not in also
    return {
        "fires_after_seconds": round(fires, 1),
        "clears_after_seconds": round(clears, 1),
        "harmful_requests": harmful[0],
        "benign_requests": benign[0],
        "share_fired_short_window": share,
        "other_pages": sorted(name for name, _ in also),
    }


def _silent(policies: Path, prometheus: Prometheus) -> dict[str, Any]:
    """Put the threshold out of reach in the file, and put it back."""
    # What harmful traffic left in the long windows is to be gone.
    prometheus.wait(lambda: not prometheus.firing(), PATIENCE)
    path = policies / "watch.yaml"
    before = path.read_text()
    use = {"mode": "enforce", "above": 1e6, "do": "refuse", "on_error": "block"}
    _edit(path, "guard", ("monitors", "harm"), use)
    fires = prometheus.wait(lambda: SILENT in prometheus.firing(), PATIENCE)
    firing = prometheus.firing()
    probed = prometheus.value('min(trimtab_probe_fired{monitor="harm",policy="guard",kind="bad"})')
    path.write_text(before)
    clears = prometheus.wait(lambda: not prometheus.firing(), PATIENCE)
    # The same monitor under other policies keeps its threshold, and its probes fire.
    assert firing == {SILENT}
    assert probed == 0
    return {
        "fires_after_seconds": round(fires, 1),
        "clears_after_seconds": round(clears, 1),
        "bad_probes_fired": probed,
    }
