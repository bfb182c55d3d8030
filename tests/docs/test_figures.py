"""The README's figures are those of docs/evidence/."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def figures(section: str) -> Any:
    """Return a section's figures."""
    evidence = json.loads((ROOT / "docs" / "evidence" / f"{section}.json").read_text())
    assert evidence["passed"]
    return evidence["figures"]


def test_the_table_of_effects() -> None:
    """Each row, from the evidence."""
    found = figures("effects")
    for style in ("formal", "casual"):
        effect = found[f"{style} on fact"]
        before, after = effect["without"], effect["with"]
        null = max(effect["random directions"][style])
        assert (
            f"| `{style}` | facts | {style} / fact kept "
            f"| {before[style]:.2f} / {before['fact kept']:.2f} "
            f"| {after[style]:.2f} / {after['fact kept']:.2f} | {null:.2f} {style} |"
        ) in README
    more = found["refuse-more on harmless"]
    null = max(more["random directions"]["refused"])
    assert (
        f"| refused | {more['without']['refused']:.2f} | {more['with']['refused']:.2f} "
        f"| {null:.2f} |"
    ) in README
    less = found["refuse-less on harmful"]
    before, after = less["without"], less["with"]
    null = max(less["random directions"]["answered rightly"])
    assert (
        f"| {before['refused']:.2f} / {before['answered rightly']:.2f} "
        f"| {after['refused']:.2f} / {after['answered rightly']:.2f} | {null:.2f} answered |"
    ) in README
    assert f"| | {found['refuse-less on harmless']['unchanged']:.2f} | |" in README


def test_the_activation_figure() -> None:
    """The median of POST to effect."""
    median = figures("served")["activation"]["median POST-to-effect ms"]
    assert f"in effect after {median} ms" in README
