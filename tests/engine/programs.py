"""Programs that differ in every way a policy can: hook point, kind of write, token clause."""

import torch

from forward.clauses import TokenClause, regions
from forward.columns import Column, Read, bound, constant, linear, plane, set_to
from forward.hookpoints import HookPoint
from forward.program import Program, RowContent, SiteContent
from forward.site import Capacity

POINTS = (HookPoint("resid_post", 1), HookPoint("resid_pre", 3), HookPoint("resid_post", 3))
CAPACITIES = dict.fromkeys(POINTS, Capacity(rows=160, reads=96, writes=96))

CLAUSES = (
    TokenClause("all"),
    TokenClause("prompt"),
    TokenClause("last_prompt"),
    TokenClause("generation"),
    TokenClause("generation", 3),
)


def unit(d_model: int, seed: int) -> torch.Tensor:
    """Return a random unit vector."""
    vector = torch.randn(d_model, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def columns(kind: str, d_model: int, seed: int, scale: float) -> tuple[Column, ...]:
    """Return the write columns of a kind, along random units."""
    first = unit(d_model, seed)
    second = unit(d_model, seed + 1)
    second = second - (second @ first) * first
    second = second / second.norm()
    read = Read(first)
    made = {
        "norm_add": (constant(first).measured_by_norm(),),
        "ablate": (linear(read, first),),
        "clamp": (bound(read, first, -0.1 * scale, 0.1 * scale),),
        "set": (set_to(read, first, scale),),
        "rotate": plane(read, Read(second), 70.0),
        "feature": (set_to(Read(first, -0.05), second, scale, floor=0.0),),
    }
    return made[kind]


KINDS = ("add", "norm_add", "ablate", "clamp", "set", "rotate", "feature")


def program(
    kind: str = "add",
    clause: TokenClause = CLAUSES[0],
    point: HookPoint = POINTS[0],
    seed: int = 0,
    scale: float = 3.0,
    d_model: int = 128,
) -> Program:
    """Return a program that does one thing on the tokens of one clause."""
    if kind == "add":
        content = SiteContent(offset=scale * unit(d_model, seed))
    else:
        amount = scale if kind == "norm_add" else 1.0
        content = SiteContent(
            columns=tuple((c, amount) for c in columns(kind, d_model, seed, scale))
        )
    cut = regions([clause])
    rows = (RowContent({point: content}) if clause.covers(r) else RowContent() for r in cut)
    return Program(cut, tuple(rows))


def varied(count: int, d_model: int = 128) -> list[Program]:
    """Return programs over all kinds, clauses and hook points in turn."""
    return [
        program(
            KINDS[i % len(KINDS)],
            CLAUSES[i % len(CLAUSES)],
            POINTS[i % len(POINTS)],
            seed=100 + 2 * i,
            scale=2.0 + 0.5 * (i % 4),
            d_model=d_model,
        )
        for i in range(count)
    ]
