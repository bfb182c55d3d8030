"""``trimtab monitor``: fit and import probes, calibrate and evaluate monitors, show both.

What needs torch is imported by the commands themselves, so that the program's help does not.
"""

from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from service.commands.output import AsJson, DtypeOption, expecting, print_json

if TYPE_CHECKING:
    from service.monitor_scene import ScoringRequest

app = typer.Typer(
    name="monitor", help="Monitors: fit, import, calibrate, evaluate, show.", no_args_is_help=True
)

DEFAULT_L2 = 1e-2
GENERATE = 64


class KindOption(StrEnum):
    """Kinds of probes that are fitted."""

    logistic = "logistic"
    mean_difference = "mean-difference"
    attention = "attention"


Model = Annotated[str, typer.Argument(help="Checkpoint folder or hub name.")]
Name = Annotated[str, typer.Option(help="Name that documents use.")]
Out = Annotated[Path, typer.Option(help="Folder for the artifact (DIR/artifacts of a server).")]
Dtype = Annotated[DtypeOption, typer.Option(help="Precision.")]
Document = Annotated[Path, typer.Argument(help="File or folder with the monitor's document.")]
MonitorName = Annotated[
    str | None, typer.Option("--monitor", help="Which monitor, where there are several.")
]
Artifacts = Annotated[
    Path | None,
    typer.Option(help="Folder of artifacts; without it, 'artifacts' beside the document."),
]
Policies = Annotated[
    Path | None,
    typer.Option(help="Folder of policies: the binding's mandatory ones write before the monitor."),
]
PolicyName = Annotated[
    str | None, typer.Option("--policy", help="The policy that a client chooses, which writes too.")
]
BindingName = Annotated[
    str, typer.Option("--binding", help="The binding whose mandatory policies write.")
]
UnderCanary = Annotated[
    bool, typer.Option("--canary", help="With that binding's canary in its place.")
]
Strength = Annotated[float | None, typer.Option(help="Its strength; without it, its default.")]
Words = Annotated[
    Path | None,
    typer.Option(help="Items to fit the bag of words on; without it, it is cross-fitted."),
]
Generate = Annotated[
    int, typer.Option(min=0, help="Tokens that items without an answer are answered with.")
]


@app.command("fit")
def fit_command(
    model: Model,
    items: Annotated[
        Path,
        typer.Option(
            help='JSON lines of {"messages" or "text", "label": 0 or 1, "answer", "slice", '
            '"position"}.'
        ),
    ],
    name: Name,
    at: Annotated[str, typer.Option(help="Hook point: resid_post.3.")],
    out: Out,
    kind: Annotated[KindOption, typer.Option(help="How to fit.")] = KindOption.logistic,
    position: Annotated[
        str,
        typer.Option(
            help="Which token stands for an item: last_prompt, mean_prompt, every, or the number "
            "of a token of its answer (0 the first, -1 the last). An item's own comes first."
        ),
    ] = "last_prompt",
    tokens: Annotated[
        str,
        typer.Option(
            help="Whose tokens 'every' means: all, prompt, last_prompt, generation or from:N."
        ),
    ] = "all",
    pool: Annotated[
        str,
        typer.Option(
            help="How the monitor will pool, which an average is fitted for: max, mean, last, "
            "ema:0.5 or rolling:10."
        ),
    ] = "max",
    l2: Annotated[float, typer.Option(help="Regularisation.")] = DEFAULT_L2,
    seed: Annotated[int, typer.Option(help="Of an attention probe.")] = 0,
    dtype: Dtype = DtypeOption.float32,
    as_json: AsJson = False,
) -> None:
    """Fit a probe on labelled items."""
    with _expected_errors():
        from monitors.items import parse_position
        from monitors.pooling import parse_pool
        from service import monitor_tables as views
        from service import monitors
        from service.directions import progress_bar

        request = monitors.FitRequest(
            name=name,
            kind=kind.value,
            at=at,
            items=items,
            position=parse_position(position),
            clause=monitors.parse_tokens(tokens),
            l2=l2,
            seed=seed,
            pool=parse_pool(pool),
        )
        with progress_bar(Console(stderr=True)) as progress:
            saved = monitors.fit_to(out, model, request, dtype.value, progress)
        views.print_saved(saved, as_json)


@app.command("import")
def import_command(
    file: Annotated[
        Path,
        typer.Argument(
            help="A vector and a bias (.safetensors or .npz), or a direction's artifact."
        ),
    ],
    model: Annotated[str, typer.Option(help="The model it is for: folder or hub name.")],
    name: Name,
    out: Out,
    at: Annotated[
        str | None, typer.Option(help="Hook point; a direction knows it if it has one layer.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Import a probe that was fitted elsewhere, or a direction as a probe."""
    with _expected_errors():
        from service import monitor_tables as views
        from service import monitors
        from service.directions import progress_bar

        with progress_bar(Console(stderr=True)) as progress:
            saved = monitors.import_to(out, file, model, name, at, progress)
        views.print_saved(saved, as_json)


@app.command("calibrate")
def calibrate_command(
    model: Model,
    document: Document,
    benign: Annotated[
        Path, typer.Option(help="Items that are to pass; thresholds come from these.")
    ],
    out: Out,
    positive: Annotated[
        Path | None, typer.Option(help="Items at which it is to fire, for recall by slice.")
    ] = None,
    monitor: MonitorName = None,
    artifacts: Artifacts = None,
    policies: Policies = None,
    policy: PolicyName = None,
    binding: BindingName = "default",
    canary: UnderCanary = False,
    strength: Strength = None,
    words: Words = None,
    generate: Generate = GENERATE,
    dtype: Dtype = DtypeOption.float32,
    as_json: AsJson = False,
) -> None:
    """Calibrate a monitor: thresholds for false-positive rates, and what each is worth."""
    with _expected_errors():
        from service import calibrating
        from service import monitor_tables as views
        from service.directions import progress_bar

        request = _request(
            *(model, document, monitor, artifacts, policies, policy, binding, canary, strength),
            *(words, generate, dtype),
        )
        with progress_bar(Console(stderr=True)) as progress:
            saved = calibrating.calibrate_to(out, request, benign, positive, progress)
        views.print_saved(saved, as_json)


@app.command("evaluate")
def evaluate_command(
    model: Model,
    document: Document,
    items: Annotated[Path, typer.Option(help="Items of both labels, not those calibrated on.")],
    calibration: Annotated[
        Path | None,
        typer.Option(help="The calibration's file; without it, the one that holds is found."),
    ] = None,
    monitor: MonitorName = None,
    artifacts: Artifacts = None,
    policies: Policies = None,
    policy: PolicyName = None,
    binding: BindingName = "default",
    canary: UnderCanary = False,
    strength: Strength = None,
    words: Words = None,
    generate: Generate = GENERATE,
    dtype: Dtype = DtypeOption.float32,
    as_json: AsJson = False,
) -> None:
    """Evaluate a monitor by slice at its calibrated thresholds, beside its baselines."""
    with _expected_errors():
        from service import calibrating
        from service import monitor_tables as views
        from service.directions import progress_bar

        request = _request(
            *(model, document, monitor, artifacts, policies, policy, binding, canary, strength),
            *(words, generate, dtype),
        )
        with progress_bar(Console(stderr=True)) as progress:
            found = calibrating.evaluate_on(request, items, calibration, progress)
        if as_json:
            print_json(calibrating.evaluation_json(found))
        else:
            views.print_evaluation(found)


@app.command("show")
def show_command(
    what: Annotated[str, typer.Argument(help="Path of an artifact, or a name in the folder.")],
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Folder of artifacts; the current one by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a probe, or a monitor's calibrations with their thresholds, slices and baselines."""
    with _expected_errors():
        from service import monitor_tables as views
        from service import monitors

        found = monitors.find_saved(what, folder)
        if as_json:
            described = [monitors.description(saved) for saved in found]
            print_json(described[0] if len(described) == 1 else described)
            return
        for saved in found:
            views.print_saved(saved, False)


def _request(
    model: str,
    document: Path,
    monitor: str | None,
    artifacts: Path | None,
    policies: Path | None,
    policy: str | None,
    binding: str,
    canary: bool,
    strength: float | None,
    words: Path | None,
    generate: int,
    dtype: DtypeOption,
) -> "ScoringRequest":
    from service.monitor_scene import ScoringRequest

    return ScoringRequest(
        model,
        document,
        monitor,
        artifacts,
        policies,
        policy,
        binding,
        canary,
        strength,
        words,
        generate,
        dtype.value,
    )


def _expected_errors() -> AbstractContextManager[None]:
    from service.monitors import EXPECTED  # what a command needs is imported when it runs

    return expecting(*EXPECTED)
