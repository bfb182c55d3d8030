"""Compiling edit sets: a document and the artifact that solves it become contents of rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from editing.card import Edit
from editing.delta import DeltaError
from editing.errors import EditError
from editing.facts import EditSet
from editing.lower import lower, together
from editing.spec import parse_spec
from forward.fingerprint import ModelFingerprint
from forward.hookpoints import HookPoint
from forward.program import Program, RowContent, SiteContent
from service.digest import content_digest
from service.edit_schema import EditSetSpec
from service.entry import CompileError, EditCompileError, absent
from service.library import Edited, Kept, Library, pin_key
from service.steer_schema import content_of


def compile_edit_set(
    name: str, spec: EditSetSpec, library: Library, model: ModelFingerprint
) -> Edited:
    """Return an edit set with the change that makes it true and the artifact that holds it.

    Raises:
        EditCompileError: Its facts cannot be, no artifact of this model solves them, or the one
            that does was refused by its gates.
    """
    declared = edit_set_of(name, spec, model)
    solved = [kept for kept in library.solved if kept.content.edits.digest == declared.digest]
    here = [kept for kept in solved if kept.content.model == model.digest]
    fit = [kept for kept in here if not refused(kept.content)]
    if not fit:
        raise EditCompileError(name, "spec.facts", _unsolved(solved, here))
    kept = fit[0]
    try:
        contents = lower(kept.content.delta, spec.match)
    except DeltaError as error:
        raise EditCompileError(name, "spec.match", str(error)) from error
    artifacts = {pin_key("edit", name): kept.digest}
    digest = content_digest({"spec": content_of(spec), "artifacts": artifacts})
    return Edited(name, spec, kept.content, contents, artifacts, digest)


def edit_set_of(name: str, spec: EditSetSpec, model: ModelFingerprint) -> EditSet:
    """Return the facts that a document declares, with the layers that it means on a model.

    Raises:
        EditCompileError: They cannot be.
    """
    try:
        return parse_spec(content_of(spec), name, n_layers=model.n_layers).edits
    except EditError as error:
        raise EditCompileError(name, "spec", str(error)) from error


def refused(edit: Edit) -> tuple[str, ...]:
    """Return the gates that refuse an edit; one whose gates were never measured counts as such."""
    return tuple(edit.gates.get("failed", ["none of its gates was measured"]))


def edits_of(policy: str, names: Sequence[str], library: Library) -> list[Edited]:
    """Return the edit sets that a policy names.

    Raises:
        CompileError: One is not there, is merged into the weights, or contradicts another.
    """
    found: list[Edited] = []
    for index, name in enumerate(names):
        if name not in library.edits:
            reason = absent("edit set", name, list(library.edits), "apply its document first")
            raise CompileError(policy, f"spec.edits[{index}]", reason)
        edited = library.edits[name]
        if edited.spec.serve == "merge":
            reason = f"'{name}' is merged into the weights, so it holds for every request already"
            raise CompileError(policy, f"spec.edits[{index}]", f"{reason}; leave it out")
        found.append(edited)
    refuse_contradictions(policy, found)
    return found


def refuse_contradictions(policy: str, edits: Iterable[Edited]) -> None:
    """Refuse edit sets that say different things of one prompt and act on one request.

    Raises:
        CompileError: Two do.
    """
    sets = list(edits)
    if len(sets) < 2:
        return
    try:
        EditSet(policy, tuple(fact for edited in sets for fact in edited.edit.edits.facts))
    except EditError as error:
        names = ", ".join(edited.name for edited in sets)
        raise CompileError(policy, "spec.edits", f"of the sets {names}, {error}") from error


def contents_of(
    edits: Sequence[Edited], before: HookPoint | None = None
) -> Mapping[HookPoint, SiteContent]:
    """Return what the rows of a request under some edit sets hold, at sites before a point."""
    contents = together([edited.contents for edited in edits])
    return {point: c for point, c in contents.items() if before is None or point < before}


def merged_of(edits: Iterable[Edited]) -> tuple[Edited, ...]:
    """Return the edit sets that are merged into the weights, by name.

    Raises:
        EditCompileError: Two say different things of one prompt, or one acts only where a key
            matches, which weights cannot.
    """
    found = sorted((e for e in edits if e.spec.serve == "merge"), key=lambda edited: edited.name)
    for edited in found:
        if edited.spec.match is not None:
            reason = "weights act at every token: leave 'match' out, or write serve: side"
            raise EditCompileError(edited.name, "spec.match", reason)
    try:
        if found:
            EditSet("merged", tuple(fact for e in found for fact in e.edit.edits.facts))
    except EditError as error:
        names = ", ".join(edited.name for edited in found)
        raise EditCompileError(found[0].name, "spec.serve", f"of {names}, {error}") from error
    return tuple(found)


def everywhere(program: Program, contents: Mapping[HookPoint, SiteContent]) -> Program:
    """Return a program with more contents at every token: what monitors see of merged edits."""
    if not contents:
        return program
    rows = tuple(
        RowContent({**row.sites, **together([_edits_in(row), contents])})
        for row in program.contents
    )
    return replace(program, contents=rows)


def _edits_in(row: RowContent) -> Mapping[HookPoint, SiteContent]:
    return {point: content for point, content in row.sites.items() if point.is_edit}


def _unsolved(solved: Sequence[Kept[Edit]], here: Sequence[Kept[Edit]]) -> str:
    instead = (
        "solve it: trimtab edit solve MODEL --facts FILE --out DIR/artifacts, or POST the document "
        "to /trimtab/v1/edits"
    )
    if here:
        return (
            f"the artifact that solves these facts ({here[0].digest[:12]}) was refused by its "
            f"gates: {', '.join(refused(here[0].content))}; {instead}, overriding these gates by "
            "name if you must"
        )
    if solved:
        return f"these facts were solved on model {solved[0].content.model[:12]} only; {instead}"
    return f"no artifact solves just these facts by this method at these layers; {instead}"
