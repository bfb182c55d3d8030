import math
from dataclasses import replace

import pytest
import torch

from steering.defaults import Defaults, clause_text, parse_clause
from steering.direction import Direction, DirectionError, Provenance, Separation, from_natural
from tests.steering.toys import direction, random_direction, vector


def same(a: Direction, b: Direction) -> bool:
    """Bit for bit in vectors, scales and means."""
    return (
        a == b
        and all(torch.equal(a.vectors[k], b.vectors[k]) for k in a.layers)
        and (dict(a.scale), dict(a.benign), dict(a.target))
        == (dict(b.scale), dict(b.benign), dict(b.target))
    )


def test_splits_a_vector_into_unit_and_natural_scale():
    toy = direction([3.0, 4.0])
    assert toy.scale == {0: 5.0}
    assert torch.equal(toy.vectors[0], torch.tensor([0.6, 0.8]))
    assert torch.allclose(toy.natural(0), vector(3, 4), rtol=1e-7)


def test_addition_is_that_of_natural_vectors_not_of_units():
    total = direction([3.0, 0.0]) + direction([0.0, 4.0])
    assert total.scale[0] == 5.0
    assert torch.equal(total.vectors[0], torch.tensor([0.6, 0.8]))
    assert (direction([3.0, 4.0]) - direction([3.0, 0.0])).scale[0] == pytest.approx(4, rel=1e-7)


@pytest.mark.parametrize("factor", [20.0, 0.5, -1.0, -3.0])
def test_multiplying_touches_scale_and_sign_only(factor: float):
    a = random_direction(0)
    scaled = a * factor
    for layer in a.layers:
        assert scaled.scale[layer] == a.scale[layer] * abs(factor)
        assert torch.equal(scaled.vectors[layer], a.vectors[layer] * math.copysign(1, factor))
        assert scaled.benign[layer] == a.benign[layer] * math.copysign(1, factor)
    assert same(factor * a, scaled)


def test_algebra_identities():
    a, b = random_direction(0), random_direction(1)
    turned = -a
    assert same(-turned, a)
    assert same((a * 8) / 8, a)
    assert same(a * -1, -a)
    assert same(a / -2, -(a / 2))
    assert same(a + b, b + a)
    assert same(a - b, -(b - a))
    for left, right in ((a + a, a * 2), ((a + b) - b, a), ((a - b) * 3, a * 3 - b * 3)):
        for layer in a.layers:
            assert torch.allclose(left.natural(layer), right.natural(layer), rtol=1e-5, atol=1e-6)


def test_class_means_add_like_projections_of_the_same_data():
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(50, 16, generator=generator, dtype=torch.float64)

    def measured(seed: int) -> Direction:
        a = random_direction(seed, layers=1, target={})
        return replace(a, benign={0: float(data.mean(0) @ a.vectors[0].double())})

    total = measured(1) - measured(2)
    assert total.benign[0] == pytest.approx(float(data.mean(0) @ total.vectors[0].double()))
    other = replace(measured(2), provenance=Provenance("mean", "last_prompt", 3, "c" * 64))
    assert not (measured(1) + other).benign


def test_turning_around_turns_the_separation():
    toy = direction([3.0, 4.0], separation={0: Separation(0.9, 2.0)})
    assert (-toy).separation[0] == Separation(1.0 - 0.9, -2.0)


def test_identity_is_content_not_name_or_provenance():
    a = random_direction(0)
    assert a == replace(a, name="other", provenance=Provenance("npz"), defaults=Defaults((1,)))
    assert hash(a) == hash(a.renamed("other"))
    assert a != replace(a, model="b" * 64)
    assert a != replace(a, hook="resid_pre")
    assert a != replace(a, scale={**a.scale, 1: math.nextafter(a.scale[1], 1e9)})
    assert a != replace(a, benign={})
    flipped = a.vectors[2].clone()
    flipped[3] = torch.nextafter(flipped[3], torch.tensor(1.0))
    assert a != replace(a, vectors={**a.vectors, 2: flipped})


def test_keeps_no_order_of_layers():
    assert direction({2: vector(1, 0), 0: vector(0, 1)}).layers == (0, 2)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (random_direction(1, model="b" * 64), "models"),
        (random_direction(1, hook="resid_pre"), "hook points"),
        (random_direction(1, layers=2), "layers"),
        (random_direction(1, d_model=8), "widths"),
    ],
)
def test_refuses_to_combine_what_does_not_belong_together(other: Direction, what: str):
    with pytest.raises(DirectionError, match=f"different {what}"):
        _ = random_direction(0) + other


def test_refuses_to_cancel_or_to_multiply_by_nothing():
    a = random_direction(0)
    with pytest.raises(DirectionError, match="cancel at layer 0"):
        _ = a - a
    for factor in (0.0, math.nan, math.inf):
        with pytest.raises(DirectionError, match="coefficient 0"):
            _ = a * factor


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([0.0, 0.0], "is zero"),
        ([math.nan, 1.0], "not finite"),
        ([math.inf, 1.0], "not finite"),
    ],
)
def test_refuses_vectors_without_direction(vectors: list[float], message: str):
    with pytest.raises(DirectionError, match=message):
        from_natural({0: vector(*vectors)})


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Not A Name"},
        {"vectors": {}},
        {"vectors": {0: torch.tensor([0.6, 0.7])}},
        {"vectors": {0: torch.tensor([0.6, 0.8], dtype=torch.float64)}},
        {"vectors": {-1: torch.tensor([0.6, 0.8])}, "scale": {-1: 5.0}},
        {"scale": {0: 0.0}},
        {"scale": {0: math.inf}},
        {"scale": {1: 5.0}},
        {"benign": {1: 0.0}},
        {"target": {0: math.nan}},
        {"separation": {1: Separation(1.0, 1.0)}},
        {"defaults": Defaults((1,))},
    ],
)
def test_refuses_malformed_directions(change: dict[str, object]):
    with pytest.raises(DirectionError):
        replace(direction([3.0, 4.0]), **change)


def test_clauses_round_trip():
    for value in ("all", "prompt", "last_prompt", "generation", {"from": 3}):
        assert clause_text(parse_clause(value)) == value
    for wrong in ("prefill", {"from": -1}, {"from": True}, {"from": 1, "to": 2}, 3, None):
        with pytest.raises(ValueError, match="not a token clause"):
            parse_clause(wrong)
