"""Drawings of what the proofs of edits measure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PANELS = {
    "ES": "efficacy of all edits so far",
    "same_subject": "other relations of edited subjects",
    "others": "facts of others",
    "perplexity": "perplexity over before",
}


def draw_sequence(curves: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw each metric over the number of edits, a line a method, to a PNG."""
    # Imported here: only a drawing needs it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.6), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for method, curve in curves.items():
            stops = [int(n) for n in curve]
            values = [found[metric]["value"] for found in curve.values()]
            axes.plot(stops, values, marker="o", label=method)
        axes.set(xlabel="edits in sequence", title=title)
        axes.grid(alpha=0.3)
        if metric == "perplexity":
            axes.set_yscale("log")
        else:
            axes.set_ylim(-0.03, 1.03)
    figure.axes[0].legend(loc="lower left")
    figure.savefig(path, dpi=120)
