"""``trimtab direction``: extract, import and show directions.

What needs torch is imported by the commands themselves, so that the program's help does not.
"""

from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from service.commands.output import (
    AsJson,
    DtypeOption,
    expecting,
    print_json,
    print_line,
    print_table,
)

if TYPE_CHECKING:
    from service.directions import CardOptions, Saved

app = typer.Typer(name="direction", help="Directions: extract, import, show.", no_args_is_help=True)


class MethodOption(StrEnum):
    """How to fit."""

    mean = "mean"
    pca = "pca"


class TokenOption(StrEnum):
    """Which residual stands for a prompt."""

    last_prompt = "last_prompt"
    mean_prompt = "mean_prompt"
    last_generated = "last_generated"
    mean_generated = "mean_generated"


class HookOption(StrEnum):
    """Where in a layer."""

    resid_post = "resid_post"
    resid_pre = "resid_pre"


class OpOption(StrEnum):
    """Operations that a card can default to."""

    add = "add"
    ablate = "ablate"
    set = "set"


class UnitOption(StrEnum):
    """Units of a coefficient."""

    natural = "natural"
    absolute = "absolute"
    residual_norm = "residual_norm"


class FormatOption(StrEnum):
    """Formats that are read."""

    gguf = "gguf"
    safetensors = "safetensors"
    npz = "npz"


Name = Annotated[str, typer.Option(help="Name that policies use.")]
Out = Annotated[Path, typer.Option(help="Folder for the artifact (DIR/artifacts of a server).")]
Layers = Annotated[
    list[int] | None, typer.Option("--layer", help="Default layer, from 0; may be repeated.")
]
Hook = Annotated[HookOption, typer.Option(help="Where in a layer the direction lives.")]
Op = Annotated[OpOption, typer.Option(help="Default operation.")]
Tokens = Annotated[
    str, typer.Option(help="Default tokens: all, prompt, last_prompt, generation or from:N.")
]
Coefficient = Annotated[float, typer.Option(help="Default coefficient.")]
UnitChoice = Annotated[UnitOption, typer.Option(help="Default unit.")]


@app.command("extract")
def extract_command(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or hub name.")],
    pairs: Annotated[
        Path,
        typer.Option(help='JSON lines of {"positive": messages or text, "negative": ...}.'),
    ],
    name: Name,
    out: Out,
    method: Annotated[MethodOption, typer.Option(help="How to fit.")] = MethodOption.mean,
    token: Annotated[
        TokenOption, typer.Option(help="Which residual stands for a prompt.")
    ] = TokenOption.last_prompt,
    layer: Layers = None,
    hook: Hook = HookOption.resid_post,
    op: Op = OpOption.add,
    tokens: Tokens = "all",
    coefficient: Coefficient = 1.0,
    unit: UnitChoice = UnitOption.natural,
    dtype: Annotated[DtypeOption, typer.Option(help="Precision.")] = DtypeOption.float32,
    as_json: AsJson = False,
) -> None:
    """Extract a direction from contrast pairs; without --layer the best-separating one is it."""
    with _expected_errors():
        from service import directions

        card = _card(name, layer, op, tokens, coefficient, unit)
        with directions.progress_bar(Console(stderr=True)) as progress:
            saved = directions.extract_to(
                out,
                model,
                pairs,
                card,
                method.value,
                token.value,
                hook.value,
                dtype.value,
                progress,
            )
        _print(saved, as_json)


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(help="The file.")],
    file_format: Annotated[FormatOption, typer.Option("--format", help="Its format.")],
    model: Annotated[str, typer.Option(help="The model it is for: folder or hub name.")],
    name: Name,
    out: Out,
    hook: Hook = HookOption.resid_post,
    layer: Layers = None,
    op: Op = OpOption.add,
    tokens: Tokens = "all",
    coefficient: Coefficient = 1.0,
    unit: UnitChoice = UnitOption.natural,
    as_json: AsJson = False,
) -> None:
    """Import a repeng GGUF control vector, plain safetensors or npz."""
    with _expected_errors():
        from service import directions

        card = _card(name, layer, op, tokens, coefficient, unit)
        with directions.progress_bar(Console(stderr=True)) as progress:
            saved = directions.import_to(
                out, file, file_format.value, model, card, hook.value, progress
            )
        _print(saved, as_json)


@app.command("show")
def show_command(
    what: Annotated[str, typer.Argument(help="Path of an artifact, or a name in the folder.")],
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Folder of artifacts; the current one by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a direction: scales, class means and separation by layer, defaults, provenance."""
    with _expected_errors():
        from service import directions

        _print(directions.find(what, folder), as_json)


def _card(
    name: str,
    layers: list[int] | None,
    op: OpOption,
    tokens: str,
    coefficient: float,
    unit: UnitOption,
) -> "CardOptions":
    from service.directions import CardOptions

    ordered = tuple(sorted(set(layers or ())))
    return CardOptions(name, ordered, op.value, tokens, coefficient, unit.value)


def _expected_errors() -> AbstractContextManager[None]:
    from service.directions import EXPECTED  # what a command needs is imported when it runs

    return expecting(*EXPECTED)


def _print(saved: "Saved", as_json: bool) -> None:
    from service import directions

    if as_json:
        print_json(directions.description(saved))
        return
    direction, defaults, made = (
        saved.direction,
        saved.direction.defaults,
        saved.direction.provenance,
    )
    print_line(f"{direction.name}: {direction.hook}, width {direction.d_model}")
    columns = ("layer", "scale", "benign", "target", "AUROC", "d'")
    print_table(columns, directions.layer_rows(direction))
    print_line(
        f"by default (*): {defaults.op} {defaults.coefficient:g} ({defaults.unit}) on tokens: "
        f"{defaults.tokens}"
    )
    pairs = f" of {made.n_pairs} pairs at {made.token}" if made.n_pairs else ""
    print_line(f"made by: {made.method}{pairs}")
    print_line(f"model:   {direction.model}")
    print_line(f"digest:  {saved.artifact.digest}")
    print_line(f"file:    {saved.path}")
