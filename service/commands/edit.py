"""``trimtab edit``: solve edit sets, evaluate and list them, remove facts.

What needs torch is imported by the commands themselves, so that the program's help does not.
"""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from service.commands.edit_output import description, print_edit, print_scores, row
from service.commands.output import (
    AsJson,
    CommandError,
    expecting,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from editing.card import Edit
    from editing.job import Sources
    from editing.library import SavedEdit
    from editing.registry import Progress
    from editing.spec import EditSpec

app = typer.Typer(name="edit", help="Edits: solve, evaluate, list, remove.", no_args_is_help=True)


class MethodOption(StrEnum):
    """How to solve."""

    rome = "rome"
    memit = "memit"
    alphaedit = "alphaedit"
    memit_prev = "memit-prev"


class FormatOption(StrEnum):
    """Formats of evaluation cases."""

    trimtab = "trimtab"
    counterfact = "counterfact"
    zsre = "zsre"
    mquake = "mquake"


Model = Annotated[str, typer.Argument(help="Checkpoint folder or hub name.")]
Out = Annotated[Path, typer.Option(help="Folder for the artifact (DIR/artifacts of a server).")]
Corpus = Annotated[
    Path | None,
    typer.Option(help="Ordinary text, one document a line; else the model writes its own."),
]
Cache = Annotated[
    Path | None, typer.Option(help="Folder of what is slow to compute; OUT/cache by default.")
]
Override = Annotated[
    list[str] | None, typer.Option("--override", help="Gate that may fail; may be repeated.")
]
Beside = Annotated[
    list[Path] | None,
    typer.Option("--beside", help="Edit (.safetensors) that acts already; may be repeated."),
]
Folder = Annotated[
    Path | None, typer.Option("--dir", help="Folder of artifacts; the current one by default.")
]


@app.command("solve")
def solve_command(
    model: Model,
    facts: Annotated[
        Path, typer.Option(help="Edit set (YAML or JSON): facts of {prompt, subject, target}.")
    ],
    out: Out,
    name: Annotated[str | None, typer.Option(help="Name that policies use.")] = None,
    method: Annotated[MethodOption | None, typer.Option(help="How to solve.")] = None,
    layer: Annotated[
        list[int] | None,
        typer.Option("--layer", help="Layer to edit, from 0; may be repeated."),
    ] = None,
    corpus: Corpus = None,
    tokens: Annotated[int, typer.Option(help="Corpus tokens to count.", min=1)] = 100_000,
    prefixes: Annotated[int, typer.Option(help="Sampled contexts a fact.", min=0)] = 4,
    steps: Annotated[int, typer.Option(help="Steps of a value's fit at most.", min=1)] = 25,
    stop: Annotated[float, typer.Option(help="Loss at which a fit is done.")] = 0.05,
    clamp: Annotated[float, typer.Option(help="Largest value, in output norms.")] = 4.0,
    keep: Annotated[float, typer.Option(help="Weight of prompts that are to stay.")] = 1.0,
    weight: Annotated[float, typer.Option(help="What moving ordinary keys costs.")] = 10.0,
    cache: Cache = None,
    override: Override = None,
    beside: Beside = None,
    peft: Annotated[Path | None, typer.Option(help="Folder for a PEFT LoRA adapter of it.")] = None,
    merged: Annotated[
        Path | None, typer.Option(help="New folder for a checkpoint with it merged in.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Solve an edit set from the original weights, measure its gates, and save it."""
    with _expected_errors():
        from editing.job import Sources
        from editing.methods import Weights
        from editing.values import ValueRecipe

        sources = Sources(
            corpus,
            cache or out / "cache",
            prefixes,
            tokens,
            ValueRecipe(steps=steps, stop=stop, clamp=clamp, keep=keep),
            Weights(weight=weight),
        )
        chosen = method.value if method else None
        folder = _checkpoint(model)
        spec = _spec(facts, folder, name, chosen, layer or ())
        saved = _solve(folder, sources, spec, out, override or (), beside or (), (peft, merged))
        print_edit(saved, as_json)


@app.command("evaluate")
def evaluate_command(
    model: Model,
    edit: Annotated[str, typer.Option(help="Path of an edit, or a name in the folder.")],
    cases: Annotated[Path, typer.Option(help="Cases: a JSON list or JSON lines.")],
    file_format: Annotated[
        FormatOption, typer.Option("--format", help="Their format.")
    ] = FormatOption.trimtab,
    limit: Annotated[int | None, typer.Option(help="Only the first so many.", min=1)] = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Measure an edit on cases, beside the unedited model."""
    with _expected_errors():
        from editing.datasets import read_cases
        from editing.job import Sources, evaluate_edit, open_bench
        from editing.library import find_edit

        found = find_edit(edit, folder)
        judged = read_cases(cases, file_format.value, limit)
        bench = open_bench(_checkpoint(model), Sources(), found.edit)
        accuracies = file_format is FormatOption.zsre
        with _progress() as report:
            report("unedited", 0, 1)
            before = evaluate_edit(bench, None, judged, accuracies)
            report("edited", 0, 1)
            after = evaluate_edit(bench, found.edit.delta, judged, accuracies)
        print_scores(before, after, len(judged), as_json)


@app.command("list")
def list_command(folder: Folder = None, as_json: AsJson = False) -> None:
    """List the edits in a folder."""
    with _expected_errors():
        from editing.library import edits_in

        found = edits_in(folder or Path())
        if as_json:
            print_json([description(saved) for saved in found])
            return
        columns = ("edit", "method", "layers", "facts", "rank", "gates", "digest")
        print_table(columns, [row(saved) for saved in found])


@app.command("remove")
def remove_command(
    model: Model,
    edit: Annotated[str, typer.Option(help="Path of an edit, or a name in the folder.")],
    fact: Annotated[
        list[str], typer.Option(help="Digest of a fact, or its first digits; may be repeated.")
    ],
    out: Out,
    folder: Folder = None,
    corpus: Corpus = None,
    cache: Cache = None,
    override: Override = None,
    beside: Beside = None,
    as_json: AsJson = False,
) -> None:
    """Solve an edit again from the original weights without some facts: no trace of them stays."""
    with _expected_errors():
        from editing.job import Sources
        from editing.library import find_edit
        from editing.spec import EditSpec

        found = find_edit(edit, folder)
        spec = EditSpec(found.edit.edits.without(fact), _neighbours(found.edit))
        sources = Sources(corpus, cache or out / "cache")
        saved = _solve(
            _checkpoint(model),
            sources,
            spec,
            out,
            override or (),
            beside or (),
            (None, None),
            found.edit,
        )
        print_edit(saved, as_json)


def _solve(
    checkpoint: Path,
    sources: "Sources",
    spec: "EditSpec",
    out: Path,
    override: Sequence[str],
    beside: Sequence[Path],
    exports: tuple[Path | None, Path | None],
    alike: "Edit | None" = None,
) -> "SavedEdit":
    """Solve, gate, save and export; nothing is saved if a gate refuses."""
    from editing.export import export_merged, export_peft
    from editing.job import open_bench, solve_edit
    from editing.library import find_edit, save_edit

    earlier = [find_edit(str(path), None).edit for path in beside]
    with _progress() as report:
        report("reading the model", 0, 1)
        bench = open_bench(checkpoint, sources, alike)
        edit = solve_edit(bench, spec, None, override, earlier, report)
    if edit.gates["failed"]:
        raise CommandError(_refusal(edit))
    peft, merged = exports
    if merged is not None:
        export_merged(bench.model, edit.delta, merged, checkpoint)
    if peft is not None:
        export_peft(bench.model, edit.delta, peft, str(checkpoint))
    return save_edit(edit, out)


def _refusal(edit: "Edit") -> str:
    figures, limits = edit.gates["figures"], edit.gates["limits"]
    failed = [f"{n} {figures[n]:.4g} (limit {limits[n]:g})" for n in edit.gates["failed"]]
    flags = " ".join(f"--override {name}" for name in edit.gates["failed"])
    return (
        f"edit '{edit.name}' is refused by its gates: {', '.join(failed)}. Use fewer facts, "
        f"another --layer or a larger --weight; or accept it with {flags}, which its card records"
    )


def _spec(
    path: Path, checkpoint: Path, name: str | None, method: str | None, layers: Sequence[int]
) -> "EditSpec":
    import json

    from editing.spec import parse_spec
    from forward.families import model_shape
    from forward.fingerprint import CheckpointError

    try:
        n_layers = model_shape(json.loads((checkpoint / "config.json").read_text())).n_layers
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} has no readable config.json: {error}") from error
    usual = name or (None if path.suffix == "" else path.stem.lower().replace("_", "-"))
    value = _read(path)
    named = isinstance(value, dict) and ("name" in value or "metadata" in value)
    return parse_spec(value, name if named else usual, method, layers, n_layers)


def _read(path: Path) -> Any:
    """Return what a YAML or JSON file holds."""
    import json

    from service.yaml_reader import YamlError, plain, read_yaml

    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return json.loads(text)
        documents = read_yaml(text)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    except YamlError as error:
        raise CommandError(f"{path}:{error.line}:{error.column}: {error}") from error
    except ValueError as error:
        raise CommandError(f"{path} is not JSON: {error}") from error
    if len(documents) != 1:
        raise CommandError(f"{path} holds {len(documents)} documents; write one edit set")
    return plain(documents[0])


def _checkpoint(model: str) -> Path:
    from service.checkpoints import checkpoint_folder

    return checkpoint_folder(model)


def _neighbours(edit: "Edit") -> tuple[Any, ...]:
    from editing.phrasings import parse_phrasing

    probes = edit.gates.get("probes", {}).get("neighbours", ())
    return tuple(parse_phrasing(probe, "neighbours") for probe in probes)


@contextmanager
def _progress() -> Generator["Progress"]:
    """Yield a function that shows stages as bars on standard error."""
    from service.directions import progress_bar

    with progress_bar(Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield report


def _expected_errors() -> AbstractContextManager[None]:
    from editing.errors import EditError
    from forward.container import ArtifactError
    from forward.families import UnsupportedModelError
    from forward.fingerprint import CheckpointError
    from service.errors import ServiceError

    return expecting(ServiceError, EditError, ArtifactError, CheckpointError, UnsupportedModelError)
