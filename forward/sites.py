"""All sites of a model: what stands at each hook point, and where each one's scores are.

Only the residual stream's scores are exported: no monitor reads inside an MLP.
"""

from collections.abc import Mapping
from itertools import accumulate

import torch

from forward.edit_site import EditSite
from forward.hookpoints import HookPoint
from forward.site import Capacity, Site

AnySite = Site | EditSite


def make_sites(
    d_model: int,
    capacities: Mapping[HookPoint, Capacity],
    device: torch.device | str = "cpu",
    d_mlp: int = 0,
) -> dict[HookPoint, AnySite]:
    """Make an empty site at every hook point, numbered in order of execution.

    Args:
        d_model: Width of the residual.
        capacities: Sizes of each site's tables.
        device: Where they lie.
        d_mlp: Width of the input of an MLP's last projection.
    """
    firsts = first_columns(capacities)
    sites: dict[HookPoint, AnySite] = {}
    for number, point in enumerate(sorted(capacities)):
        size = capacities[point]
        sites[point] = (
            EditSite(d_mlp, d_model, size, device, number)
            if point.is_edit
            else Site(d_model, size, device, number, firsts[point])
        )
    return sites


def first_columns(capacities: Mapping[HookPoint, Capacity]) -> dict[HookPoint, int]:
    """Return where each site's scores begin among the exported ones, in order of execution."""
    points = sorted(point for point in capacities if not point.is_edit)
    begins = accumulate((capacities[point].reads for point in points), initial=0)
    return dict(zip(points, begins, strict=False))


def n_columns(capacities: Mapping[HookPoint, Capacity]) -> int:
    """Return how many exported scores a token has over all sites."""
    return sum(size.reads for point, size in capacities.items() if not point.is_edit)
