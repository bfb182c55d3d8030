"""Lowering: a solved change to what table rows hold at the sites of edits.

Each rank-one part is a read (a row of V), a write (a column of U) and, where the set asks for it, a
gate on the cosine with the key that the part was made for.
"""

from collections.abc import Mapping

from editing.delta import DeltaError, Factors, LowRankDelta
from forward.columns import Column, Read
from forward.gates import Gate
from forward.hookpoints import HookPoint
from forward.program import SiteContent


def lower(delta: LowRankDelta, match: float | None = None) -> dict[HookPoint, SiteContent]:
    """Return what a row that makes a change holds at each site.

    Args:
        delta: The change.
        match: Act only at tokens whose input has more than this cosine with a part's key.

    Raises:
        DeltaError: ``match`` is given and a layer's keys are not known.
    """
    return {
        (point := HookPoint("mlp", layer)): SiteContent(columns=_columns(point, factors, match))
        for layer, factors in sorted(delta.layers.items())
    }


def _columns(
    point: HookPoint, factors: Factors, match: float | None
) -> tuple[tuple[Column, float], ...]:
    gates: list[Gate | None] = [None] * factors.rank
    if match is not None:
        if factors.keys is None:
            raise DeltaError(
                f"the change at {point} has no keys to match: solve the set again, or leave out "
                "'match'"
            )
        gates = [Gate(point, Read(key / key.norm()), match) for key in factors.keys]
    return tuple(
        (Column(write, Read(read), linear=1.0, gate=gate), 1.0)
        for write, read, gate in zip(factors.u.T, factors.v, gates, strict=True)
    )


def together(contents: list[Mapping[HookPoint, SiteContent]]) -> dict[HookPoint, SiteContent]:
    """Return what a row holds that makes several changes; a part that two have acts once."""
    found: dict[HookPoint, dict[str, tuple[Column, float]]] = {}
    for content in contents:
        for point, site in content.items():
            known = found.setdefault(point, {})
            known |= {column.digest: (column, c) for column, c in site.columns}
    return {point: SiteContent(columns=tuple(known.values())) for point, known in found.items()}
