"""The work of a job on edits, as its process does it: solve and evaluate; nothing is kept here.

The process gets a ``Brief`` and writes a ``Finding``; the server puts a finding into effect.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editing.card import Edit, from_artifact
from editing.cases import Case
from editing.datasets import FORMATS
from editing.job import Sources, evaluate_edit, open_bench, solve_edit
from editing.library import save_edit
from editing.methods import Weights
from editing.registry import Workbench
from editing.spec import parse_spec
from editing.values import ValueRecipe
from forward.container import read_artifact
from forward.families import model_shape
from forward.fingerprint import CheckpointError
from service.edit_request import SolveSettings

if TYPE_CHECKING:
    from service.jobs import JobKind  # whose database a job's process has no use for

Report = Callable[[str, int, int], None]
"""Called with a stage's name, how much of it is done, and of how much."""


@dataclass(frozen=True, slots=True)
class Brief:
    """What a job's process is given.

    Attributes:
        kind: What to do.
        request: What was asked (``Job``'s request).
        checkpoint: The model's folder.
        cache: Folder of values, keys and second moments.
        artifacts: Paths of the artifacts that the request names, by digest.
        out: Folder for the new artifact.
    """

    kind: "JobKind"
    request: Mapping[str, Any]
    checkpoint: str
    cache: str
    artifacts: Mapping[str, str]
    out: str

    def write(self, path: Path) -> None:
        """Write the brief as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Brief":
        """Return the brief that a file holds."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True)
class Finding:
    """What a job's process found.

    Attributes:
        result: Figures; what the job's card shows.
        artifact: Digest of the new artifact in the brief's ``out``, if there is one.
        refused: Why a gate refuses the edit; empty if none does.
    """

    result: Mapping[str, Any]
    artifact: str | None = None
    refused: str = ""

    def write(self, path: Path) -> None:
        """Write the finding as JSON, whole or not at all."""
        temporary = path.with_suffix(".part")
        text = json.dumps(_finite(asdict(self)), allow_nan=False)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Finding":
        """Return the finding that a file holds."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass
class Clock:
    """Hands stages on and keeps how long each took."""

    report: Report
    now: Callable[[], float] = time.monotonic
    stage: str = ""
    since: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report where the work is."""
        if stage != self.stage:
            self.stop()
            self.stage, self.since = stage, self.now()
        self.report(stage, done, total)

    def stop(self) -> list[dict[str, Any]]:
        """End the last stage and return how long each took, in the order of their beginnings."""
        if self.stage:
            at = self.now()
            spent = self.seconds.get(self.stage, 0.0) + at - self.since
            self.seconds[self.stage], self.since = round(spent, 3), at
        return [{"stage": stage, "seconds": spent} for stage, spent in self.seconds.items()]


def work(brief: Brief, report: Report) -> Finding:
    """Do what a brief says.

    Raises:
        EditError: The edit cannot be solved or evaluated.
        ArtifactError: An artifact that it names is damaged.
        CheckpointError, UnsupportedModelError: The model cannot be read.
    """
    clock = Clock(report)
    clock("reading the model", 0, 1)
    return (_solve if brief.kind == "edit-solve" else _evaluate)(brief, clock)


def _solve(brief: Brief, clock: Clock) -> Finding:
    request = brief.request
    spec = parse_spec(request["document"], n_layers=_depth(Path(brief.checkpoint)))
    settings = SolveSettings(**(request["settings"] or {}))
    alike = None if request["alike"] is None else _edit(brief, request["alike"])
    bench = open_bench(Path(brief.checkpoint), _sources(settings, brief), alike)
    beside = list(request["beside"])
    earlier = [_edit(brief, digest) for digest in beside]
    edit = solve_edit(bench, spec, None, request["override"], earlier, clock)
    edit = edit.gated({**edit.gates, "beside": beside})
    result: dict[str, Any] = {"set": spec.edits.digest, "edit": _figures(edit)}
    if edit.gates["failed"]:
        return Finding(result | {"stages": clock.stop()}, refused=_refusal(edit))
    cases = _cases(request)
    if cases:
        result["scores"] = _scores(bench, edit, cases, request["format"], clock)
    clock("writing", 0, 1)
    artifact = save_edit(edit, Path(brief.out)).artifact.digest
    return Finding(result | {"artifact": artifact, "stages": clock.stop()}, artifact)


def _evaluate(brief: Brief, clock: Clock) -> Finding:
    request = brief.request
    edit = _edit(brief, request["artifact"])
    bench = open_bench(Path(brief.checkpoint), Sources(), edit)
    scores = _scores(bench, edit, _cases(request), request["format"], clock)
    found = {"artifact": request["artifact"], "set": edit.edits.digest}
    figures = {"edit": _figures(edit), "scores": scores, "stages": clock.stop()}
    return Finding(found | figures)


def _sources(settings: SolveSettings, brief: Brief) -> Sources:
    return Sources(
        cache=Path(brief.cache),
        prefixes=settings.prefixes,
        tokens=settings.tokens,
        values=ValueRecipe(
            steps=settings.steps, stop=settings.stop, clamp=settings.clamp, keep=settings.keep
        ),
        weights=Weights(weight=settings.weight),
    )


def _edit(brief: Brief, digest: str) -> Edit:
    return from_artifact(read_artifact(Path(brief.artifacts[digest])))


def _cases(request: Mapping[str, Any]) -> list[Case]:
    read = FORMATS[request["format"]]
    return [read(record, number) for number, record in enumerate(request["cases"])]


def _scores(
    bench: Workbench, edit: Edit, cases: Sequence[Case], form: str, clock: Clock
) -> dict[str, Any]:
    accuracies = form == "zsre"
    clock("asking the unedited model", 0, 1)
    before = evaluate_edit(bench, None, cases, accuracies)
    clock("asking the edited model", 0, 1)
    after = evaluate_edit(bench, edit.delta, cases, accuracies)
    both = {"unedited": before, "edited": after}
    plain = {k: {name: e.plain() for name, e in found.items()} for k, found in both.items()}
    return {"cases": len(cases), "format": form} | plain


def _figures(edit: Edit) -> dict[str, Any]:
    """Return what a card shows of an edit; its facts in the set's order, each with its fit."""
    fits = {d: fit for fit in edit.provenance["fits"] for d in fit["facts"]}
    facts = [
        {"digest": fact.digest, "subject": fact.subject, "prompt": fact.prompt.plain()}
        | {"target": fact.target}
        | {name: fits[fact.digest][name] for name in ("nll", "loss", "steps")}
        for fact in edit.edits.facts
    ]
    settings = edit.settings
    return {
        "name": edit.name,
        "model": edit.model,
        "method": edit.edits.method,
        "layers": list(edit.edits.layers),
        "rank": edit.delta.rank,
        "facts": facts,
        "gates": dict(edit.gates),
        "settings": {
            "tokens": settings.tokens,
            "prefixes": len(settings.contexts.prefixes),
            "values": asdict(settings.values),
            "weights": asdict(settings.weights),
        },
    }


def _refusal(edit: Edit) -> str:
    figures, limits = edit.gates["figures"], edit.gates["limits"]
    failed = [f"{n} {figures[n]:.4g} (limit {limits[n]:g})" for n in edit.gates["failed"]]
    names = ",".join(edit.gates["failed"])
    return (
        f"edit '{edit.name}' is refused by its gates: {', '.join(failed)}. Use fewer facts, "
        f"another layer or a larger 'weight'; or accept it with override={names}, which its card "
        "records"
    )


def _finite(value: Any) -> Any:
    """Return JSON values with None in place of numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _depth(checkpoint: Path) -> int:
    """Return the model's number of layers, for the layer to edit where the set names none."""
    try:
        return model_shape(json.loads((checkpoint / "config.json").read_text())).n_layers
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} has no readable config.json: {error}") from error
