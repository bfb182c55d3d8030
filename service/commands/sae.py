"""``trimtab sae``: train, import and show sparse autoencoders.

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
    CommandError,
    expecting,
    print_json,
    print_line,
    print_table,
)

if TYPE_CHECKING:
    from monitors.sae_spans import Firing
    from service.saes import SavedSae

app = typer.Typer(
    name="sae", help="Sparse autoencoders: train, import, show.", no_args_is_help=True
)

STEPS = 250
"""Steps that a training has at least, by smaller batches if need be."""
GATE_L0 = 3.0
GATE_FVU = 0.5


class ArchitectureOption(StrEnum):
    """What can be trained."""

    topk = "topk"
    jumprelu = "jumprelu"


class SaeFormat(StrEnum):
    """Formats that are read."""

    saelens = "saelens"
    sparsify = "sparsify"
    gemma_scope = "gemma-scope"
    gemma_scope_2 = "gemma-scope-2"
    llama_scope = "llama-scope"
    llamascopium = "llamascopium"
    dictionary_learning = "dictionary-learning"
    qwen_scope = "qwen-scope"
    goodfire = "goodfire"


Name = Annotated[str, typer.Option(help="Name that policies use.")]
Out = Annotated[Path, typer.Option(help="Folder for the artifact (DIR/artifacts of a server).")]
Texts = Annotated[
    Path,
    typer.Option(help="JSON lines of messages or texts (.jsonl), or plain text, one a line."),
]


@app.command("train")
def train_command(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or hub name.")],
    texts: Texts,
    name: Name,
    out: Out,
    layer: Annotated[int | None, typer.Option(help="Layer whose output is read, from 0.")] = None,
    at: Annotated[
        str | None, typer.Option(help="Hook point instead of a layer: resid_post.3.")
    ] = None,
    latents: Annotated[
        int | None, typer.Option(help="Size of the dictionary; 8 times the model's width.")
    ] = None,
    k: Annotated[int, typer.Option(help="Active latents a token.")] = 16,
    architecture: Annotated[
        ArchitectureOption, typer.Option(help="The nonlinearity.")
    ] = ArchitectureOption.topk,
    tokens: Annotated[int, typer.Option(help="Tokens to train on.")] = 1_200_000,
    seed: Annotated[int, typer.Option(help="Of weights and order.")] = 0,
    sae_lens: Annotated[
        Path | None, typer.Option("--sae-lens", help="Folder for a copy in SAELens' format.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a dictionary on a model's residual stream, and report how well it explains it."""
    with _expected_errors():
        from monitors.sae_train import Recipe
        from service import directions, saes

        if (layer is None) == (at is None):
            raise CommandError("give either --layer or --at: where the dictionary is to read")
        where = at or f"resid_post.{layer}"
        width = latents or 8 * saes.width_of(model)
        batch = min(4096, max(tokens // STEPS, 256))
        recipe = Recipe(width, k, architecture.value, tokens, batch, seed=seed)
        with directions.progress_bar(Console(stderr=True)) as progress:
            saved = saes.train_to(out, model, texts, name, where, recipe, sae_lens, progress)
        _print(saved, as_json)


@app.command("import")
def import_command(
    path: Annotated[Path, typer.Argument(help="File or folder.")],
    model: Annotated[str, typer.Option(help="The model it is for: folder or hub name.")],
    name: Name,
    out: Out,
    texts: Annotated[
        Path | None,
        typer.Option(help="Held-out texts that the fit is measured on (JSON lines or text)."),
    ] = None,
    ungated: Annotated[
        bool, typer.Option("--ungated", help="Import without measuring the fit.")
    ] = False,
    at: Annotated[
        str | None, typer.Option(help="Where it reads, in place of what the files say.")
    ] = None,
    file_format: Annotated[
        SaeFormat | None, typer.Option("--format", help="Its format; told from the files.")
    ] = None,
    k: Annotated[
        int | None, typer.Option(help="Active features a token, where the files do not say.")
    ] = None,
    input_scale: Annotated[
        float | None,
        typer.Option(help="Scale of the inputs in training, where the files leave it out."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Of a TopK's or BatchTopK's features, in place of an estimate."),
    ] = None,
    max_fvu: Annotated[
        float, typer.Option(help="Largest fraction of variance left unexplained.")
    ] = GATE_FVU,
    l0_factor: Annotated[
        float, typer.Option(help="How many times the declared L0 may be missed.")
    ] = GATE_L0,
    as_json: AsJson = False,
) -> None:
    """Import another program's dictionary, if it fits the model where it is to be read."""
    with _expected_errors():
        from service import directions, saes

        if (texts is None) != ungated:
            raise CommandError(
                "give --texts, on which the fit is measured, or --ungated to import unmeasured"
            )
        chosen = file_format.value if file_format else None
        request = saes.ImportRequest(
            path, name, chosen, at, k, input_scale, threshold, texts, max_fvu, l0_factor
        )
        with directions.progress_bar(Console(stderr=True)) as progress:
            gated = saes.import_to(out, model, request, progress)
        if gated.report and not as_json:
            print_table(("hook point", "FVU", "L0"), saes.fit_rows(gated.report))
        _print(gated.saved, as_json)


@app.command("show")
def show_command(
    what: Annotated[str, typer.Argument(help="Path of an artifact, or a name in the folder.")],
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Folder of artifacts; the current one by default.")
    ] = None,
    feature: Annotated[
        int | None, typer.Option(help="Show where this feature fires; needs --texts and --model.")
    ] = None,
    texts: Annotated[Path | None, typer.Option(help="Texts to look through.")] = None,
    model: Annotated[str | None, typer.Option(help="The model: folder or hub name.")] = None,
    n: Annotated[int, typer.Option("-n", help="How many spans.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show a dictionary's card, and the spans of texts that a feature is most active on."""
    with _expected_errors():
        from service import directions, saes

        saved = saes.find_sae(what, folder)
        if feature is None:
            _print(saved, as_json)
            return
        if texts is None or model is None:
            raise CommandError("--feature needs --texts, the texts to look through, and --model")
        with directions.progress_bar(Console(stderr=True)) as progress:
            firing = saes.spans_of(saved, model, texts, feature, n, progress)
        if as_json:
            print_json({"feature": feature, **saes.firing_description(firing)})
        else:
            _print_firing(saved, feature, firing)


def _expected_errors() -> AbstractContextManager[None]:
    from service.saes import EXPECTED  # what a command needs is imported when it runs

    return expecting(*EXPECTED)


def _print(saved: "SavedSae", as_json: bool) -> None:
    from service import saes

    if as_json:
        print_json(saes.sae_description(saved))
        return
    sae, coder = saved.sae, saved.sae.coder
    out = f" to {sae.hook_out} (transcoder: read-only)" if sae.is_transcoder else ""
    rank = f", k {coder.k}" if coder.k else ""
    print_line(f"{sae.name}: {coder.architecture}{rank}, {sae.n_features} features")
    print_line(f"reads:   {sae.hook}, width {coder.d_in}{out}")
    if sae.measures:
        print_table(("measure", "value"), [(n, f"{v:.4g}") for n, v in sae.measures.items()])
    else:
        print_line("measures: none; how well it fits is not known")
    print_line(f"units:   {sae.activation_units}; normalisation: {coder.normalisation}")
    if coder.k:
        print_line(f"threshold: {sae.threshold_from or 'none, so single features are refused'}")
    print_line(f"made by: {sae.made_by}")
    print_line(f"model:   {sae.model}")
    print_line(f"digest:  {saved.artifact.digest}")
    print_line(f"file:    {saved.path}")


def _print_firing(saved: "SavedSae", feature: int, firing: "Firing") -> None:
    share = firing.active / max(firing.tokens, 1)
    print_line(
        f"{saved.sae.name} #{feature}: active on {firing.active} of {firing.tokens} tokens "
        f"({share:.2%})"
    )
    for span in firing.spans:
        print_line(f"\ndocument {span.document}, token {span.start}, peak {span.peak:.4g}")
        marked = (
            f"{token}[{value:.3g}]" if value > 0 else token
            for token, value in zip(span.tokens, span.activations, strict=True)
        )
        print_line("  " + " ".join(marked))
