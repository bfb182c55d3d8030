"""Run in an environment of its own, with Helm's SDK and Kubernetes' schemas: renders and checks.

Reads a JSON file with a chart's folder and values by case; prints, by case, the manifests as Helm
renders them and what Kubernetes' schemas have against each, or why Helm refuses.
"""
# pyright: basic, reportMissingImports=false

import json
import sys
from typing import Any

import kubernetes_validate
import yaml
from helm_python.chart import Chart, lint
from helm_python.errors import HelmError

CORE = ("v1", "apps/v1", "policy/v1")
KUBERNETES = "1.31"


def render(chart: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return a case's manifests and the faults of each, or Helm's refusal."""
    try:
        chart.validate_schema(values)
        rendered = chart.render(values=values, name="demo", namespace="models")
    except HelmError as error:
        return {"refused": str(error)}
    texts = [text for name, text in rendered.items() if name.endswith(".yaml")]
    manifests = [found for text in texts for found in yaml.safe_load_all(text) if found]
    return {"manifests": manifests, "faults": [f for m in manifests for f in faults(m)]}


def faults(manifest: dict[str, Any]) -> list[str]:
    """Return what Kubernetes' own schemas have against a manifest; they know no operator's."""
    if manifest["apiVersion"] not in CORE:
        return []
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{manifest['kind']}: {error}"]
    return []


def main() -> None:
    """Answer."""
    with open(sys.argv[1]) as file:
        asked = json.load(file)
    with Chart.load(asked["chart"]) as chart:
        found = {name: render(chart, values) for name, values in asked["cases"].items()}
    linted = lint(asked["chart"], values=asked["cases"]["one"])
    json.dump({"cases": found, "lint": linted}, sys.stdout, default=str)


main()
