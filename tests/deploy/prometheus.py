"""Prometheus's own binaries, and the rules in ``deploy/``."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus"
RUNBOOKS = ROOT / "docs" / "runbooks"


def binary(name: str) -> str:
    """Return a binary of Prometheus's; without it the test fails, since a skip proves nothing."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not on PATH: install Debian's package prometheus (make setup does)")
    return found


def load(path: Path) -> Any:
    """Return what a YAML file holds."""
    return YAML(typ="safe").load(path)


def rules(name: str) -> list[dict[str, Any]]:
    """Return the rules of a file."""
    return [rule for group in load(RULES / name)["groups"] for rule in group["rules"]]
