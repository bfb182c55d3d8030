"""The metrics that a server exports, ours and vLLM's, as Prometheus names them."""

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry

from service.api.metrics import Metrics

# Names in an expression: after a keyword, a label or a string none is one.
_NAME = re.compile(r"(?<![\w:.$])((?:trimtab|vllm|process|python)[:_][a-z0-9_:]+)")
_RECORDED = re.compile(r"\b\w+:trimtab_\w+:\w+")
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}


def ours() -> set[str]:
    """Return every series that our metrics have."""
    registry = CollectorRegistry()
    Metrics(registry)
    return {
        f"{family.name}{suffix}"
        for family in registry.collect()
        for suffix in _SUFFIXES[family.type]
    }


def families() -> set[str]:
    """Return the names of our metrics, as prose has them."""
    registry = CollectorRegistry()
    Metrics(registry)
    return {family.name for family in registry.collect()}


def of_vllm() -> set[str]:
    """Return every series that vLLM's metrics can have, read from its source."""
    found = importlib.util.find_spec("vllm")
    assert found is not None and found.submodule_search_locations is not None
    folder = Path(found.submodule_search_locations[0]) / "v1" / "metrics"
    sources = [path.read_text() for path in folder.rglob("*.py")]
    names = {name for text in sources for name in re.findall(r'"(vllm:[a-z0-9_]+)"', text)}
    return {f"{n}{s}" for n in names for s in ("", "_total", "_bucket", "_sum", "_count")}


def named(expression: str) -> set[str]:
    """Return the metrics that a PromQL expression reads; recorded ones are left out."""
    without = re.sub(r'"[^"]*"', '""', _RECORDED.sub("", expression))
    return set(_NAME.findall(without))


def recorded(expression: str) -> set[str]:
    """Return the recorded series that an expression reads."""
    return set(_RECORDED.findall(expression))


def unknown(expressions: Iterable[str], recorded_names: set[str]) -> set[str]:
    """Return what expressions read that no server exports and no rule records."""
    known = (
        ours() | of_vllm() | {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
    )
    texts = list(expressions)
    read = {name for text in texts for name in named(text)}
    return (read - known) | ({n for text in texts for n in recorded(text)} - recorded_names)
