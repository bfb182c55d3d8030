"""Edits as artifacts: factors in safetensors, and a card with facts, recipe, figures and gates."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from editing.contexts import Contexts
from editing.delta import Factors, LowRankDelta
from editing.errors import EditError
from editing.facts import METHODS, EditSet, parse_facts
from editing.methods import Weights
from editing.registry import Settings, Solved, Workbench
from editing.values import ValueRecipe
from forward.container import Artifact

KIND = "edit"


class EditCardError(EditError):
    """An artifact that is no intact edit."""


@dataclass(frozen=True, eq=False)
class Edit:
    """A solved edit set, bound to a model.

    Attributes:
        edits: The facts, method and layers.
        model: Fingerprint of the model it was solved on.
        delta: The change.
        settings: What it was solved with.
        corpus: Digest of the corpus of its second moments.
        provenance: Second moments' tokens and digests, and the fit of each subject.
        gates: What was measured before it was let through, and what was overridden.
    """

    edits: EditSet
    model: str
    delta: LowRankDelta
    settings: Settings
    corpus: str
    provenance: Mapping[str, Any]
    gates: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The set's name."""
        return self.edits.name

    def gated(self, report: Mapping[str, Any]) -> "Edit":
        """Return the edit with a report of its gates."""
        return replace(self, gates=dict(report))


def edit_of(bench: Workbench, solved: Solved) -> Edit:
    """Return what a workbench solved as an edit; its gates are not measured yet."""
    moments = {
        str(layer): {"digest": moment.digest, "tokens": moment.tokens}
        for layer, moment in solved.moments.items()
    }
    fits = [
        {
            "subject": fit.group.subject,
            "facts": [fact.digest for fact in fit.group.facts],
            "nll": fit.nll,
            "loss": fit.loss,
            "steps": fit.steps,
        }
        for fit in solved.fits
    ]
    provenance = {"moments": moments, "fits": fits}
    return Edit(
        solved.edits,
        bench.fingerprint,
        solved.delta,
        bench.settings,
        bench.corpus.digest,
        provenance,
        {},
    )


def to_artifact(edit: Edit) -> Artifact:
    """Return an edit as an artifact.

    Raises:
        ArtifactError: A value is not finite.
    """
    settings = asdict(edit.settings)
    card = {
        "kind": KIND,
        "name": edit.name,
        "model": edit.model,
        "method": edit.edits.method,
        "layers": list(edit.edits.layers),
        "facts": [fact.plain() for fact in edit.edits.facts],
        "rank": edit.delta.rank,
        "delta": edit.delta.digest,
        "settings": settings | {"corpus": edit.corpus},
        "provenance": dict(edit.provenance),
        "gates": dict(edit.gates),
    }
    tensors: dict[str, Tensor] = {}
    for layer, factors in edit.delta.layers.items():
        tensors |= {f"u.{layer}": factors.u, f"v.{layer}": factors.v}
        if factors.keys is not None:
            tensors[f"keys.{layer}"] = factors.keys
    return Artifact.make(_json(card), tensors)


def from_artifact(artifact: Artifact) -> Edit:
    """Return the edit in an artifact.

    Raises:
        EditCardError: It is of another kind, or malformed.
    """
    card = artifact.card
    if card["kind"] != KIND:
        raise EditCardError(f"artifact '{card['name']}' is a {card['kind']}, not an edit")
    try:
        delta = LowRankDelta({int(n): _factors(artifact, int(n)) for n in card["layers"]})
        edits = edit_set_of(card)
        settings, corpus = _settings(card["settings"])
        provenance, gates = dict(card["provenance"]), dict(card["gates"])
        model, stated = str(card["model"]), str(card["delta"])
    except (KeyError, TypeError, ValueError) as error:
        raise EditCardError(f"edit '{card['name']}' is malformed: {error!r}") from error
    if stated != delta.digest:
        raise EditCardError(f"edit '{card['name']}' does not hold the change that its card names")
    return Edit(edits, model, delta, settings, corpus, provenance, gates)


def _factors(artifact: Artifact, layer: int) -> Factors:
    tensors = artifact.tensors
    u, v, keys = tensors[f"u.{layer}"], tensors[f"v.{layer}"], tensors.get(f"keys.{layer}")
    shaped = u.dim() == v.dim() == 2 and u.shape[1] == v.shape[0]
    if not shaped or (keys is not None and keys.shape != v.shape):
        raise EditCardError(f"the factors of layer {layer} do not fit together")
    return Factors(u.float(), v.float(), None if keys is None else keys.float())


def edit_set_of(card: Mapping[str, Any]) -> EditSet:
    """Return the set that an edit's card names.

    Raises:
        EditCardError, FactError, KeyError, TypeError, ValueError: The card is malformed.
    """
    if card["method"] not in METHODS:
        raise EditCardError(f"'{card['method']}' is no method")
    layers = tuple(int(layer) for layer in card["layers"])
    return EditSet(str(card["name"]), parse_facts(card["facts"]), card["method"], layers)


def _settings(plain: Mapping[str, Any]) -> tuple[Settings, str]:
    contexts = Contexts(**{name: tuple(texts) for name, texts in plain["contexts"].items()})
    recipe, weights = ValueRecipe(**plain["values"]), Weights(**plain["weights"])
    return Settings(contexts, recipe, weights, int(plain["tokens"])), str(plain["corpus"])


def _json(value: Any) -> Any:
    """Return tuples as lists, so that the card equals what is read back."""
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    return [_json(item) for item in value] if isinstance(value, (list, tuple)) else value
