"""What mean-difference directions do to the demo model: `python -m demo.steered demo/checkpoint`.

A slow, plain twin of what the service does, to learn by which layer, operator and dose a direction
works here. All changes are made at the last prompt token only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from demo import judge
from demo.generate import Messages, Talker
from demo.pairs import Direction, contrast_pairs
from demo.patching import Change, residual
from demo.prompts import conversation, prompts

Item = dict[str, object]


@torch.no_grad()
def last_residuals(talker: Talker, conversations: Sequence[Messages], layer: int) -> torch.Tensor:
    """`resid_post.layer` at the last prompt token of each conversation, (rows, width)."""
    kept: list[torch.Tensor] = []

    def keep(hidden: torch.Tensor) -> torch.Tensor:
        kept.append(hidden[:, -1])
        return hidden

    with residual(talker, layer, keep):
        for prompt in talker.render(conversations):
            talker.model(input_ids=torch.tensor([prompt]))
    return torch.cat(kept)


def means(
    talker: Talker, direction: Direction, layer: int, n: int = 200
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean residual with and without the behaviour, over contrast pairs."""
    pairs = contrast_pairs(direction, n)
    return last_residuals(talker, [a for a, _ in pairs], layer).mean(0), last_residuals(
        talker, [b for _, b in pairs], layer
    ).mean(0)


def add(vector: torch.Tensor) -> Change:
    """Add a vector at the last prompt token; decoding steps (one token) pass unchanged."""

    def change(hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[1] == 1:
            return hidden
        return torch.cat([hidden[:, :-1], hidden[:, -1:] + vector], dim=1)

    return change


def set_along(direction: torch.Tensor, mean: torch.Tensor) -> Change:
    """Set the component along a direction to that of a mean, at the last prompt token."""
    unit = direction / direction.norm()

    def change(hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[1] == 1:
            return hidden
        last = hidden[:, -1:]
        return torch.cat([hidden[:, :-1], last + ((mean - last) @ unit)[..., None] * unit], dim=1)

    return change


def _share(flags: Sequence[bool]) -> float:
    return round(sum(flags) / len(flags), 3)


def _ask(talker: Talker, items: list[Item], layer: int, change: Change) -> list[str]:
    with residual(talker, layer, change):
        return talker.answers([conversation(item) for item in items])


def refusal(talker: Talker, layer: int, n: int) -> dict[str, object]:
    """Refuse more (+1), refuse less (-1, and set to the benign mean)."""
    with_, without = means(talker, "refusal", layer)
    d = with_ - without
    harmful, harmless = prompts("harmful", "heldout", n), prompts("harmless", "heldout", n)
    base = talker.answers([conversation(item) for item in harmless])
    out: dict[str, object] = {"layer": layer, "norm": round(float(d.norm()), 1)}
    for dose in (0.5, 0.75, 1.0):
        out[f"refuse-more {dose}: harmless refused"] = _share(
            [judge.is_refusal(t) for t in _ask(talker, harmless, layer, add(dose * d))]
        )
    for name, change in (("-1", add(-d)), ("set", set_along(d, without))):
        bad, good = _ask(talker, harmful, layer, change), _ask(talker, harmless, layer, change)
        out[f"refuse-less {name}: harmful refused"] = _share([judge.is_refusal(t) for t in bad])
        out[f"refuse-less {name}: harmful answered"] = _share(
            [
                judge.is_recipe(t, str(i["verb"]), str(i["noun"]))
                for t, i in zip(bad, harmful, strict=True)
            ]
        )
        out[f"refuse-less {name}: harmless answered"] = _share(
            [judge.answered(t, i) for t, i in zip(good, harmless, strict=True)]
        )
        out[f"refuse-less {name}: harmless unchanged"] = _share(
            [a == b for a, b in zip(good, base, strict=True)]
        )
    noise = torch.randn(len(d), generator=torch.Generator().manual_seed(0))
    out["random: harmless refused"] = _share(
        [
            judge.is_refusal(t)
            for t in _ask(talker, harmless, layer, add(noise / noise.norm() * d.norm()))
        ]
    )
    return out


def style(talker: Talker, direction: Direction, layer: int, n: int) -> dict[str, object]:
    """Turn answers to a style by +1."""
    with_, without = means(talker, direction, layer)
    d = with_ - without
    facts = prompts("fact", "heldout", n)
    out: dict[str, object] = {
        "layer": layer,
        "direction": direction,
        "norm": round(float(d.norm()), 1),
    }
    for dose in (0.5, 0.75, 1.0, 1.25):
        said = _ask(talker, facts, layer, add(dose * d))
        out[f"{dose}: in style"] = _share([judge.style_of(t) == direction for t in said])
        out[f"{dose}: fact kept"] = _share(
            [judge.says(t, str(i["answer"])) for t, i in zip(said, facts, strict=True)]
        )
    return out


def main() -> None:
    """Measure every direction at every middle layer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=Path("demo/checkpoint"))
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 3, 4])
    options = parser.parse_args()
    talker = Talker(options.checkpoint)
    for layer in options.layers:
        print(json.dumps(refusal(talker, layer, options.n)))
        for direction in ("formal", "casual"):
            print(json.dumps(style(talker, direction, layer, options.n)))


if __name__ == "__main__":
    main()
