"""Every metric named `trimtab_*`, from a registry that has them all."""

from typing import Any

from prometheus_client import CollectorRegistry

from service.api.metrics import Metrics
from tests.docs.reference.table import code, table

_ABOUT = (
    "On `/metrics`, beside vLLM's own. A counter's name ends with `_total` there; a histogram has "
    "`_bucket`, `_sum` and `_count`. `deploy/` has recording and alert rules for them."
)


def page() -> str:
    """Return the page."""
    lines = ["# Metrics", "", _ABOUT, ""]
    return "\n".join([*lines, *table(("name", "type", "labels", "what it says"), rows()), ""])


def rows() -> list[tuple[str, str, str, str]]:
    """Return name, type, labels and help of each metric, by name."""
    registry = CollectorRegistry()
    Metrics(registry)
    found: set[Any] = set(registry._collector_to_names)
    return sorted(_row(one) for one in found if hasattr(one, "_labelnames"))


def _row(metric: Any) -> tuple[str, str, str, str]:
    name = metric._name + ("_total" if metric._type == "counter" else "")
    labels = ", ".join(code(label) for label in metric._labelnames)
    return code(name), metric._type, labels, metric._documentation
