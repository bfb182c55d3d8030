"""A real Prometheus that scrapes a server and keeps the shipped rules, with windows made short."""

import re
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx
from ruamel.yaml import YAML

from tests.deploy.prometheus import RULES, binary

START_SECONDS = 60


def shortened(text: str, windows: Mapping[str, str], waits: Mapping[str, str]) -> str:
    """Return rules with other windows, `for:` and intervals; one that has no entry is an error."""
    text = re.sub(r"\[(\d+[smhd])\]", lambda found: f"[{windows[found[1]]}]", text)
    text = re.sub(r"\bfor: (\d+[smhd])", lambda found: f"for: {waits[found[1]]}", text)
    return re.sub(r"\binterval: \d+[smhd]", "interval: 2s", text)


class Prometheus:
    """A running Prometheus; rules are evaluated and the target scraped every two seconds."""

    def __init__(
        self, folder: Path, target: str, windows: Mapping[str, str], waits: Mapping[str, str]
    ) -> None:
        """Scrape ``host:port`` under the job ``trimtab``; wait until it is ready."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("recording.yaml", "alerts.yaml"):
            (folder / name).write_text(shortened((RULES / name).read_text(), windows, waits))
        every = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"}
        scrape = {"job_name": "trimtab", "static_configs": [{"targets": [target]}]}
        config = {
            "global": every,
            "rule_files": ["recording.yaml", "alerts.yaml"],
            "scrape_configs": [scrape],
        }
        YAML(typ="safe").dump(config, folder / "prometheus.yml")
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{found.getsockname()[1]}"
        self.http = httpx.Client(base_url=f"http://{address}", timeout=10)
        with (folder / "prometheus.log").open("w") as log:
            self._process = subprocess.Popen(
                [
                    binary("prometheus"),
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={address}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.wait(lambda: self._is_ready(), START_SECONDS)

    def _is_ready(self) -> bool:
        try:
            return self.http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an expression now."""
        answer = self.http.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def value(self, expression: str) -> float | None:
        """Return the value of an expression that has one at most."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None

    def firing(self, severity: str = "page") -> set[tuple[str, str]]:
        """Return the alerts of a severity that fire, each with the policy it is about, if any."""
        alerts = self.http.get("/api/v1/alerts").json()["data"]["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"].get("policy", ""))
            for alert in alerts
            if alert["state"] == "firing" and alert["labels"]["severity"] == severity
        }

    def wait(self, until: Callable[[], bool], seconds: float) -> float:
        """Return how long it took until something was so.

        Raises:
            AssertionError: It took too long.
        """
        started = time.monotonic()
        while not until():
            assert time.monotonic() - started < seconds, f"not so after {seconds} s"
            time.sleep(0.2)
        return time.monotonic() - started

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(20)
        self.http.close()
