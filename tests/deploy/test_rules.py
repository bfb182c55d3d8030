"""The recording and alert rules: Prometheus accepts them, and each alert fires and does not."""

import re
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from service.cli import app
from tests.deploy.metric_names import families, unknown
from tests.deploy.prometheus import RULES, RUNBOOKS, binary, load, rules

ALERTS = {rule["alert"]: rule for rule in rules("alerts.yaml")}
RECORDED = {rule["record"] for rule in rules("recording.yaml")}
SECTIONS = ("## What it means", "## How to look", "## What to do")


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binary("promtool"), *arguments], cwd=RULES, capture_output=True, text=True, check=False
    )


def test_prometheus_accepts_the_rules():
    checked = promtool("check", "rules", "--lint-fatal", "recording.yaml", "alerts.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_fires_and_does_not():
    run = promtool("test", "rules", "tests.yaml")
    assert run.returncode == 0, run.stdout + run.stderr


def test_each_alert_has_a_test_of_either_kind_that_asks_for_it():
    found: dict[str, set[bool]] = {name: set() for name in ALERTS}
    for test in load(RULES / "tests.yaml")["tests"]:
        name, does_not = re.fullmatch(r"(\w+) (does not fire|fires): .+", test["name"]).groups()  # type: ignore[union-attr]
        fires = does_not == "fires"
        asked = [t for t in test["promql_expr_test"] if f'alertname="{name}"' in t["expr"]]
        assert any(bool(t["exp_samples"]) == fires for t in asked), test["name"]
        found[name].add(fires)
    assert found == {name: {True, False} for name in ALERTS}


def test_a_rule_that_is_broken_fails_its_test(tmp_path: Path):
    text = (RULES / "alerts.yaml").read_text()
    (tmp_path / "alerts.yaml").write_text(text.replace('kind="bad"}) < 1', 'kind="bad"}) < 0'))
    (tmp_path / "recording.yaml").write_text((RULES / "recording.yaml").read_text())
    tests = load(RULES / "tests.yaml")
    tests["tests"] = [t for t in tests["tests"] if t["name"].startswith("TrimtabMonitorSilent")]
    YAML(typ="safe").dump(tests, tmp_path / "tests.yaml")
    run = promtool("test", "rules", str(tmp_path / "tests.yaml"))
    assert run.returncode != 0
    assert "TrimtabMonitorSilent" in run.stdout + run.stderr


def test_rules_read_only_what_a_server_exports_or_a_rule_records():
    expressions = [rule["expr"] for rule in (*rules("recording.yaml"), *rules("alerts.yaml"))]
    assert unknown(expressions, RECORDED) == set()
    assert unknown(["rate(trimtab_made_up_total[5m])", "a:trimtab_x:b"], RECORDED) == {
        "trimtab_made_up_total",
        "a:trimtab_x:b",
    }


def test_each_recorded_series_is_read_by_an_alert_or_a_dashboard():
    texts = [rule["expr"] for rule in ALERTS.values()]
    texts += [path.read_text() for path in (RULES.parent / "grafana").rglob("*.json")]
    assert {name for name in RECORDED if not any(name in text for text in texts)} == set()


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_has_a_severity_and_a_runbook(name: str):
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
    page = (RUNBOOKS / f"{name}.md").read_text()
    assert page.startswith(f"# {name}\n")
    assert [line for line in page.splitlines() if line.startswith("## ")] == list(SECTIONS)


def test_there_is_no_runbook_without_an_alert_and_its_links_lead_somewhere():
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == set(ALERTS)
    for path in RUNBOOKS.glob("*.md"):
        for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
            assert (path.parent / link).is_file(), (path.name, link)


def test_runbooks_name_commands_that_exist_and_metrics_that_are_exported():
    for path in RUNBOOKS.glob("*.md"):
        text = path.read_text()
        named = unknown(re.findall(r"`([^`]+)`", text), RECORDED) - families()
        assert {name for name in named if name.startswith("trimtab")} == set(), path.name
        for words in re.findall(r"`trimtab ([a-z]+) ([a-z]+)", text):
            shown = CliRunner().invoke(app, [*words, "--help"])
            assert shown.exit_code == 0, (path.name, words)
