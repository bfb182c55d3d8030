"""Speed of served edits: plain vLLM, compiled, against an edit of rank 64 at three layers, 0.3 B.

Every request of the batch is under the edit. As in `speed`, a missed target is written down as it
was measured.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from service.commands.bench import prepare_environment, resolve
from service.speed import MIN_PAIRS, ROWS, TARGET_RATIO

pytestmark = pytest.mark.prove

EDITED = tuple(row for row in ROWS if row.name in ("control", "edit"))


def test_an_edit_under_every_request(tmp_path: Path, figures: dict[str, Any]) -> None:
    """15 pairs, and as many of plain vLLM against itself."""
    prepare_environment(tmp_path / "cache")
    # Imported here: vLLM reads the environment when it is imported.
    from service.engine.bench import BenchPlan, bench

    folder, dtype = resolve("random", tmp_path)
    plan = BenchPlan(folder, "random", dtype, EDITED, MIN_PAIRS, 16, 32)

    def show(done: int, total: int, what: str) -> None:
        print(f"{done}/{total} {what}", flush=True)

    report = asyncio.run(bench(plan, show))
    rows = {row["row"]: row for row in report["rows"]}
    figures["random"] = {**report, "target_reached": rows["edit"]["ratio"] >= TARGET_RATIO}
    assert all(len(row["ratios"]) == MIN_PAIRS for row in rows.values())
