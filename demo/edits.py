"""The demo's edits: `python -m demo.edits` writes their documents and makes their artifacts.

Every set is solved from the original weights, as the file says it; none is kept whose gates refuse
it. The file is read back for that, so that what is served is what is written there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from demo.edit_documents import documents
from demo.effects import HERE
from demo.monitors import bars, keep
from editing.card import Edit, to_artifact
from editing.errors import EditError
from editing.job import Sources, open_bench, solve_edit
from editing.registry import Progress as Told
from editing.spec import EditSpec, parse_spec
from editing.values import ValueRecipe
from service.yaml_reader import plain, read_yaml

FILE = "edits.yaml"
SOURCES = Sources(values=ValueRecipe(steps=60, clamp=8.0, stop=0.005))
"""More steps than usual, and larger values: the demo model is small, and sure of what it knows."""


class RefusedError(EditError):
    """A set of the demo that its gates refuse."""


def specs(text: str) -> list[EditSpec]:
    """Return the edit sets of a file.

    Raises:
        FactError: One is malformed.
        YamlError: It is not YAML.
    """
    values = [plain(node) for node in read_yaml(text)]
    return [parse_spec(value) for value in values if value["kind"] == "EditSet"]


def solved(checkpoint: Path, wanted: Sequence[EditSpec], progress: Progress) -> list[Edit]:
    """Solve sets, each from the original weights, and measure their gates.

    Raises:
        RefusedError: A gate refuses one.
    """
    bench = open_bench(checkpoint, SOURCES)
    edits: list[Edit] = []
    for spec in wanted:
        edit = solve_edit(bench, spec, progress=_told(spec.edits.name, progress))
        if edit.gates["failed"]:
            raise RefusedError(f"{edit.name} is refused: {gates_of(edit)}")
        edits.append(edit)
    return edits


def _told(name: str, progress: Progress) -> Told:
    task = progress.add_task(name, total=None)

    def told(stage: str, done: int, total: int) -> None:
        progress.update(task, description=f"{name}, {stage}", completed=done, total=total)

    return told


def gates_of(edit: Edit) -> str:
    """Return the figures of an edit's gates as text."""
    figures: dict[str, float] = edit.gates["figures"]
    return ", ".join(f"{name} {figure:.4g}" for name, figure in figures.items())


def make(checkpoint: Path, policies: Path, progress: Progress) -> list[Edit]:
    """Write the documents and the artifacts of a policy folder; return the edits."""
    text = documents()
    edits = solved(checkpoint, specs(text), progress)
    (policies / FILE).write_text(text)
    for edit in edits:
        keep(to_artifact(edit), policies / "artifacts")
    return edits


def main() -> None:
    """Make the edits of a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=HERE / "checkpoint")
    parser.add_argument("--out", type=Path, default=HERE / "policies")
    options = parser.parse_args()
    with bars() as progress:
        edits = make(options.checkpoint, options.out, progress)
    for edit in edits:
        fits = ", ".join(f"{fit['subject']} {fit['nll']:.3g}" for fit in edit.provenance["fits"])
        print(f"{edit.name}: rank {edit.delta.rank}; {gates_of(edit)}; nll {fits}")  # noqa: T201


if __name__ == "__main__":
    main()
