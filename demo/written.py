"""The documents that `python -m demo.monitors` writes, since what they say is chosen or trained."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from demo import dictionary
from demo.dictionary import Latent
from demo.gating import Gating
from demo.known import KNOWN, Known
from demo.probes import RECIPES, Choice
from monitors.pooling import Pool

PROBES, FEATURES, GATED = "probes.yaml", "features.yaml", "gated.yaml"
WATCHED = {"harm": "harmful requests", "refusal": "refusals", "deception": "lies"}
"""What the dictionary's latents are searched for, and the word for it."""

_HEADS = {
    PROBES: "how scores are pooled was chosen on halves of the portion to fit on",
    FEATURES: "an index means one trained dictionary",
    GATED: "the amount and the rate were chosen on what is not held out",
}


def write(folder: Path, name: str, documents: Iterable[str]) -> None:
    """Write the documents of one file of a policy folder."""
    head = f"# Written by `python -m demo.monitors`: {_HEADS[name]}.\n"
    (folder / name).write_text(head + "---\n".join(documents))


def probe_document(name: str, choice: Choice) -> str:
    """Return the document of a probe's monitor."""
    recipe = RECIPES[name]
    document = _monitor(name, recipe.about, f"{{probe: {name}}}", str(recipe.clause), choice.pool)
    return document if name not in KNOWN else document + _probes(KNOWN[name])


def feature_document(name: str, latent: Latent) -> str:
    """Return the document of a latent's monitor."""
    which = (
        f"index: {latent.index}"
        if latent.weight > 0
        else f"indices: [{latent.index}], weights: [-1.0]"
    )
    return _monitor(
        f"{name}-feature",
        f"the latent that tells {WATCHED[name]} best",
        f"{{feature: {{sae: {dictionary.NAME}, {which}}}}}",
        str(RECIPES[name].clause),
        Pool("max"),
    )


def gated_document(gating: Gating) -> str:
    """Return the document of the policy that steers only where harm is seen."""
    return f"""\
apiVersion: trimtab/v1
kind: Policy
metadata: {{name: gated, description: adds the refusal direction only where harm is seen}}
spec:
  mode: enforce
  strength: {{default: 1, min: 0, max: 1.5}}
  monitors:
    harm: {{mode: enforce, fpr: {gating.fpr:g}, do: steer}}
  steer:
    # More than refuse-more adds, since a request in a frame takes more; at a strict rate, since so
    # much would turn a harmless answer too.
    - direction: refusal
      coefficient: {gating.coefficient:g}
      when: {{monitor: harm, fpr: {gating.fpr:g}, scope: request}}
"""


def _monitor(name: str, about: str, read: str, tokens: str, pool: Pool) -> str:
    return (
        "apiVersion: trimtab/v1\n"
        "kind: Monitor\n"
        f'metadata: {{name: {name}, description: "{about}"}}\n'
        "spec:\n"
        f"  read: {read}\n"
        f"  tokens: {tokens}\n"
        f"  pool: {_pool(pool)}\n"
    )


def _probes(known: Known) -> str:
    asked = (("bad", known.bad), ("good", known.good))
    lists = "".join(f"    {kind}:\n{_items(texts)}" for kind, texts in asked)
    return f"  probes:\n{lists}"


def _items(texts: Iterable[str]) -> str:
    return "".join(f'      - "{text}"\n' for text in texts)


def _pool(pool: Pool) -> str:
    return pool.kind if pool.parameter is None else f"{{{pool.kind}: {pool.parameter:g}}}"
