"""Boot checks on a rank: its sites do what ``forward/`` says.

Raises nothing: a rank reports, the launcher refuses to serve on any fault. That a write reaches the
answers is checked by serving (``service.engine.servecheck``): a dummy run has no attention, and
what stands in its place is whatever the memory held.
"""

from typing import Any

import torch
from torch import Tensor

from forward.columns import Column, Read, set_to
from forward.edit_site import EditSite
from forward.hookpoints import HookPoint
from forward.program import SiteContent
from forward.site import Site
from forward.sites import AnySite
from forward.step import Step
from forward.tables import SiteAllocator, apply_patch

N_TOKENS = 8
SEED = 20


def check_rank(runner: Any) -> dict[str, Any]:
    """Return ``{"faults": [...], "sites": [...]}`` of one rank.

    Two checks a site: with row 0 its delta is exactly zero, so that adding it leaves the residual
    as it is, bit for bit; and with a known row its delta equals the arithmetic written out by hand.
    """
    with torch.inference_mode():
        faults = [f for point, site in runner.sites.items() for f in _check_site(point, site)]
    return {"faults": faults, "sites": [str(point) for point in runner.sites]}


def _check_site(point: HookPoint, site: AnySite) -> list[str]:
    saved = {name: buffer.clone() for name, buffer in site.named_buffers()}
    check = _check_edits if isinstance(site, EditSite) else _check_steering
    faults = check(point, site)  # type: ignore[arg-type] -- each check has its own kind of site
    for name, buffer in site.named_buffers():
        buffer.copy_(saved[name])
    return faults


def _check_edits(point: HookPoint, site: EditSite) -> list[str]:
    """Check one rank's part: a rank-one change beside a slice of the weight."""
    generator, device = torch.Generator().manual_seed(SEED), site.reads.device
    x = torch.randn(N_TOKENS, site.reads.shape[1], generator=generator).to(device)
    step = Step(N_TOKENS, 0, 0, device)
    faults = [] if not site.run(x, step).any() else [f"{point}: row 0 is not silent"]
    if not min(site.capacity.reads, site.capacity.writes) or site.capacity.rows < 2:
        return faults
    read = torch.randn(site.shard.stop, generator=generator)
    write = torch.linspace(-1.0, 1.0, site.writes.shape[1])
    content = SiteContent(columns=((Column(write, Read(read), linear=1.0), 1.0),))
    row, width = site.capacity.rows - 1, site.writes.shape[1]
    books = SiteAllocator(width, site.capacity, str(point), read.shape[0])
    apply_patch(site, books.place([(row, content)]))
    step.rows[:] = row  # both sources ask for it, and it acts once
    part = read.to(device)[site.shard]
    expected = (x @ part).unsqueeze(-1) * write.to(device)
    if not torch.allclose(site.run(x, step), expected, atol=1e-3, rtol=1e-4):
        faults.append(f"{point}: a known edit's part is not what forward/ computes")
    return faults


def _check_steering(point: HookPoint, site: Site) -> list[str]:
    generator = torch.Generator().manual_seed(SEED)
    d_model = site.offsets.shape[1]
    residual = torch.randn(N_TOKENS, d_model, generator=generator).to(site.offsets.device)
    faults: list[str] = []
    step = Step(N_TOKENS, site.first_column + site.capacity.reads, 0, residual.device)
    step.strengths.fill_(1.0)
    if not torch.equal(residual + site.run(residual, step), residual):
        faults.append(f"{point}: row 0 is not silent")
    has_columns = min(site.capacity.reads, site.capacity.writes) > 0
    content, expected = _known_row(residual, d_model, has_columns)
    row = site.capacity.rows - 1
    apply_patch(site, SiteAllocator(d_model, site.capacity, str(point)).place([(row, content)]))
    step.rows[0] = row
    if not torch.allclose(site.run(residual, step), expected, atol=1e-4, rtol=1e-4):
        faults.append(f"{point}: a known row's delta is not what forward/ computes")
    return faults + _check_scores(point, site, residual, step)


def _check_scores(point: HookPoint, site: Site, residual: Tensor, step: Step) -> list[str]:
    """Compare the exported scores, those of the known row's read among them, with the product."""
    expected = residual @ site.reads.T + site.bias
    columns = slice(site.first_column, site.first_column + site.capacity.reads)
    found = step.scores[:N_TOKENS, columns]
    if not torch.allclose(found, expected[:, : site.capacity.reads], atol=1e-4, rtol=1e-4):
        return [f"{point}: exported scores are not those of the reads"]
    return []


def _known_row(residual: Tensor, d_model: int, has_columns: bool) -> tuple[SiteContent, Tensor]:
    """Return an offset plus, if there is room, a ``set``; and by hand what they give."""
    unit = torch.ones(d_model, device=residual.device) / d_model**0.5
    offset = torch.linspace(-1.0, 1.0, d_model, device=residual.device)
    expected = offset.expand_as(residual)
    if not has_columns:
        return SiteContent(offset), expected
    column = set_to(Read(unit), unit, value=3.0)
    moved = (3.0 - residual @ unit).unsqueeze(-1) * unit
    return SiteContent(offset, ((column, 1.0),)), expected + moved
