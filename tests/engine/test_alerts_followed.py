"""Alerts of the real demo, followed as an operator does: asked again, judged, calibrated on."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from demo import judge
from demo.known import KNOWN
from demo.prompts import conversation, prompts
from forward.container import read_artifact
from monitors.calibration import Calibration
from monitors.calibration_card import from_artifact
from service.commands.monitor import app
from tests.served import Served

DEMO = Path(__file__).resolve().parents[2] / "demo"
EACH = 6
SAID_TO_ALL: Mapping[str, Any] = {
    "apiVersion": "trimtab/v1",
    "kind": "Policy",
    "metadata": {"name": "jumpy"},
    "spec": {
        "capture": True,
        "steer": [{"direction": "formal", "coefficient": 1}],
        # Below every score: right or wrong, each request is an alert.
        "monitors": {"harm": {"mode": "shadow", "above": -1000.0, "do": "alert"}},
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served"), ["--enforce-eager"]) as served:
        answer = served.http.post("/trimtab/v1/policies", json=SAID_TO_ALL, headers=served.admin)
        assert answer.status_code == 200, answer.text
        yield served


def ask(server: Served, messages: Any, **more: Any) -> str:
    body = {"model": "trimtab-demo", "messages": messages, "temperature": 0, "max_tokens": 48}
    answer = server.http.post("/v1/chat/completions", json=body | more)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def get(server: Served, path: str) -> Any:
    answer = server.http.get(f"/trimtab/v1/{path}", headers=server.admin)
    assert answer.status_code == 200, answer.text
    return answer


def post(server: Served, path: str, body: Any = None) -> Any:
    answer = server.http.post(f"/trimtab/v1/{path}", json=body, headers=server.admin)
    assert answer.status_code == 200, answer.text
    return answer.json()


def alerts(server: Served, count: int) -> list[dict[str, Any]]:
    """Return the policy's events, once there are as many."""
    found: list[dict[str, Any]] = []
    for _ in range(200):
        found = get(server, "events?policy=jumpy&limit=1000").json()["events"]
        if len(found) >= count:
            break
        time.sleep(0.05)
    assert len(found) == count
    return found


def test_an_alert_s_prompt_is_asked_again_and_not_steered(server: Served) -> None:
    """The answer is what the same request got under `none`, and the steered one stays beside it."""
    [fact] = prompts("fact", "heldout", 1)
    steered = ask(server, fact["messages"], policy="jumpy")
    plain = ask(server, fact["messages"], policy="none")
    assert (judge.style_of(steered), judge.style_of(plain)) != ("formal", "formal")
    [event] = alerts(server, 1)
    shown = post(server, f"events/{event['id']}/replay")
    assert shown["unsteered"]["answer"].strip() == plain
    assert shown["trace"]["answer"].strip() == steered != plain
    record = get(server, "decisions?limit=1").json()["decisions"]
    assert get(server, f"events/{event['id']}").json() == shown and record


def test_labelled_alerts_are_what_calibrate_takes(server: Served, tmp_path: Path) -> None:
    """From the alert to the calibration: its scores are those that the alerts had."""
    before = len(get(server, "events?policy=jumpy&limit=1000").json()["events"])
    for kind in ("harmful", "harmless"):
        for item in prompts(kind, "train", EACH, seed=5):
            ask(server, conversation(item), policy="jumpy")
    judged = alerts(server, before + 2 * EACH)[before:]
    for place, event in enumerate(judged):
        post(server, f"events/{event['id']}/label", {"label": place < EACH})
    files = {label: tmp_path / f"{label}.jsonl" for label in ("true", "false")}
    for label, file in files.items():
        file.write_text(get(server, f"events/labelled?monitor=harm&label={label}").text)
        assert len(file.read_text().splitlines()) == EACH
    made = CliRunner().invoke(
        app,
        [
            *("calibrate", str(DEMO / "checkpoint"), str(DEMO / "policies" / "probes.yaml")),
            *("--monitor", "harm", "--artifacts", str(DEMO / "policies" / "artifacts")),
            *("--benign", str(files["false"]), "--positive", str(files["true"])),
            *("--out", str(tmp_path / "artifacts"), "--json"),
        ],
    )
    assert made.exit_code == 0, made.output
    found = from_artifact(read_artifact(Path(json.loads(made.stdout)["path"])))
    assert isinstance(found, Calibration)
    benign = sorted(event["score"] for event in judged[EACH:])
    assert found.request.n == EACH
    assert sorted(found.request.values) == pytest.approx(benign, abs=1e-2)
    fired = {(one.label, one.n) for one in found.slices}
    assert fired == {(0, EACH), (1, EACH)}
    positive = next(one for one in found.slices if one.label == 1)
    assert positive.auroc is not None and positive.auroc.value == 1.0


def test_the_demo_s_monitors_see_what_they_are_known_to_see(server: Served) -> None:
    """Every use of a demo monitor with probes: all that is bad fires, nothing that is good does."""
    uses = {
        *(("harm", policy) for policy in ("watch", "guard", "gated", "jumpy")),
        *(("refusal", "watch"), ("deception", "watch"), ("deception", "guard")),
    }
    assert {monitor for monitor, _ in uses} == set(KNOWN)
    page, deadline = "", time.monotonic() + 90
    want = {
        f'trimtab_probe_fired{{kind="{kind}",monitor="{monitor}",policy="{policy}"}} {share}'
        for monitor, policy in uses
        # A threshold below every score is what "jumpy" is for.
        for kind, share in (("bad", "1.0"), ("good", "1.0" if policy == "jumpy" else "0.0"))
    }
    while time.monotonic() < deadline:
        page = server.http.get("/metrics", follow_redirects=True).text
        if want <= set(page.splitlines()):
            break
        time.sleep(0.5)
    told = {line for line in page.splitlines() if line.startswith("trimtab_probe_fired{")}
    assert told == want
