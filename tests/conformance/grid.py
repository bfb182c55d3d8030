"""Every operation, unit, token clause and several coefficients, lowered as a policy's are."""

from dataclasses import dataclass
from itertools import product

import torch

from forward.clauses import TokenClause, regions
from forward.columns import Read, set_to
from forward.hookpoints import HookName, HookPoint
from forward.program import Program, RowContent, SiteContent
from forward.site import Capacity
from steering.defaults import Defaults, Unit
from steering.direction import Direction, Provenance
from steering.lower import Ablate, Add, Clamp, Operation, Rotate, Set, Term, lower
from tests.models import D_MODEL, N_LAYERS

POINTS = tuple(
    HookPoint(name, layer) for layer in range(N_LAYERS) for name in ("resid_pre", "resid_post")
)
CAPACITIES = dict.fromkeys(POINTS, Capacity(rows=72, reads=96, writes=96))
"""Rows for one ``batches`` at a time."""

CLAUSES = (
    TokenClause("all"),
    TokenClause("prompt"),
    TokenClause("last_prompt"),
    TokenClause("generation"),
    TokenClause("generation", 2),
)
UNITS: tuple[Unit, ...] = ("natural", "absolute", "residual_norm")
SCALE = 2.5


def direction(name: str, seed: int, hook: HookName) -> Direction:
    """Return a random direction with a vector at every layer."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(N_LAYERS, D_MODEL, generator=generator)
    units = vectors / vectors.norm(dim=-1, keepdim=True)
    layers = range(N_LAYERS)
    return Direction(
        name=name,
        hook=hook,
        model="0" * 64,
        vectors={layer: units[layer] for layer in layers},
        scale=dict.fromkeys(layers, SCALE),
        defaults=Defaults((1,)),
        provenance=Provenance("algebra"),
    )


@dataclass(frozen=True, eq=False)
class Case:
    """A program and what it does, for messages."""

    name: str
    program: Program
    point: HookPoint


def operations(unit: Unit, hook: HookName) -> dict[str, Operation]:
    """Return the operations whose numbers are in ``unit``, sized to matter in a tiny model."""
    size = {"natural": 1.0, "absolute": 2.0, "residual_norm": 0.3}[unit]
    measured: dict[str, Operation] = {
        "add": Add(),
        "clamp": Clamp(0.3 * size, 0.302 * size),
        "clamp-max": Clamp(high=-3.0 * size),
        "set": Set(size),
    }
    other = direction("other", 2, hook)
    unmeasured: dict[str, Operation] = {"ablate": Ablate(), "rotate": Rotate(70.0, other)}
    return measured | unmeasured if unit == "natural" else measured


def feature(coefficient: float, point: HookPoint) -> SiteContent:
    """Return a set SAE feature: read by its encoder above a threshold, written by its decoder."""
    encoder = direction("encoder", 3, point.name).vectors[point.layer]
    decoder = direction("decoder", 4, point.name).vectors[point.layer]
    return SiteContent(None, ((set_to(Read(encoder, -0.1), decoder, 3.0, floor=0.2), coefficient),))


def on_clause(content: SiteContent, clause: TokenClause, point: HookPoint) -> Program:
    """Return the program that writes ``content`` on the tokens of one clause."""
    cut = regions([clause])
    filled = RowContent({point: content})
    return Program(cut, tuple(filled if clause.covers(r) else RowContent() for r in cut))


def cases(coefficients: tuple[float, ...] = (1.0, -0.5, 3.0)) -> list[Case]:
    """Return the grid; hook points are taken in turn.

    With ``coefficients`` of length 1 it is a sample: one coefficient for each combination.
    """
    kinds = [(unit, name) for unit in UNITS for name in operations(unit, "resid_post")]
    kinds.append(("absolute", "feature"))
    found: list[Case] = []
    for (unit, name), coefficient, clause in product(kinds, coefficients, CLAUSES):
        point = POINTS[(5 * len(found)) % len(POINTS)]
        content = _content(unit, name, coefficient, point)
        label = f"{name} {coefficient:+g} {unit} on {clause} at {point}"
        found.append(Case(label, on_clause(content, clause, point), point))
    return found


def _content(unit: Unit, name: str, coefficient: float, point: HookPoint) -> SiteContent:
    if name == "feature":
        return feature(coefficient, point)
    steer = direction("steer", 1, point.name)
    operation = operations(unit, point.name)[name]
    content = lower([Term(steer, point.layer, operation, coefficient, unit)])
    if content is None:
        raise AssertionError(f"{name} with coefficient {coefficient} lowered to nothing")
    return content
