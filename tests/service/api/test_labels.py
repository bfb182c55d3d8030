"""However many names there are, series are bounded."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, multiprocess

from service.api.labels import MOST_NAMES, MOST_PAIRS, OTHER, Labels, StateGauge
from service.api.metrics import Metrics
from service.api.monitor_metrics import RARITY_BUCKETS, TOKEN_BUCKETS
from service.verdicts import Verdict


def verdict(monitor: str, policy: str) -> Verdict:
    return Verdict(
        monitor, "prompt", policy, "enforce", "alert", 1.0, 0.5, 2.0, True, 3, 0, False,
        3, 4, {"late": 1}, "late", "block",
    )  # fmt: skip


def series(registry: CollectorRegistry, name: str) -> set[tuple[tuple[str, str], ...]]:
    return {
        tuple(sorted(sample.labels.items()))
        for family in registry.collect()
        for sample in family.samples
        if family.name == name
    }


def test_names_have_series_of_their_own_up_to_the_bound_and_keep_them():
    labels = Labels(most_names=2)
    assert [labels.policy(name) for name in "abcab"] == ["a", "b", OTHER, "a", "b"]
    assert labels.binding("c") == "c"


def test_a_pair_is_bounded_by_its_parts_and_by_the_pairs():
    labels = Labels(most_names=2, most_pairs=3)
    assert labels.pair("m", "p") == ("m", "p")
    assert labels.pair("p/m", "p") == ("m", "p")
    assert labels.pair("n", "q") == ("n", "q")
    assert labels.pair("o", "q") == (OTHER, "q")
    assert labels.pair("n", "p") == (OTHER, OTHER)
    assert labels.pair("m", "p") == ("m", "p")


def test_ten_thousand_uses_of_monitors_cost_no_more_than_the_bound():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for monitor in range(100):
        for policy in range(100):
            metrics.monitors.verdict(verdict(f"m{monitor}", f"p{policy}@7"))
    for policy in range(1000):
        metrics.monitors.held(f"p{policy}", 0.1)
    pairs = MOST_PAIRS + 1
    assert len(series(registry, "trimtab_monitor_tokens_scored")) <= 2 * pairs  # and _created
    assert len(series(registry, "trimtab_monitor_score")) <= (len(RARITY_BUCKETS) + 4) * pairs
    first = series(registry, "trimtab_monitor_first_alert_token")
    assert len(first) <= (len(TOKEN_BUCKETS) + 4) * pairs
    named = {dict(labels).get("policy") for labels in first}
    assert len(named) <= MOST_NAMES + 1
    assert OTHER in named
    held = {dict(labels)["policy"] for labels in series(registry, "trimtab_monitor_hold_seconds")}
    assert len(held) == MOST_NAMES + 1


def test_no_revision_is_a_label_of_what_counts():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for revision in range(50):
        metrics.monitors.verdict(verdict("m", f"p@{revision}"))
    assert (
        registry.get_sample_value(
            "trimtab_monitor_tokens_scored_total", {"monitor": "m", "policy": "p"}
        )
        == 150
    )


def test_what_is_no_more_has_no_series():
    registry = CollectorRegistry()
    gauge = StateGauge(registry, "x", "X.", ("name",), is_shared=False)
    gauge.replace({("a",): 1.0, ("b",): 2.0})
    gauge.replace({("b",): 3.0})
    assert series(registry, "trimtab_x") == {(("name", "b"),)}
    assert registry.get_sample_value("trimtab_x", {"name": "b"}) == 3


_WRITES = """
import os
from prometheus_client import CollectorRegistry
from service.api.metrics import Metrics

def write(number):
    metrics = Metrics(CollectorRegistry())
    assert metrics.is_shared
    metrics.state.serving(engine=True, ready=number == 0)
    metrics.state._psi.replace({("m", "p"): 0.1 + number})
    metrics.state._psi_scores.replace({("m", "p"): 500.0 - number})
    metrics.state._share.replace({("gone",): 0.5})
    metrics.state._share.replace({})
    metrics.refusal("missing_key")

for number in range(2):
    if os.fork() == 0:
        write(number)
        os._exit(0)
assert {os.wait()[1] for _ in range(2)} == {0}
"""


@pytest.fixture
def shared(tmp_path: Path) -> CollectorRegistry:
    """Return what two processes wrote."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", _WRITES], check=True, env=environment, timeout=120)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=str(tmp_path))
    return registry


def test_of_several_processes_the_worst_is_shown_and_counts_add_up(shared: CollectorRegistry):
    pair = {"monitor": "m", "policy": "p"}
    assert shared.get_sample_value("trimtab_ready") == 0
    assert shared.get_sample_value("trimtab_engine_up") == 1
    assert shared.get_sample_value("trimtab_monitor_drift_psi", pair) == pytest.approx(1.1)
    assert shared.get_sample_value("trimtab_monitor_drift_scores", pair) == 499
    assert shared.get_sample_value("trimtab_refusals_total", {"code": "missing_key"}) == 2
    gone = shared.get_sample_value("trimtab_canary_share", {"binding": "gone"})
    assert gone is not None and math.isnan(gone)
