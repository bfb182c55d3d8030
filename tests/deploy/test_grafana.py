"""The Grafana dashboards: what they ask exists, Prometheus can parse it, and nothing overlaps."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.deploy.metric_names import families, unknown
from tests.deploy.prometheus import ROOT, load, rules
from tests.deploy.test_rules import promtool

GRAFANA = ROOT / "deploy" / "grafana"
BOARDS = {path.stem: json.loads(path.read_text()) for path in (GRAFANA / "dashboards").glob("*")}
RECORDED = {rule["record"] for rule in rules("recording.yaml")}


def expressions(board: dict[str, Any]) -> list[str]:
    """Return every PromQL expression of a board, and the series of its variables."""
    panels = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    notes = [note["expr"] for note in board["annotations"]["list"]]
    asked = [v["query"]["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    return [*panels, *notes, *(re.sub(r"label_values\((.+), \w+\)", r"\1", q) for q in asked)]


@pytest.mark.parametrize("name", BOARDS)
def test_every_metric_exists(name: str):
    assert unknown(expressions(BOARDS[name]), RECORDED) == set()


@pytest.mark.parametrize("name", BOARDS)
def test_prometheus_parses_every_expression(name: str, tmp_path: Path):
    found = [{"record": f"x:y:z{n}", "expr": e} for n, e in enumerate(expressions(BOARDS[name]))]
    groups = [{"name": str(n), "rules": [rule]} for n, rule in enumerate(found)]
    YAML(typ="safe").dump({"groups": groups}, tmp_path / "rules.yaml")
    checked = promtool("check", "rules", str(tmp_path / "rules.yaml"))
    assert checked.returncode == 0, checked.stderr
    assert f"{len(found)} rules found" in checked.stdout


@pytest.mark.parametrize("name", BOARDS)
def test_panels_have_names_and_places_of_their_own(name: str):
    panels = BOARDS[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        own = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & own, panel["title"]
        cells |= own


def test_each_metric_of_ours_is_on_a_board_or_in_a_rule():
    texts = [e for board in BOARDS.values() for e in expressions(board)]
    texts += [rule["expr"] for name in ("recording.yaml", "alerts.yaml") for rule in rules(name)]
    everything = " ".join(texts)
    unseen = {name for name in families() if not re.search(rf"\b{name}(_|\b)", everything)}
    # Who is active at which revision, and when the directory was last read: for looking up.
    assert unseen == {"trimtab_policy_info", "trimtab_directory_last_reload_timestamp_seconds"}


def test_boards_are_provisioned_with_a_source_that_they_can_name():
    [source] = load(GRAFANA / "provisioning" / "datasources" / "trimtab.yaml")["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    for board in BOARDS.values():
        variables = {variable["name"] for variable in board["templating"]["list"]}
        text = json.dumps(board)
        assert set(re.findall(r"\$\{?([a-z]\w*)", text)) <= variables
        assert board["uid"].startswith("trimtab-")
