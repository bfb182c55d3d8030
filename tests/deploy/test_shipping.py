"""What ships, as far as it can be looked at without building it; Helm's part is in tests/prove."""

import json
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest

from service.commands.serve import DEMO_NAME
from tests.deploy.prometheus import ROOT, RULES, binary, load

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "trimtab"
COMPOSE = load(DEPLOY / "compose.yaml")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
VERSION = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
VLLM = re.search(r'"vllm==(.+?)"', (ROOT / "pyproject.toml").read_text())


def test_prometheus_takes_the_configuration_of_compose():
    checked = subprocess.run(
        [binary("promtool"), "check", "config", str(RULES / "prometheus.yaml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_image_is_pinned():
    images = [service["image"] for service in COMPOSE["services"].values()]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    for image in images:
        assert re.search(r":v?\d+\.\d+(\.\d+)?[\w.-]*$", image), image


def test_the_images_are_built_of_the_pinned_vllm_and_run_as_nobody_in_particular():
    assert VLLM is not None
    assert f"FROM vllm/vllm-openai:v{VLLM[1]} AS cuda" in DOCKERFILE
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.M)[2:]
    for stage in stages:
        assert re.findall(r"^USER (\S+)", stage, re.M) == ["2000:0"]
        assert "HEALTHCHECK" in stage
        assert "/livez" in stage


def test_what_the_gpu_image_adds_is_in_the_lock():
    named = re.search(r"'\^\(([^)]+)\)==", DOCKERFILE)
    assert named is not None
    lock = (ROOT / "requirements" / "cpu.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock, re.M))
    assert set(named[1].split("|")) <= locked


def test_what_is_copied_into_images_is_not_ignored():
    kept = {
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().split()
        if line[0] == "!"
    }
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.M)
    for part in " ".join(copied).split():
        assert part.split("/")[0] in kept
        assert (ROOT / part).exists()


def test_compose_mounts_what_there_is_and_keeps_no_secret():
    for service in COMPOSE["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).is_dir(), mount
            else:
                assert source in COMPOSE["volumes"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    text = (DEPLOY / "compose.yaml").read_text()
    for secret in ("TRIMTAB_ADMIN_KEY", "POSTGRES_PASSWORD"):
        assert set(re.findall(rf"\$\{{{secret}([^}}]*)\}}", text)) <= {
            ":?set it to a long random string"
        }
    assert (
        COMPOSE["services"]["trimtab"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    )


def test_compose_sends_prometheus_where_the_services_are():
    config = load(RULES / "prometheus.yaml")
    [job] = config["scrape_configs"]
    [managers] = config["alerting"]["alertmanagers"]
    targets = [*job["static_configs"][0]["targets"], *managers["static_configs"][0]["targets"]]
    assert {target.split(":")[0] for target in targets} <= set(COMPOSE["services"])
    assert "trimtab" in job["job_name"]  # as the rule of a server that is down has it
    receivers = load(DEPLOY / "alertmanager" / "alertmanager.yaml")
    known = {receiver["name"] for receiver in receivers["receivers"]}
    assert {
        receivers["route"]["receiver"],
        *(r["receiver"] for r in receivers["route"]["routes"]),
    } <= known


def test_the_chart_is_of_this_version_and_its_links_lead_to_the_shipped_files():
    assert VERSION is not None
    chart = load(CHART / "Chart.yaml")
    assert chart["appVersion"] == VERSION[1]
    assert (CHART / "rules").resolve() == RULES
    assert (CHART / "dashboards").resolve() == DEPLOY / "grafana" / "dashboards"


def schema_errors(values: object) -> list[str]:
    schema = json.loads((CHART / "values.schema.json").read_text())
    return [e.message for e in jsonschema.Draft7Validator(schema).iter_errors(values)]


def test_the_default_values_lack_what_is_required_and_nothing_else():
    values = load(CHART / "values.yaml")
    assert len(schema_errors(values)) == 2
    values["model"], values["adminKey"]["existingSecret"] = DEMO_NAME, "keys"
    assert schema_errors(values) == []


def test_every_value_has_a_schema_and_every_schema_a_value():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = load(CHART / "values.yaml")
    assert set(schema["properties"]) - {"global", "nameOverride"} == set(values)
    for name, one in schema["properties"].items():
        if "properties" in one:
            assert set(one["properties"]) == set(values[name]), name


@pytest.mark.parametrize("path", sorted((CHART / "templates").iterdir()), ids=lambda p: p.name)
def test_templates_read_only_values_that_there_are(path: Path):
    values = load(CHART / "values.yaml")
    for dotted in re.findall(r"\.Values\.([A-Za-z.]+)", path.read_text()):
        found = values
        for part in dotted.rstrip(".").split("."):
            if dotted == "nameOverride" or found == {}:
                break
            assert part in found, dotted
            found = found[part]
