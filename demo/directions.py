"""The demo's directions: `python -m demo.directions` makes them from the training split.

Each is the mean difference of contrast pairs at the last prompt token. That is where the demo model
decides how its answer opens, so the cards say `last_prompt`.
"""

import argparse
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.pairs import DIRECTIONS, contrast_pairs
from forward.clauses import TokenClause
from forward.fingerprint import model_fingerprint
from steering.defaults import Defaults
from steering.extract import extract
from steering.library import save_direction
from steering.pairs import ContrastPair

HERE = Path(__file__).parent
N_PAIRS = 256
LAYERS = {"formal": 3, "casual": 3, "refusal": 4}


def make_directions(checkpoint: Path, folder: Path) -> list[Path]:
    """Extract every direction of the demo and write its artifact into ``folder``."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    fingerprint = model_fingerprint(checkpoint).digest
    return [
        save_direction(
            extract(
                model,
                tokenizer,
                [ContrastPair(tuple(a), tuple(b)) for a, b in contrast_pairs(name, N_PAIRS)],
                name=name,
                fingerprint=fingerprint,
                defaults=Defaults((LAYERS[name],), tokens=TokenClause("last_prompt")),
            ),
            folder,
        )
        for name in DIRECTIONS
    ]


def main() -> None:
    """Make the directions of a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=HERE / "checkpoint")
    parser.add_argument("--out", type=Path, default=HERE / "policies" / "artifacts")
    options = parser.parse_args()
    for path in make_directions(options.checkpoint, options.out):
        print(path)  # noqa: T201


if __name__ == "__main__":
    main()
