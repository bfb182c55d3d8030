"""``trimtab edit``: solve edit sets, evaluate and list them, remove facts; here or on a server.

With a model the work is done here; with ``--url`` a running server does it, as a job, or with
``--policy`` is measured itself. What needs torch is imported by the commands themselves, so that
the program's help does not.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands import edit_live as live
from service.commands import edit_offline as offline
from service.commands import edit_server as online
from service.commands.edit_output import description, print_edit, print_scores, progress, row
from service.commands.output import AsJson, expecting, print_json, print_line, print_table

app = typer.Typer(
    name="edit", help="Edits: solve, evaluate, list, remove, jobs.", no_args_is_help=True
)


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


class StateOption(StrEnum):
    """States of a job."""

    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


Model = Annotated[str | None, typer.Argument(help="Checkpoint folder or hub name; not with --url.")]
Url = Annotated[str | None, typer.Option("--url", help="Let the server at this URL do it.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder for the artifact (DIR/artifacts of a server).")
]
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
    typer.Option(
        "--beside",
        help="Edit that acts already: a .safetensors file, or its digest on a server; repeatable.",
    ),
]
Folder = Annotated[
    Path | None, typer.Option("--dir", help="Folder of artifacts; the current one by default.")
]
Cases = Annotated[Path, typer.Option(help="Cases: a JSON list or JSON lines.")]
Format = Annotated[FormatOption, typer.Option("--format", help="Format of the cases.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many cases.", min=1)]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the server's job to its end.")]
TOKENS, PREFIXES, STEPS, STOP, CLAMP, KEEP, WEIGHT = 100_000, 4, 25, 0.05, 4.0, 1.0, 10.0


@app.command("solve")
def solve_command(
    facts: Annotated[
        Path, typer.Option(help="Edit set (YAML or JSON): facts of {prompt, subject, target}.")
    ],
    model: Model = None,
    out: Out = None,
    url: Url = None,
    name: Annotated[str | None, typer.Option(help="Name that policies use.")] = None,
    method: Annotated[MethodOption | None, typer.Option(help="How to solve.")] = None,
    layer: Annotated[
        list[int] | None,
        typer.Option("--layer", help="Layer to edit, from 0; may be repeated."),
    ] = None,
    corpus: Corpus = None,
    tokens: Annotated[int, typer.Option(help="Corpus tokens to count.", min=1)] = TOKENS,
    prefixes: Annotated[int, typer.Option(help="Sampled contexts a fact.", min=0)] = PREFIXES,
    steps: Annotated[int, typer.Option(help="Steps of a value's fit at most.", min=1)] = STEPS,
    stop: Annotated[float, typer.Option(help="Loss at which a fit is done.")] = STOP,
    clamp: Annotated[float, typer.Option(help="Largest value, in output norms.")] = CLAMP,
    keep: Annotated[float, typer.Option(help="Weight of prompts that are to stay.")] = KEEP,
    weight: Annotated[float, typer.Option(help="What moving ordinary keys costs.")] = WEIGHT,
    cache: Cache = None,
    override: Override = None,
    beside: Beside = None,
    cases: Annotated[
        Path | None, typer.Option(help="Cases for the job's card; with --url.")
    ] = None,
    file_format: Format = FormatOption.trimtab,
    peft: Annotated[Path | None, typer.Option(help="Folder for a PEFT LoRA adapter of it.")] = None,
    merged: Annotated[
        Path | None, typer.Option(help="New folder for a checkpoint with it merged in.")
    ] = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Solve an edit set from the original weights, measure its gates, and save it."""
    numbers = (tokens, prefixes, steps, stop, clamp, keep, weight)
    chosen = method.value if method else None
    if url is not None:
        here = {"--out": out, "--corpus": corpus, "--cache": cache}
        _only_here(model, here | {"--peft": peft, "--merged": merged})
        value = offline.read_file(facts, name)
        usual = name or offline.usual_name(facts, value)
        wanted: dict[str, Any] = {
            "document": online.document(value, usual, chosen, layer or ()),
            "override": override or [],
            "beside": [path.stem for path in beside or ()],
            "settings": _changed(numbers),
        }
        wanted |= {} if cases is None else online.cases_of(cases, file_format.value, None)
        server = online.edit_server(url)
        online.follow(server, server.solve(wanted), wait, as_json)
        return
    if cases is not None:
        raise typer.BadParameter("'--cases' is for a server's job: give --url, or use evaluate")
    checkpoint, into = _model_and_out(model, out)
    with _expected_errors():
        folder = offline.checkpoint_of(checkpoint)
        sources = offline.sources_of(numbers, corpus, cache or into / "cache")
        spec = offline.spec_of(facts, folder, name, chosen, layer or ())
        exports = (peft, merged)
        print_edit(
            offline.solve_and_save(
                folder, sources, spec, into, override or (), beside or (), exports
            ),
            as_json,
        )


@app.command("evaluate")
def evaluate_command(
    cases: Cases,
    edit: Annotated[
        str | None, typer.Option(help="Path of an edit, or its name in folder or server.")
    ] = None,
    model: Model = None,
    url: Url = None,
    policy: Annotated[
        str | None,
        typer.Option(help="Measure what clients of the server at --url get under this policy."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="With --policy: the server's tokenizer, a folder or hub name."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="TRIMTAB_API_KEY",
            show_default=False,
            help="With --policy: the server's key for inference, if it needs one.",
        ),
    ] = None,
    file_format: Format = FormatOption.trimtab,
    limit: Limit = None,
    folder: Folder = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Measure an edit, or a policy of a server, on cases, beside the unedited model."""
    if policy is not None:
        _only_here(model, {"--dir": folder})
        if edit is not None or url is None:
            raise typer.BadParameter("'--policy' is of a server: give --url, and no --edit")
        with _expected_errors():
            from editing.datasets import read_cases

            judged = read_cases(cases, file_format.value, limit)
            by_token = file_format is FormatOption.zsre
            live.evaluate_live(url, policy, judged, by_token, tokenizer, api_key, as_json)
        return
    if tokenizer is not None:
        raise typer.BadParameter("'--tokenizer' is for '--policy': give that, or leave it out")
    if edit is None:
        raise typer.BadParameter("--edit is missing; or give --policy and --url")
    if url is not None:
        _only_here(model, {"--dir": folder})
        server = online.edit_server(url)
        wanted = online.cases_of(cases, file_format.value, limit)
        online.follow(server, server.evaluate(edit, wanted), wait, as_json)
        return
    checkpoint = _given(model, "MODEL")
    with _expected_errors():
        from editing.datasets import read_cases
        from editing.job import Sources, evaluate_edit, open_bench
        from editing.library import find_edit

        found = find_edit(edit, folder)
        judged = read_cases(cases, file_format.value, limit)
        bench = open_bench(offline.checkpoint_of(checkpoint), Sources(), found.edit)
        accuracies = file_format is FormatOption.zsre
        with progress() as report:
            report("unedited", 0, 1)
            before = evaluate_edit(bench, None, judged, accuracies)
            report("edited", 0, 1)
            after = evaluate_edit(bench, found.edit.delta, judged, accuracies)
        print_scores(before, after, len(judged), as_json)


@app.command("list")
def list_command(folder: Folder = None, url: Url = None, as_json: AsJson = False) -> None:
    """List the edits in a folder, or on a server."""
    if url is not None:
        _only_here(None, {"--dir": folder})
        online.print_edits(online.edit_server(url).edits(), as_json)
        return
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
    edit: Annotated[str, typer.Option(help="Path of an edit, or its name in folder or server.")],
    model: Model = None,
    fact: Annotated[
        list[str] | None,
        typer.Option(help="Digest of a fact, or its first digits; may be repeated."),
    ] = None,
    out: Out = None,
    url: Url = None,
    folder: Folder = None,
    corpus: Corpus = None,
    cache: Cache = None,
    override: Override = None,
    beside: Beside = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Solve an edit again from the original weights without some facts: no trace of them stays.

    On a server, an edit without --fact is removed whole.
    """
    if url is not None:
        here = {"--out": out, "--dir": folder, "--corpus": corpus, "--cache": cache}
        _only_here(model, here)
        server = online.edit_server(url)
        if not fact:
            outcome = server.remove(edit)
            print_json(outcome) if as_json else print_line(f"edit {edit} is removed")
            return
        shown = server.edit(edit)
        wanted = {
            "document": online.without(shown, fact),
            "alike": shown["artifact"],
            "override": override or [],
            "beside": [path.stem for path in beside or ()],
        }
        online.follow(server, server.solve(wanted), wait, as_json)
        return
    checkpoint, into = _model_and_out(model, out)
    if not fact:
        raise typer.BadParameter("name the facts to remove with --fact")
    with _expected_errors():
        from editing.job import Sources
        from editing.library import find_edit
        from editing.spec import EditSpec

        found = find_edit(edit, folder)
        spec = EditSpec(found.edit.edits.without(fact), offline.neighbours_of(found.edit))
        saved = offline.solve_and_save(
            offline.checkpoint_of(checkpoint),
            Sources(corpus, cache or into / "cache"),
            spec,
            into,
            override or (),
            beside or (),
            (None, None),
            found.edit,
        )
        print_edit(saved, as_json)


@app.command("jobs")
def jobs_command(
    job: Annotated[int | None, typer.Argument(help="A job's number; all of them without.")] = None,
    url: Url = None,
    state: Annotated[StateOption | None, typer.Option(help="Only jobs in this state.")] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the job.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end.")] = False,
    card: Annotated[
        Path | None, typer.Option(help="Write the job's card, a page, to this file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List a server's jobs; show, follow or cancel one, or write its card."""
    server = online.edit_server(url)
    if job is None:
        if cancel or wait or card is not None:
            raise typer.BadParameter("which job? give its number")
        online.print_jobs(server.jobs(state.value if state else None), as_json)
    elif cancel:
        online.follow(server, server.cancel(job), False, as_json)
    elif card is not None:
        online.write_card(server, job, card)
    elif wait:
        online.follow(server, {"id": job}, True, as_json)
    else:
        online.show(server.job(job), as_json)


def _changed(numbers: tuple[float, ...]) -> dict[str, float] | None:
    """Return the settings that are not the usual ones; None if all are."""
    names = ("tokens", "prefixes", "steps", "stop", "clamp", "keep", "weight")
    usual = (TOKENS, PREFIXES, STEPS, STOP, CLAMP, KEEP, WEIGHT)
    changed = {n: v for n, v, u in zip(names, numbers, usual, strict=True) if v != u}
    return changed or None


def _only_here(model: str | None, options: Mapping[str, object]) -> None:
    """Refuse what only work without a server takes.

    Raises:
        typer.BadParameter: Something of it is given.
    """
    given = ["MODEL"] if model is not None else []
    given += [name for name, value in options.items() if value is not None]
    if given:
        raise typer.BadParameter(
            f"{given[0]} is for work here: a server knows its own, so leave "
            "it out or leave out --url"
        )


def _model_and_out(model: str | None, out: Path | None) -> tuple[str, Path]:
    return _given(model, "MODEL"), Path(_given(out, "--out"))


def _given(value: Any, name: str) -> Any:
    if value is None:
        raise typer.BadParameter(f"{name} is missing; or give --url for a server to do it")
    return value


def _expected_errors() -> AbstractContextManager[None]:
    from editing.errors import EditError
    from forward.container import ArtifactError
    from forward.families import UnsupportedModelError
    from forward.fingerprint import CheckpointError
    from service.errors import ServiceError

    return expecting(ServiceError, EditError, ArtifactError, CheckpointError, UnsupportedModelError)
