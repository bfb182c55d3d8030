"""What the ``edit`` commands do on a model here, without a server."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.commands.edit_output import progress
from service.commands.output import CommandError

if TYPE_CHECKING:
    from editing.card import Edit
    from editing.job import Sources
    from editing.library import SavedEdit
    from editing.spec import EditSpec


def solve_and_save(
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
    with progress() as report:
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


def sources_of(numbers: tuple[float, ...], corpus: Path | None, cache: Path) -> "Sources":
    """Return where a job takes what is not in the facts; the numbers as ``solve`` has them."""
    from editing.job import Sources
    from editing.methods import Weights
    from editing.values import ValueRecipe

    tokens, prefixes, steps, stop, clamp, keep, weight = numbers
    recipe = ValueRecipe(steps=int(steps), stop=stop, clamp=clamp, keep=keep)
    return Sources(corpus, cache, int(prefixes), int(tokens), recipe, Weights(weight=weight))


def _refusal(edit: "Edit") -> str:
    figures, limits = edit.gates["figures"], edit.gates["limits"]
    failed = [f"{n} {figures[n]:.4g} (limit {limits[n]:g})" for n in edit.gates["failed"]]
    flags = " ".join(f"--override {name}" for name in edit.gates["failed"])
    return (
        f"edit '{edit.name}' is refused by its gates: {', '.join(failed)}. Use fewer facts, "
        f"another --layer or a larger --weight; or accept it with {flags}, which its card records"
    )


def spec_of(
    path: Path, checkpoint: Path, name: str | None, method: str | None, layers: Sequence[int]
) -> "EditSpec":
    """Return the set that a file describes; what is given comes before what the file says."""
    import json

    from editing.spec import parse_spec
    from forward.families import model_shape
    from forward.fingerprint import CheckpointError

    try:
        n_layers = model_shape(json.loads((checkpoint / "config.json").read_text())).n_layers
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} has no readable config.json: {error}") from error
    value = read_file(path, name)
    return parse_spec(value, name or usual_name(path, value), method, layers, n_layers)


def usual_name(path: Path, value: object) -> str | None:
    """Return the name of a set that its file does not name: the file's own."""
    if isinstance(value, dict) and ("name" in value or "metadata" in value):
        return None
    return None if path.suffix == "" else path.stem.lower().replace("_", "-")


def read_file(path: Path, name: str | None = None) -> Any:
    """Return the edit set that a YAML or JSON file holds, of several the one of a name."""
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
    return _only(path, [plain(document) for document in documents], name)


def _only(path: Path, values: Sequence[Any], name: str | None) -> Any:
    """Return the edit set among documents: a policy's file may have its sets beside it."""
    if len(values) == 1:
        return values[0]
    sets = [v for v in values if isinstance(v, dict) and v.get("kind") == "EditSet"]
    names = [(one.get("metadata") or {}).get("name") for one in sets]
    if len(sets) > 1:
        sets = [one for one, known in zip(sets, names, strict=True) if known == name]
    if len(sets) != 1:
        listed = ", ".join(map(str, names)) or "none"
        raise CommandError(
            f"{path} holds {len(values)} documents, and of kind EditSet {listed}; name one of "
            "these with --name"
        )
    return sets[0]


def checkpoint_of(model: str) -> Path:
    """Return the folder of a checkpoint, fetched if need be."""
    from service.checkpoints import checkpoint_folder

    return checkpoint_folder(model)


def neighbours_of(edit: "Edit") -> tuple[Any, ...]:
    """Return the probes that an edit's gate was measured on."""
    from editing.phrasings import parse_phrasing

    probes = edit.gates.get("probes", {}).get("neighbours", ())
    return tuple(parse_phrasing(probe, "neighbours") for probe in probes)
