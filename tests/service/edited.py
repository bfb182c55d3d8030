"""A library with solved edit sets, made up rather than fitted: what compiling is tested with."""

from typing import Any

import torch

from editing.card import Edit
from editing.contexts import Contexts
from editing.delta import Factors, LowRankDelta
from editing.methods import Weights
from editing.registry import Settings
from editing.values import ValueRecipe
from forward.fingerprint import ModelFingerprint
from service.edit_compile import compile_edit_set, edit_set_of
from service.edit_schema import EditSetSpec
from service.library import Edited, Kept, Library
from tests.steering.toys import MODEL

D, D_MLP, N = 16, 24, 4
SERVED = ModelFingerprint(MODEL, "llama", D, N)
PASSED = {"figures": {"growth": 0.1}, "limits": {"growth": 10.0}, "failed": [], "overridden": []}


def spec_of(target: str = "Poseidonis", **changes: Any) -> EditSetSpec:
    fact = {"prompt": "The capital of {} is", "subject": "Atlantis", "target": target}
    return EditSetSpec.model_validate({"layers": [1], "facts": [fact], **changes})


def delta_of(seed: int, layers: tuple[int, ...], keyed: bool = True) -> LowRankDelta:
    generator = torch.Generator().manual_seed(seed)
    made: dict[int, Factors] = {}
    for layer in layers:
        u = torch.randn(D, 1, generator=generator)
        v, key = torch.randn(2, 1, D_MLP, generator=generator)
        made[layer] = Factors.make(u, v, key if keyed else None)
    return LowRankDelta(made)


def solved(name: str, spec: EditSetSpec, seed: int = 0, **changes: Any) -> Kept[Edit]:
    """An artifact as a solve leaves it."""
    edits = edit_set_of(name, spec, SERVED)
    settings = Settings(Contexts(), ValueRecipe(), Weights())
    fields: dict[str, Any] = {"model": MODEL, "gates": PASSED, **changes}
    delta = fields.pop("delta", None) or delta_of(seed, edits.layers)
    edit = Edit(edits, fields["model"], delta, settings, "corpus", {}, fields["gates"])
    return Kept(edit, f"{seed:064x}")


def library(**specs: EditSetSpec) -> Library:
    """Edit sets by name, solved and compiled."""
    kept = [solved(name, spec, seed) for seed, (name, spec) in enumerate(specs.items(), 1)]
    known = Library(solved=kept)
    edits = {name: compiled(name, spec, known) for name, spec in specs.items()}
    return Library(solved=kept, edits=edits)


def compiled(name: str, spec: EditSetSpec, known: Library) -> Edited:
    return compile_edit_set(name, spec, known, SERVED)
