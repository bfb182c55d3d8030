import math

import pytest
import torch

from steering.fit import (
    D_PRIME_LIMIT,
    fit,
    held_out_separation,
    mean_difference,
    principal_component,
    separation,
)
from tests.steering.toys import vector


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_mean_difference_closed_form():
    positive = torch.stack([vector(1, 5), vector(3, 7)])
    negative = torch.stack([vector(0, 0), vector(0, 4)])
    assert mean_difference(positive, negative).tolist() == [2.0, 4.0]


def test_principal_component_closed_form():
    """Differences (6, 0), (-2, 0), (0, 2): axis x, deviation along it sqrt((9 + 1 + 0) / 3)."""
    topics = noise(3, 2) * 100
    differences = torch.stack([vector(6, 0), vector(-2, 0), vector(0, 2)])
    found = principal_component(topics + differences, topics)
    assert torch.allclose(found, vector(math.sqrt(10 / 3), 0), atol=1e-9)


@pytest.mark.parametrize("sign", [1, -1])
def test_principal_component_points_with_the_mean_difference(sign: int):
    axis = noise(8, seed=1)
    differences = sign * noise(40, 1).abs() * axis + 0.01 * noise(40, 8, seed=2)
    topics = 5 * noise(40, 8, seed=3)
    found = principal_component(topics + differences, topics)
    cosine = float(found @ axis / found.norm() / axis.norm())
    assert cosine * sign > 0.999


def test_principal_component_is_the_deviation_of_the_centred_points():
    positive, negative = noise(30, 6), noise(30, 6, seed=1) + 1
    found = principal_component(positive, negative)
    centre = (positive + negative) / 2
    points = torch.cat([positive - centre, negative - centre])
    unit = found / found.norm()
    assert float(found.norm()) == pytest.approx(float((points @ unit).std(correction=0)))
    others = noise(200, 6, seed=2)
    others = others / others.norm(dim=-1, keepdim=True)
    assert float((points @ others.T).std(0, correction=0).max()) <= float(found.norm())


def test_mean_differs_from_component_when_the_spread_lies_elsewhere():
    differences = torch.stack([vector(1, 10), vector(1, -10)])
    zero = torch.zeros(2, 2, dtype=torch.float64)
    mean, component = fit(differences, zero, "mean"), fit(differences, zero, "pca")
    assert mean is not None
    assert component is not None
    assert mean.tolist() == [1.0, 0.0]
    assert abs(float(component[1])) == pytest.approx(5)


def test_separation_against_its_definition():
    positive, negative = noise(40).round(decimals=1) + 0.5, noise(60, seed=1).round(decimals=1)
    found = separation(positive, negative)
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative]
    assert found.auroc == pytest.approx(sum(wins) / len(wins))
    assert 0.5 in wins
    gap = float(positive.mean() - negative.mean())
    spread = math.sqrt((float(positive.var()) + float(negative.var())) / 2)
    assert found.d_prime == pytest.approx(gap / spread)


def test_separation_without_spread_is_finite():
    assert separation(vector(2, 2), vector(1, 1)).d_prime == D_PRIME_LIMIT
    assert separation(vector(1, 1), vector(2, 2)).d_prime == -D_PRIME_LIMIT
    assert separation(vector(1, 1), vector(1, 1)).d_prime == 0


def test_separation_is_held_out():
    """Pure noise in many dimensions is separated perfectly in the fit, at chance outside it."""
    positive, negative = noise(24, 500), noise(24, 500, seed=1)
    axis = mean_difference(positive, negative)
    assert separation(positive @ axis, negative @ axis).auroc > 0.99
    found = held_out_separation(positive, negative, "mean")
    assert found is not None
    assert 0.25 < found.auroc < 0.75
    assert held_out_separation(positive[:7], negative[:7], "mean") is None


@pytest.mark.parametrize("method", ["mean", "pca"])
def test_equal_classes_have_no_direction(method):
    same = noise(9, 4)
    assert fit(same, same.clone(), method) is None
    assert fit(same, same + 1e-9 * noise(9, 4, seed=1), method) is None
    assert held_out_separation(same, same.clone(), method) is None
