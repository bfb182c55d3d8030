"""``trimtab serve``: a model under the policies of a directory.

Without a model it is the demo model under the demo policies. Options that are not ours are vLLM's.
"""

import logging.config
import secrets
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from service.commands.output import CommandError, print_error, print_line
from service.json_log import LogFormat, configuration
from service.settings import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    DRAIN_SECONDS,
    Environment,
    Headroom,
    Settings,
    SettingsError,
    check_host,
)

DEMO_NAME = "trimtab-demo"
DEMO_OPTIONS = {
    "--served-model-name": DEMO_NAME,
    "--dtype": "float32",
    "--block-size": "32",
    "--max-num-seqs": "64",
    "--max-num-batched-tokens": "2048",
    "--kv-cache-memory-bytes": "536870912",
}
"""What suits a model of a few million parameters on a CPU; the user's own options win."""


def serve(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(help="A checkpoint folder or hub name; the demo model if absent."),
    ] = None,
    policies: Annotated[
        Path | None, typer.Option(help="Directory of policy files; followed while serving.")
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(help="Folder, sqlite:///… or postgresql://… that outlives the server."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to bind.")] = DEFAULT_HOST,
    port: Annotated[int, typer.Option(help="Port to bind.")] = DEFAULT_PORT,
    rows: Annotated[int, typer.Option(min=0, help="Head-room: table rows.")] = Headroom().rows,
    reads: Annotated[int, typer.Option(min=0, help="Head-room: reads a site.")] = Headroom().reads,
    writes: Annotated[
        int, typer.Option(min=0, help="Head-room: writes a site.")
    ] = Headroom().writes,
    gates: Annotated[int, typer.Option(min=0, help="Head-room: gates.")] = Headroom().gates,
    ranks: Annotated[
        int, typer.Option(min=0, help="Head-room: ranks of edits a layer.")
    ] = Headroom().ranks,
    sites: Annotated[
        str,
        typer.Option(help="Further hook points to instrument, such as resid_post.3,mlp.2."),
    ] = "",
    merge_layers: Annotated[
        str,
        typer.Option(
            help="Decoder layers that edits may be merged into, such as 2,3 (a copy of "
            "their weights is kept; on a CPU they are not packed)."
        ),
    ] = "",
    drain_seconds: Annotated[
        float, typer.Option(help="How long answers under way may take when the server ends.")
    ] = DRAIN_SECONDS,
    min_generation: Annotated[
        int, typer.Option(min=0, help="Be ready only once the store's changes are in up to this.")
    ] = 0,
    artifact_quota: Annotated[
        int | None, typer.Option(min=0, help="Bytes that artifacts of the store may take.")
    ] = None,
    log_format: Annotated[
        LogFormat, typer.Option(help="Log lines as text, or as JSON with each request's name.")
    ] = "text",
) -> None:
    """Serve a model, steered by the policies of a directory; every vLLM option is accepted too."""
    environment = Environment.read()
    check_host(host, environment.admin_key)
    generated = None if environment.admin_key else secrets.token_urlsafe(24)
    model, rest = model_and_options(model, context.args)
    is_demo = model is None
    settings = Settings(
        model=model or str(demo_folder() / "checkpoint"),
        policies=policies,
        seed=demo_folder() / "policies" if is_demo and policies is None else None,
        state=state,
        host=host,
        port=port,
        admin_key=environment.admin_key or generated,
        artifacts_folder=environment.artifacts_folder,
        headroom=Headroom(rows, reads, writes, gates, ranks),
        sites=tuple(site for site in sites.split(",") if site),
        merge_layers=layers_of(merge_layers),
        drain_seconds=drain_seconds,
        min_generation=min_generation,
        artifact_quota=artifact_quota,
        log_format=log_format,
    )
    options = with_demo_options(rest) if is_demo else rest
    _run(settings, options, is_demo, generated)


def layers_of(listed: str) -> tuple[int, ...]:
    """Return the layers of a list such as ``2,3``.

    Raises:
        SettingsError: It is not such a list.
    """
    parts = [part.strip() for part in listed.split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise SettingsError(
            f"--merge-layers '{listed}' is not a list of layers: write 0-based numbers with commas "
            "between them, such as 2,3"
        )
    return tuple(int(part) for part in parts)


def model_and_options(first: str | None, rest: list[str]) -> tuple[str | None, list[str]]:
    """Return the model, if one is named, and vLLM's options.

    Without a model, the first of vLLM's options stands where the model would; a model comes first.
    """
    if first is not None and first.startswith("-"):
        return None, [first, *rest]
    return first, list(rest)


def demo_folder() -> Path:
    """Return the folder of the demo model and its policies."""
    return Path(str(files("demo")))


def with_demo_options(options: list[str]) -> list[str]:
    """Return the demo's options before the user's own, without those that the user gives."""
    given = {option.partition("=")[0].replace("_", "-") for option in options}
    ours = [
        part for name, value in DEMO_OPTIONS.items() if name not in given for part in (name, value)
    ]
    return ours + options


def _run(settings: Settings, options: list[str], is_demo: bool, generated: str | None) -> None:
    # Imported here: only this command needs torch and vLLM.
    from service.engine.boot_refusals import BOOT_REFUSALS
    from service.engine.launcher import run
    from service.prepare import PREPARE_REFUSALS, prepare

    say = _speaker(settings)
    say("reading the model and the policies …")
    try:
        prepared = prepare(settings)
    except PREPARE_REFUSALS as error:
        raise CommandError(str(error)) from error
    sites = ", ".join(str(point) for point in sorted(prepared.capacities)) or "none"
    say(f"starting vLLM on {prepared.checkpoint} with sites at: {sites}")
    if generated is not None:
        # Never a line of the log: those are kept, and read by others.
        tell = print_line if settings.log_format == "text" else print_error
        tell(
            f"admin key for /dashboard and /trimtab/v1 (TRIMTAB_ADMIN_KEY is not set): {generated}"
        )

    def announce(line: str) -> None:
        say(line)
        if is_demo and settings.log_format == "text":
            print_line(_demo_greeting(settings))

    try:
        run(prepared, options, announce)
    except BOOT_REFUSALS as error:
        raise CommandError(str(error)) from error


def _speaker(settings: Settings) -> Callable[[str], None]:
    """Return what says how the start goes on, in the form of the log."""
    if settings.log_format == "text":
        return print_line
    logging.config.dictConfig(configuration())
    return logging.getLogger("trimtab").info


def _demo_greeting(settings: Settings) -> str:
    # Imported here: only the command line knows the demo.
    from demo.greeting import greeting

    return greeting(f"http://{settings.host}:{settings.port}/v1", DEMO_NAME)
