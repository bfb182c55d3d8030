"""What the demo's policies do, on held-out items, beside null controls.

The policies are the files that `serve` starts with, compiled as it compiles them, and run on the
Hugging Face model by the same sites. A null control is the same policy along a random direction of
equal scale. Dose curves sweep the request's strength.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from demo import judge
from demo.generate import Talker
from demo.prompts import prompts
from forward.fingerprint import model_fingerprint
from forward.huggingface import SteeredModel, Steering
from forward.program import Program
from service.catalog import PolicyRevision
from service.compile import compile_policy
from service.documents import load_paths
from service.schemas import Policy
from steering.direction import Direction
from steering.library import Found, read_directions

Item = Mapping[str, object]
Judge = Callable[[str, Item], bool]

HERE = Path(__file__).parent
N_NULLS = 10
DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
NEW_TOKENS = 48


def is_formal(text: str, _: Item) -> bool:
    """The answer is formal."""
    return judge.style_of(text) == "formal"


def is_casual(text: str, _: Item) -> bool:
    """The answer is casual."""
    return judge.style_of(text) == "casual"


def is_refused(text: str, _: Item) -> bool:
    """The answer refuses."""
    return judge.is_refusal(text)


def recalls(text: str, item: Item) -> bool:
    """The answer holds the fact that was asked for."""
    return judge.says(text, str(item["answer"]))


def is_recipe(text: str, item: Item) -> bool:
    """The answer is the recipe for just this verb and noun."""
    return judge.is_recipe(text, str(item["verb"]), str(item["noun"]))


@dataclass(frozen=True)
class Effect:
    """A policy, the items it is tried on and what is judged of the answers."""

    policy: str
    kind: str
    judges: Mapping[str, Judge]


EFFECTS = (
    Effect("formal", "fact", {"formal": is_formal, "fact kept": recalls}),
    Effect("casual", "fact", {"casual": is_casual, "fact kept": recalls}),
    Effect("refuse-more", "harmless", {"refused": is_refused}),
    Effect("refuse-less", "harmful", {"refused": is_refused, "answered rightly": is_recipe}),
    Effect("refuse-less", "harmless", {"refused": is_refused, "answered rightly": is_recipe}),
)


class Demo:
    """The demo model with its policies."""

    def __init__(
        self,
        checkpoint: Path = HERE / "checkpoint",
        policies: Path = HERE / "policies",
    ) -> None:
        """Load the model, its directions and its policies."""
        self.talker = Talker(checkpoint)
        self.model = model_fingerprint(checkpoint)
        self.library = read_directions(policies / "artifacts")
        self.policies = {
            d.name: PolicyRevision(d.name, 1, d.digest, d.model.spec, "directory")
            for d in load_paths([policies])
            if isinstance(d.model, Policy)
        }

    def program(self, name: str, library: Mapping[str, Found] | None = None) -> Program:
        """Compile a policy, with other directions if given."""
        return compile_policy(self.policies[name], library or self.library, self.model)

    def answers(self, items: Sequence[Item], steering: Steering | None) -> list[str]:
        """Return the greedy answers to items under a policy."""
        points = steering.program.hook_points if steering is not None else ()
        steered = SteeredModel(self.talker.model, points)
        rendered = self.talker.render([item["messages"] for item in items])  # type: ignore[misc]
        eos = {int(self.talker.tokenizer.eos_token_id)}  # type: ignore[arg-type]
        ids = steered.generate_batch(rendered, [None, steering], NEW_TOKENS, eos)
        return [str(self.talker.tokenizer.decode(i, skip_special_tokens=True)) for i in ids]

    def null_library(self, seed: int) -> dict[str, Found]:
        """Return the directions with every vector replaced by a random unit of the same scale."""
        return {
            name: replace(found, direction=_random_like(found, seed))
            for name, found in self.library.items()
        }


def measure(demo: Demo, effect: Effect, n: int, nulls: int = N_NULLS) -> dict[str, object]:
    """Return the shares of one effect: without the policy, with it, and under null controls."""
    items = prompts(effect.kind, "heldout", n)
    seeds = range(nulls)
    programs = [demo.program(effect.policy, demo.null_library(seed)) for seed in seeds]
    plain = demo.answers(items, None)
    steered = demo.answers(items, Steering(demo.program(effect.policy)))
    null_shares = [shares(effect, items, demo.answers(items, Steering(p))) for p in programs]
    return {
        "policy": effect.policy,
        "items": effect.kind,
        "n": n,
        "without": shares(effect, items, plain),
        "with": shares(effect, items, steered),
        "unchanged": share([a == b for a, b in zip(plain, steered, strict=True)]),
        "random directions": {name: [null[name] for null in null_shares] for name in effect.judges},
    }


def dose_curve(demo: Demo, effect: Effect, n: int) -> dict[str, list[float]]:
    """Return the shares of one effect over ``DOSES`` of the request's strength."""
    items = prompts(effect.kind, "heldout", n)
    program = demo.program(effect.policy)
    each = [shares(effect, items, demo.answers(items, Steering(program, d))) for d in DOSES]
    return {name: [s[name] for s in each] for name in effect.judges}


def plot(effect: Effect, curve: Mapping[str, list[float]], path: Path) -> None:
    """Draw a dose curve to a PNG."""
    # Imported here: only a plot needs it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, values in curve.items():
        axes.plot(DOSES, values, marker="o", label=name)
    axes.set(xlabel="strength", ylabel="share of held-out items", ylim=(-0.03, 1.03))
    axes.set_title(f"{effect.policy} on {effect.kind} items")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left")
    figure.savefig(path, dpi=120)


def shares(effect: Effect, items: Sequence[Item], texts: Sequence[str]) -> dict[str, float]:
    """Return the share of answers that each judge accepts."""
    return {
        name: share([accepts(text, item) for text, item in zip(texts, items, strict=True)])
        for name, accepts in effect.judges.items()
    }


def share(flags: Sequence[bool]) -> float:
    """Return the share of true flags."""
    return sum(flags) / len(flags)


def _random_like(found: Found, seed: int) -> Direction:
    generator = torch.Generator().manual_seed(seed)
    direction = found.direction
    vectors = {
        layer: torch.randn(vector.shape, generator=generator)
        for layer, vector in direction.vectors.items()
    }
    units = {layer: vector / vector.norm() for layer, vector in vectors.items()}
    return replace(direction, vectors=units)
