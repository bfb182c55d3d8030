"""Plots of cards as inline SVG; colours come from the page's style, words from the caller."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH = 850
LABEL = 230
"""Width of a plot, and of the words at its left, in SVG units."""
VALUE = 130
ROW = 24
_CHARACTERS = 30
"""Of a label, before it is cut."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A labelled length; ``note`` stands behind it."""

    label: str
    value: float
    note: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A metric before and after: estimates with ``value``, ``low`` and ``high``, or nothing."""

    label: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


def limit_plot(figure: float, limit: float, at_least: bool, start: float, title: str) -> str:
    """Return a figure on its own scale, with its limit and the side that refuses.

    Args:
        figure: What was measured.
        limit: The worst that is let through.
        at_least: Whether smaller figures than the limit are refused, not larger ones.
        start: Where the scale begins, unless the figure is less.
        title: What the plot says, for who does not see it.
    """
    width, height = 240, 20
    low = min(start, figure, limit)
    high = low + (max(figure, limit) - low) * 1.15 or low + 1.0

    def x(value: float) -> float:
        return round((value - low) / (high - low) * width, 1)

    zone = (0.0, x(limit)) if at_least else (x(limit), width - x(limit))
    refused = figure < limit if at_least else figure > limit
    bar = max(2.0, x(figure))
    return _svg(
        width,
        height,
        title,
        f'<rect class="track" width="{width}" height="{height}"/>',
        f'<rect class="zone" x="{zone[0]}" width="{max(0.0, zone[1]):.1f}" height="{height}"/>',
        f'<rect class="{"over" if refused else "bar"}" y="6" width="{bar}" height="8"/>',
        f'<line class="limit" x1="{x(limit)}" x2="{x(limit)}" y1="0" y2="{height}"/>',
    )


def bar_plot(bars: Sequence[Bar], title: str) -> str:
    """Return labelled bars on one scale from 0."""
    longest = max([bar.value for bar in bars if bar.value > 0], default=1.0)
    room = WIDTH - LABEL - VALUE
    parts: list[str] = []
    for number, bar in enumerate(bars):
        top = number * ROW
        length = max(1.5, room * max(0.0, bar.value) / longest)
        parts += [
            _label(bar.label, top),
            f'<rect class="track" x="{LABEL}" y="{top + 5}" width="{room}" height="14"/>',
            f'<rect class="bar" x="{LABEL}" y="{top + 5}" width="{length:.1f}" height="14"/>',
            f'<text class="note" x="{WIDTH - VALUE + 8}" y="{top + 16}">{escape(bar.note)}</text>',
        ]
    return _svg(WIDTH, max(ROW, len(bars) * ROW), title, *parts)


def pair_plot(pairs: Sequence[Pair], low: float, high: float, title: str) -> str:
    """Return metrics before and after with their intervals, on one scale."""
    room = WIDTH - LABEL - 20
    height = len(pairs) * (ROW + 8) + 22

    def x(value: float) -> float:
        inside = min(max(value, low), high)
        return round(LABEL + (inside - low) / (high - low) * room, 1)

    parts: list[str] = []
    for tick in (low, (low + high) / 2, high):
        parts += [
            f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="0" y2="{height - 18}"/>',
            f'<text class="note tick" x="{x(tick)}" y="{height - 4}">{tick:g}</text>',
        ]
    for number, pair in enumerate(pairs):
        top = number * (ROW + 8)
        parts.append(_label(pair.label, top + 4))
        parts += _estimate(pair.before, "before", x, top + 10)
        parts += _estimate(pair.after, "after", x, top + 22)
    return _svg(WIDTH, height, title, *parts)


def _estimate(
    estimate: Mapping[str, Any] | None, side: str, x: Callable[[float], float], y: int
) -> list[str]:
    """Return an estimate's interval and its mark: a square before, a disc after."""
    if estimate is None or estimate["value"] is None:
        return []
    at = x(estimate["value"])
    mark = (
        f'<circle class="after" cx="{at}" cy="{y}" r="4.5"/>'
        if side == "after"
        else f'<rect class="before" x="{at - 4}" y="{y - 4}" width="8" height="8"/>'
    )
    left, right = estimate["low"], estimate["high"]
    if left is None or right is None:  # of a single case nothing is known
        return [mark]
    return [f'<line class="{side}" x1="{x(left)}" x2="{x(right)}" y1="{y}" y2="{y}"/>', mark]


def _label(text: str, top: float) -> str:
    short = text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 1] + "…"
    return f'<text x="0" y="{top + 16}">{escape(short)}<title>{escape(text)}</title></text>'


def _svg(width: int, height: int, title: str, *parts: str) -> str:
    return (
        f'<svg role="img" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
