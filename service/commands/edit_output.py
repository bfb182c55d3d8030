"""How ``trimtab edit`` shows edits and scores."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from service.commands.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from editing.intervals import Estimate
    from editing.library import SavedEdit
    from editing.registry import Progress


def description(saved: "SavedEdit") -> dict[str, Any]:
    """Return a saved edit as JSON values; ``facts`` are digests, in the order of the card's."""
    digests = [fact.digest for fact in saved.edit.edits.facts]
    return {
        "name": saved.edit.name,
        "digest": saved.artifact.digest,
        "path": str(saved.path),
        "facts": digests,
        "card": dict(saved.artifact.card),
    }


def row(saved: "SavedEdit") -> tuple[str, ...]:
    """Return an edit's line in a list."""
    edit, gates = saved.edit, saved.edit.gates
    return (
        edit.name,
        edit.edits.method,
        ",".join(map(str, edit.edits.layers)),
        str(len(edit.edits.facts)),
        str(edit.delta.rank),
        _let_through(gates),
        saved.artifact.digest[:12],
    )


def print_edit(saved: "SavedEdit", as_json: bool) -> None:
    """Print an edit: its facts, its gates, where it lies."""
    if as_json:
        print_json(description(saved))
        return
    edit = saved.edit
    likely = {d: fit["nll"] for fit in edit.provenance["fits"] for d in fit["facts"]}
    facts = [
        fact.plain() | {"digest": fact.digest, "nll": likely[fact.digest]}
        for fact in edit.edits.facts
    ]
    head = {"name": edit.name, "method": edit.edits.method, "layers": edit.edits.layers}
    _print_body(head | {"rank": edit.delta.rank, "facts": facts, "gates": edit.gates})
    print_line(f"model:   {edit.model}")
    print_line(f"digest:  {saved.artifact.digest}")
    print_line(f"file:    {saved.path}")


def print_solved(result: Mapping[str, Any]) -> None:
    """Print what a job on an edit found."""
    edit = result["edit"]
    _print_body(edit)
    print_line(f"model:   {edit['model']}")
    if "artifact" in result:
        print_line(f"digest:  {result['artifact']}")


def print_listed(edits: Sequence[Mapping[str, Any]]) -> None:
    """Print a line of each edit of a server."""
    columns = ("edit", "method", "layers", "facts", "rank", "gates", "policies", "owner", "digest")
    print_table(columns, [_listed(edit) for edit in edits])


def print_scores(
    before: Mapping[str, "Estimate"], after: Mapping[str, "Estimate"], n: int, as_json: bool
) -> None:
    """Print what was measured of the unedited and the edited model."""
    both = {"unedited": before, "edited": after}
    plain = {k: {m: e.plain() for m, e in scores.items()} for k, scores in both.items()}
    if as_json:
        print_json({"cases": n, **plain})
    else:
        print_plain_scores({"cases": n, **plain})


def print_plain_scores(scores: Mapping[str, Any]) -> None:
    """Print scores as JSON has them."""
    before, after = scores["unedited"], scores["edited"]
    rows = [(metric, _estimate(before.get(metric)), _estimate(after[metric])) for metric in after]
    print_table(("metric", "unedited", "edited"), rows)
    print_line(f"{scores['cases']} cases; 95 % intervals")


@contextmanager
def progress() -> Generator["Progress"]:
    """Yield a function that shows stages as bars on standard error."""
    from service.directions import progress_bar

    with progress_bar(Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield report


def _print_body(edit: Mapping[str, Any]) -> None:
    layers = ", ".join(map(str, edit["layers"]))
    print_line(f"{edit['name']}: {edit['method']} at layers {layers}, rank {edit['rank']}")
    rows = [
        (f["digest"][:12], f["subject"], _wording(f["prompt"]), f["target"], f"{f['nll']:.3f}")
        for f in edit["facts"]
    ]
    print_table(("fact", "subject", "prompt", "target", "nll"), rows)
    gates = edit["gates"]
    figures = [
        (name, _figure(figure), f"{gates['limits'][name]:g}", _verdict(gates, name))
        for name, figure in gates["figures"].items()
    ]
    print_table(("gate", "figure", "limit", ""), figures)


def _listed(edit: Mapping[str, Any]) -> tuple[str, ...]:
    gates = edit["gates"]
    return (
        edit["name"],
        edit["method"],
        ",".join(map(str, edit["layers"] or ())),
        str(edit["n_facts"]),
        "" if edit["rank"] is None else str(edit["rank"]),
        "not solved" if gates is None else _let_through(gates),
        ", ".join(edit["policies"]),
        edit["document"]["owner"] if edit["document"] else "",
        (edit["artifact"] or "")[:12],
    )


def _let_through(gates: Mapping[str, Any]) -> str:
    names = ", ".join(gates["overridden"])
    return f"overridden: {names}" if names else "passed"


def _verdict(gates: Mapping[str, Any], name: str) -> str:
    if name in gates["failed"]:
        return "refused"
    return "overridden" if name in gates["overridden"] else "passed"


def _wording(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else prompt["ask"]


def _figure(figure: float | None) -> str:
    return "not a number" if figure is None else f"{figure:.4g}"


def _estimate(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return ""
    low, high = estimate["low"], estimate["high"]
    if low is None or high is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} ({low:.3f} to {high:.3f})"
