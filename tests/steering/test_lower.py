"""Every operation through the site that serves it, against its definition."""

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from forward.program import SiteContent
from steering.defaults import Unit
from steering.direction import Direction
from steering.lower import Ablate, Add, Clamp, LoweringError, Operation, Rotate, Set, Term, lower
from tests.steering.toys import direction, effect, random_direction, residuals

D = 16
UNITS: tuple[Unit, ...] = ("natural", "absolute", "residual_norm")
A, B, C = (random_direction(seed, D, 1, name=f"d{seed}") for seed in (0, 1, 2))


def yardstick(a: Direction, unit: Unit, r: Tensor) -> float:
    return {"natural": a.scale[0], "absolute": 1.0, "residual_norm": float(r.norm())}[unit]


def defined(term: Term, r: Tensor) -> Tensor:
    """What the operation means for one residual, in float64."""
    u, k = term.direction.vectors[0].double(), yardstick(term.direction, term.unit, r)
    s = float(r @ u)
    match term.operation:
        case Add():
            return term.coefficient * k * u
        case Ablate():
            return -term.coefficient * s * u
        case Clamp(low, high):
            return term.coefficient * (min(max(s, low * k), high * k) - s) * u
        case Set(value):
            return term.coefficient * (value * k - s) * u
        case Rotate(degrees, toward):
            v = toward.vectors[0].double()
            v = (v - (v @ u) * u) / (v - (v @ u) * u).norm()
            angle = math.radians(degrees)
            x, y = s, float(r @ v)
            turned = (x * math.cos(angle) - y * math.sin(angle)) * u + (
                x * math.sin(angle) + y * math.cos(angle)
            ) * v
            return term.coefficient * (turned - x * u - y * v)


def check(content: SiteContent | None, expected: Tensor, r: Tensor, strength: float = 1.0) -> None:
    found = effect(content, r.float(), strength).double()
    size = (expected.norm(dim=-1) + r.norm(dim=-1)).unsqueeze(-1)
    assert float(((found - expected) / size).abs().max()) < 3e-6


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("coefficient", [1.0, 0.5, -1.0, 3.0])
@pytest.mark.parametrize(
    "operation",
    [
        Add(),
        Ablate(),
        Clamp(-0.05, 0.02),
        Clamp(low=0.1),
        Clamp(high=-0.1),
        Set(0.3),
        Set(0.0),
        Rotate(30, B),
        Rotate(-110, B),
    ],
    ids=str,
)
def test_operation_does_what_its_definition_says(
    operation: Operation, coefficient: float, unit: Unit
):
    term = Term(A, 0, operation, coefficient, unit)
    r = residuals(D).double()
    expected = torch.stack([defined(term, row) for row in r])
    check(lower([term]), expected, r)
    check(lower([term]), 0.7 * expected, r, strength=0.7)


def test_units_differ():
    found = [effect(lower([Term(A, 0, Add(), 1.0, unit)]), residuals(D)) for unit in UNITS]
    assert float((found[0] - found[1]).abs().max()) > 1
    norms = found[2].norm(dim=-1) / residuals(D).norm(dim=-1)
    assert torch.allclose(norms, torch.ones_like(norms), rtol=1e-5)


def test_closed_forms_in_the_plane():
    x, y = direction([2.0, 0.0]), direction([0.0, 1.0])
    r = torch.tensor([[3.0, 4.0]])
    cases: list[tuple[Operation, Unit, list[float]]] = [
        (Add(), "natural", [5.0, 4.0]),
        (Add(), "absolute", [4.0, 4.0]),
        (Add(), "residual_norm", [8.0, 4.0]),
        (Ablate(), "natural", [0.0, 4.0]),
        (Clamp(high=1.0), "natural", [2.0, 4.0]),
        (Clamp(high=1.0), "absolute", [1.0, 4.0]),
        (Clamp(high=0.2), "residual_norm", [1.0, 4.0]),
        (Set(-1.0), "natural", [-2.0, 4.0]),
        (Set(-1.0), "residual_norm", [-5.0, 4.0]),
        (Rotate(90, y), "natural", [-4.0, 3.0]),
        (Rotate(180, y), "natural", [-3.0, -4.0]),
    ]
    for operation, unit, expected in cases:
        content = lower([Term(x, 0, operation, 1.0, unit)])
        assert torch.allclose(r + effect(content, r), torch.tensor([expected]), atol=1e-5)


def test_rotation_keeps_the_norm_and_what_is_outside_its_plane():
    r = residuals(D)
    turned = r + effect(lower([Term(A, 0, Rotate(73, B))]), r)
    assert torch.allclose(turned.norm(dim=-1), r.norm(dim=-1), rtol=1e-5)
    basis = torch.linalg.qr(torch.stack([A.vectors[0], B.vectors[0]]).T)[0]
    outside = torch.eye(D) - basis @ basis.T
    assert torch.allclose(turned @ outside, r @ outside, atol=1e-4)


def test_rotation_starts_at_the_direction_and_goes_towards_the_other():
    r = A.vectors[0].unsqueeze(0)
    turned = r + effect(lower([Term(A, 0, Rotate(20, B))]), r)
    assert float(turned @ A.vectors[0]) == pytest.approx(math.cos(math.radians(20)), abs=1e-5)
    assert float(turned @ B.vectors[0]) > float(r @ B.vectors[0])


def test_several_ablations_project_out_their_span():
    r = residuals(D)
    terms = [Term(d, 0, Ablate()) for d in (A, B, C)]
    basis = torch.linalg.qr(torch.stack([t.vector.double() for t in terms]).T)[0]
    expected = -(r.double() @ basis) @ basis.T
    for order in permutations(terms):
        check(lower(order), expected, r.double())
    left = r + effect(lower(terms), r)
    for term in terms:
        assert float((left @ term.vector).abs().max()) < 1e-4
    one_by_one = sum(effect(lower([t]), r) for t in terms)
    assert float((one_by_one - expected).abs().max()) > 1  # summing them would be wrong


def test_partial_ablations_scale_the_projection():
    r = residuals(D)
    half = effect(lower([Term(d, 0, Ablate(), 0.5) for d in (A, B)]), r)
    full = effect(lower([Term(d, 0, Ablate()) for d in (A, B)]), r)
    assert torch.allclose(half, full / 2, atol=1e-4)


def test_ablation_named_twice_counts_once_and_the_largest_coefficient_wins():
    r = residuals(D)
    once = effect(lower([Term(A, 0, Ablate())]), r)
    assert torch.equal(effect(lower([Term(A, 0, Ablate()), Term(-A, 0, Ablate())]), r), once)
    mixed = lower([Term(A, 0, Ablate(), 0.5), Term(A, 0, Ablate(), 1.0)])
    assert torch.equal(effect(mixed, r), once)


def test_an_ablation_alone_shares_its_column_with_one_in_a_span():
    alone = lower([Term(A, 0, Ablate())])
    both = lower([Term(A, 0, Ablate(), 1.0), Term(B, 0, Ablate(), 0.5)])
    assert alone is not None
    assert both is not None
    assert alone.columns[0][0].digest in {column.digest for column, _ in both.columns}


def test_adds_sum_into_one_offset():
    terms = [Term(A, 0, Add(), 2.0), Term(B, 0, Add(), -0.5), Term(C, 0, Add(), 3.0, "absolute")]
    content = lower(terms)
    assert content is not None
    assert content.offset is not None
    assert not content.columns
    expected = 2 * A.natural(0) - 0.5 * B.natural(0) + 3 * C.vectors[0].double()
    assert torch.allclose(content.offset.double(), expected, rtol=1e-6, atol=1e-6)


def test_scaling_the_direction_the_coefficient_or_the_strength_is_one_thing():
    r = residuals(D)
    by_coefficient = effect(lower([Term(A, 0, Add(), 20.0)]), r)
    assert torch.equal(effect(lower([Term(A * 20, 0, Add())]), r), by_coefficient)
    assert torch.equal(effect(lower([Term(-(A * -20), 0, Add())]), r), by_coefficient)
    by_strength = effect(lower([Term(A, 0, Add())]), r, strength=20.0)
    assert torch.allclose(by_strength, by_coefficient, rtol=1e-6)


@pytest.mark.parametrize(
    "terms",
    [
        [],
        *[
            [Term(A, 0, op, 0.0, unit)]
            for op in (Add(), Ablate(), Clamp(0, 1), Set(1), Rotate(9, B))
            for unit in UNITS
        ],
        [Term(A, 0, Add(), 1.0), Term(A, 0, Add(), -1.0)],
        [Term(A, 0, Add(), 1.0, "residual_norm"), Term(A, 0, Add(), -1.0, "residual_norm")],
        [Term(A, 0, Set(1.0), 1.0), Term(A, 0, Set(1.0), -1.0)],
        [Term(A, 0, Clamp())],
        [Term(A, 0, Rotate(0, B))],
        [Term(A, 0, Rotate(360, B))],
    ],
)
def test_nothing_lowers_to_nothing(terms: list[Term]):
    assert lower(terms) is None


def test_equal_columns_are_merged():
    content = lower([Term(A, 0, Set(1.0), 0.25), Term(A, 0, Set(1.0), 0.5)])
    assert content is not None
    assert [coefficient for _, coefficient in content.columns] == [0.75]


def test_content_does_not_depend_on_the_order_of_operations():
    terms = [
        Term(A, 0, Set(1.0)),
        Term(B, 0, Ablate()),
        Term(C, 0, Add()),
        Term(C, 0, Ablate()),
        Term(B, 0, Add(), 0.1, "residual_norm"),
    ]
    digests = {content.digest for o in permutations(terms) if (content := lower(o))}
    assert len(digests) == 1


def test_reads_see_the_residual_before_the_writes():
    r = residuals(D)
    both = effect(lower([Term(A, 0, Add(), 5.0), Term(A, 0, Ablate())]), r)
    expected = -(r @ A.vectors[0]).unsqueeze(-1) * A.vectors[0] + 5 * A.natural(0).float()
    assert torch.allclose(both, expected, atol=1e-3)


def test_refuses_to_rotate_towards_itself():
    with pytest.raises(LoweringError, match="parallel at layer 0"):
        lower([Term(A, 0, Rotate(10, -A))])


def test_takes_the_vector_of_its_own_layer():
    by_layer = direction({0: torch.tensor([1.0, 0.0]), 3: torch.tensor([0.0, 7.0])})
    content = lower([Term(by_layer, 3, Add())])
    assert content is not None
    assert content.offset is not None
    assert content.offset.tolist() == [0.0, 7.0]
