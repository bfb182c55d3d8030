"""What ships is rendered by Helm itself and checked by Kubernetes' schemas; Dockerfiles are linted.

Nothing is built or installed in a cluster here: images need a network, a chart needs a cluster.
"""

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.deploy.prometheus import ROOT, binary, load, rules

pytestmark = pytest.mark.prove

LOCK = ROOT / "requirements" / "deploy.lock"
CHART = ROOT / "deploy" / "helm" / "trimtab"
SIDE = Path(__file__).with_name("shipping_side.py")

WARNING = 2
"""Helm's severities from here on are warnings and errors."""
VLLM_OPTIONS = """
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

actions = make_arg_parser(FlexibleArgumentParser())._actions
print(*(option for action in actions for option in action.option_strings))
"""

FILES = {"a.yaml": "kind: Policy\n", "b.yaml": "kind: Monitor\n"}
ONE = {"model": "org/model", "adminKey": {"existingSecret": "keys"}}
FLEET = {
    **ONE,
    "replicas": 3,
    "servedName": "m",
    "store": {"url": "postgresql://trimtab@db/trimtab", "passwordSecret": "db"},
    "artifacts": {"accessMode": "ReadWriteMany", "storageClass": "nfs"},
    "policies": {"files": FILES},
    "vllm": {
        "tensorParallelSize": 2, "dataParallelSize": 2, "apiServerCount": 4, "maxModelLen": 8192,
    },
    "resources": {"requests": {"cpu": "8", "memory": "64Gi"}, "limits": {"memory": "64Gi"}},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "runbookBase": "https://example.org/trimtab/"},
    "dashboards": {"enabled": True},
    "extraArgs": ["--max-num-seqs=128"],
    "modelVolume": {"persistentVolumeClaim": {"claimName": "models"}},
    "drainSeconds": 90,
}  # fmt: skip
CPU = {**ONE, "gpu": {"enabled": False}, "image": {"repository": "trimtab", "tag": "0.1.0-cpu"}}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"adminKey": {"existingSecret": "keys"}}, "model"),
    "no key": ({"model": "m"}, "existingSecret"),
    "unknown value": ({**ONE, "replica": 2}, "replica"),
    "latest": ({**ONE, "image": {"repository": "r", "tag": "latest"}}, "tag"),
    "pipelines": ({**ONE, "vllm": {"pipelineParallelSize": 2}}, "pipelineParallelSize"),
    "password in the URL": (
        {**ONE, "store": {"url": "postgresql://trimtab:secret@db/trimtab"}},
        "url",
    ),
    "two replicas on a file": ({**ONE, "replicas": 2}, "store.url"),
    "two replicas, one writer": (
        {**ONE, "replicas": 2, "store": {"url": "postgresql://t@db/t"}},
        "accessMode",
    ),
    "policies twice": (
        {**ONE, "policies": {"files": {"a.yaml": "x"}, "existingConfigMap": "c"}},
        "existingConfigMap",
    ),
    "a policy that is no file": ({**ONE, "policies": {"files": {"../a": "x"}}}, "'../a'"),
}


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new environment with Helm's SDK, its schemas and a linter."""
    folder = tmp_path_factory.mktemp("tools")
    venv.create(folder, with_pip=True, system_site_packages=False)
    python = folder / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    done = subprocess.run([*command, "-r", str(LOCK)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"pip could not install {LOCK.name}: {done.stderr[-2000:]}"
    return folder / "bin"


@pytest.fixture(scope="module")
def rendered(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Helm makes of every case."""
    refused = {name: values for name, (values, _) in REFUSED.items()}
    cases = {"one": ONE, "fleet": FLEET, "cpu": CPU, **refused}
    asked = tmp_path_factory.mktemp("asked") / "asked.json"
    asked.write_text(json.dumps({"chart": str(CHART), "cases": cases}))
    command = [str(tools / "python"), str(SIDE), str(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def of_kind(rendered: dict[str, Any], case: str, kind: str) -> dict[str, Any]:
    [found] = [m for m in rendered["cases"][case]["manifests"] if m["kind"] == kind]
    return found


def test_helm_lints_the_chart(rendered: dict[str, Any], figures: dict[str, Any]) -> None:
    """No error and no warning."""
    messages = rendered["lint"].get("messages") or []
    worse = [m for m in messages if m["severity"] >= WARNING]
    assert worse == []
    figures["helm_lint"] = {"messages": len(messages), "errors_or_warnings": len(worse)}


@pytest.mark.parametrize("case", ["one", "fleet", "cpu"])
def test_kubernetes_takes_every_manifest(
    rendered: dict[str, Any], case: str, figures: dict[str, Any]
) -> None:
    """Against its own strict schemas."""
    found = rendered["cases"][case]
    assert found.get("refused") is None
    assert found["faults"] == []
    figures[f"manifests_{case}"] = sorted(m["kind"] for m in found["manifests"])


@pytest.mark.parametrize("case", REFUSED)
def test_helm_refuses(rendered: dict[str, Any], case: str) -> None:
    """What could not serve, or would be a secret in the open, saying which value."""
    assert REFUSED[case][1] in rendered["cases"][case]["refused"]


def test_probes_rights_and_parallelism(rendered: dict[str, Any]) -> None:
    """Probes ask /livez and /readyz; nobody is root; vLLM gets its options and the pod its GPUs."""
    pod = of_kind(rendered, "fleet", "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    paths = {
        p: container[f"{p}Probe"]["httpGet"]["path"] for p in ("startup", "liveness", "readiness")
    }
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["terminationGracePeriodSeconds"] > 90
    for one in (container, *pod["initContainers"]):
        assert one["securityContext"]["readOnlyRootFilesystem"] is True
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    wanted = {
        "--tensor-parallel-size=2", "--data-parallel-size=2", "--api-server-count=4",
        "--max-model-len=8192", "--max-num-seqs=128", "--host=0.0.0.0", "--drain-seconds=90",
        "--state=postgresql://trimtab@db/trimtab", "--served-model-name=m",
    }  # fmt: skip
    assert wanted <= set(container["args"])
    assert container["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": 4}
    secrets = {e["name"]: e["valueFrom"] for e in container["env"] if "valueFrom" in e}
    assert set(secrets) == {"TRIMTAB_ADMIN_KEY", "PGPASSWORD"}
    [alone] = of_kind(rendered, "cpu", "Deployment")["spec"]["template"]["spec"]["containers"]
    assert alone["image"] == "trimtab:0.1.0-cpu"
    assert "limits" not in (alone["resources"] or {})
    assert not any("gpu-memory" in arg for arg in alone["args"])


def test_options_are_those_of_the_command(rendered: dict[str, Any]) -> None:
    """Every option that the chart gives is one that ``trimtab serve`` or vLLM knows."""
    ours = subprocess.run(
        [sys.executable, "-m", "service.cli", "serve", "--help"],
        capture_output=True, text=True, check=True, env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"},
    ).stdout  # fmt: skip
    theirs = subprocess.run(
        [sys.executable, "-c", VLLM_OPTIONS], capture_output=True, text=True, check=True
    )
    [container] = of_kind(rendered, "fleet", "Deployment")["spec"]["template"]["spec"]["containers"]
    given = {arg.partition("=")[0] for arg in container["args"] if arg.startswith("--")}
    unknown = {o for o in given if o not in ours and o not in theirs.stdout.split()}
    assert unknown == set()


def test_a_fleet_has_its_budget_and_one_server_has_none(rendered: dict[str, Any]) -> None:
    """A budget over a single server would only keep its node from being drained."""
    assert of_kind(rendered, "fleet", "PodDisruptionBudget")["spec"]["minAvailable"] == 1
    kinds = [m["kind"] for m in rendered["cases"]["one"]["manifests"]]
    assert "PodDisruptionBudget" not in kinds
    assert "ServiceMonitor" not in kinds


def test_the_operator_gets_the_shipped_rules_and_prometheus_accepts_them(
    rendered: dict[str, Any], tmp_path: Path
) -> None:
    """The same rules, with runbooks where the reader can reach them, and the job that they need."""
    groups = of_kind(rendered, "fleet", "PrometheusRule")["spec"]["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    shipped = [*rules("recording.yaml"), *rules("alerts.yaml")]
    assert [r["expr"] for r in found] == [r["expr"] for r in shipped]
    alerts = [r for r in found if "alert" in r]
    base = "https://example.org/trimtab/docs/runbooks"
    assert {r["annotations"]["runbook_url"] for r in alerts} == {
        f"{base}/{r['alert']}.md" for r in alerts
    }
    YAML(typ="safe").dump({"groups": groups}, tmp_path / "rules.yaml")
    checked = subprocess.run(
        [binary("promtool"), "check", "rules", str(tmp_path / "rules.yaml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    [endpoint] = of_kind(rendered, "fleet", "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["path"] == "/metrics"
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "trimtab-models-demo"}]


def test_policies_and_dashboards_are_whole(rendered: dict[str, Any]) -> None:
    """A ConfigMap has each file as it was given."""
    maps = {
        m["metadata"]["name"]: m["data"]
        for m in rendered["cases"]["fleet"]["manifests"]
        if m["kind"] == "ConfigMap"
    }
    assert maps["demo-trimtab-policies"] == FILES
    for path in (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"):
        shown = maps["demo-trimtab-dashboards"][f"trimtab-{path.name}"]
        assert json.loads(shown) == json.loads(path.read_text())


def test_a_changed_list_of_files_starts_the_pods_anew_and_a_changed_text_does_not(
    tools: Path, tmp_path: Path
) -> None:
    """What is in a file is followed live; which files there are is settled at start."""
    other = {**FLEET, "policies": {"files": {"a.yaml": "kind: Other\n", "b.yaml": "x: 1\n"}}}
    more = {**FLEET, "policies": {"files": {**FILES, "c.yaml": "x: 1\n"}}}
    asked = tmp_path / "asked.json"
    cases = {"one": ONE, "before": FLEET, "other": other, "more": more}
    asked.write_text(json.dumps({"chart": str(CHART), "cases": cases}))
    done = subprocess.run(
        [str(tools / "python"), str(SIDE), str(asked)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    before, same, changed = (
        of_kind(found, case, "Deployment")["spec"]["template"]
        for case in ("before", "other", "more")
    )
    assert before == same
    assert before != changed


def test_the_dockerfile_is_clean(tools: Path, figures: dict[str, Any]) -> None:
    """By hadolint; built it is not."""
    linter = tools / "hadolint"
    done = subprocess.run(
        [str(linter), str(ROOT / "deploy" / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""
    assert done.returncode == 0
    figures["hadolint_findings"] = len(done.stdout.splitlines())
    figures["not_run_here"] = ["docker build", "docker compose up", "helm install in a cluster"]
    assert load(ROOT / "deploy" / "compose.yaml")["services"]["trimtab"]["build"]["target"] == "cpu"
