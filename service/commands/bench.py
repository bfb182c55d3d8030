"""``trimtab bench``: how fast policies are beside plain vLLM, on this machine."""

import asyncio
import json
import os
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service.commands.output import AsJson, print_json, print_line, print_table
from service.speed import MIN_PAIRS, ROWS, BenchError, rows_named

DEMO, RANDOM = "demo", "random"
COLUMNS = (
    *("row", "policies", "in batch", "plain tok/s", "tok/s", "ratio", "95%"),
    *("boot s", "activation ms", "memory MiB"),
)


def bench(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(help="demo, random (0.3 B in bf16), or a checkpoint folder.")
    ] = RANDOM,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of runs a row.")] = MIN_PAIRS,
    requests: Annotated[int, typer.Option(min=1, help="Requests in a batch.")] = 16,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens that each generates.")] = 32,
    sites: Annotated[int, typer.Option(min=1, help="Steered layers.")] = 2,
    rows: Annotated[str, typer.Option(help="Which comparisons.")] = ",".join(
        row.name for row in ROWS
    ),
    dtype: Annotated[
        str | None, typer.Option(help="Precision; float32 for demo, bfloat16 for random.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Compile cache to use; a new one by default: all boots are cold."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the report to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare plain vLLM with policies, run by run in turn; other options are vLLM's."""
    chosen = rows_named(rows)
    with tempfile.TemporaryDirectory(prefix="trimtab-bench-") as folder:
        prepare_environment(cache or Path(folder, "cache"))
        # Imported here: only this command needs torch and vLLM, and they read the environment.
        from service.engine.bench import BenchPlan
        from service.engine.bench import bench as measure

        checkpoint, default_dtype = resolve(model, Path(folder, "model"))
        plan = BenchPlan(
            checkpoint,
            model,
            dtype or default_dtype,
            chosen,
            pairs,
            requests,
            tokens,
            n_sites=sites,
            options=tuple(context.args),
        )
        with _bar() as bar:
            task = bar.add_task("", total=None, what="")

            def show(done: int, total: int, what: str) -> None:
                bar.update(task, completed=done, total=total, what=what)

            report = asyncio.run(measure(plan, show))
    if out is not None:
        out.write_text(json.dumps(report, indent=2) + "\n")
    if as_json:
        print_json(report)
    else:
        print_report(report)


def prepare_environment(cache: Path) -> None:
    """Give vLLM a compile cache and huge pages, and keep its log lines out of the progress bar.

    Without huge pages each engine's speed depends on which small pages its weights happen to get:
    two engines of plain vLLM then differ by a tenth and more.
    """
    os.environ["VLLM_CACHE_ROOT"] = str(cache)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache / "inductor")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch's allocations
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # all others
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def resolve(model: str, folder: Path) -> tuple[Path, str]:
    """Return the folder of a checkpoint and its default precision.

    Raises:
        BenchError: There is none.
    """
    if model == RANDOM:
        from service.engine.bench_programs import write_random_model

        return write_random_model(folder), "bfloat16"
    path = Path(str(files("demo"))) / "checkpoint" if model == DEMO else Path(model)
    if not (path / "config.json").is_file():
        raise BenchError(f"'{model}': no checkpoint in {path}; name demo, random or a folder")
    return path, "float32" if model == DEMO else "auto"


def print_report(report: dict[str, Any]) -> None:
    """Print a report as a table, a row a comparison."""
    size = report["model"]
    print_line(
        f"{size['name']}: {size['family']}, {size['layers']} layers of {size['width']}, "
        f"{size['dtype']}; sites at {', '.join(report['sites'])}; "
        f"{report['rows'][0]['pairs']} pairs a row"
    )
    print_table(COLUMNS, [_cells(report, row) for row in report["rows"]])
    print_line(
        f"plain vLLM: boot {report['boot_seconds']['plain']} s, memory "
        f"{report['memory_mib']['plain']} MiB; the tables take {report['table_mib']} MiB"
    )


def _cells(report: dict[str, Any], row: dict[str, Any]) -> list[str]:
    low, high = row["interval"]
    activation = row["activation_ms"]
    return [
        row["row"],
        f"{row['policies']}{'+1' if row['is_stacked'] else ''}",
        str(row["in_batch"]),
        f"{row['plain_tokens_per_second']:.0f}",
        f"{row['tokens_per_second']:.0f}",
        f"{row['ratio']:.3f}",
        f"{low:.3f}–{high:.3f}",
        str(report["boot_seconds"][row["side"]]),
        "" if activation is None else f"{activation:.1f}",
        str(report["memory_mib"][row["side"]]),
    ]


def _bar() -> Progress:
    text = TextColumn("{task.fields[what]}")
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), text)
    return Progress(*columns, console=Console(stderr=True), transient=True)
