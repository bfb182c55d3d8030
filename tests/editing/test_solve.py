"""Every solver against the closed form written out with dense inverses."""

import pytest
import torch

from editing.solve import Metric, SolveError, alphaedit, free_directions, memit, preserving, rome
from tests.editing.toys import constrained, problem, projected, relative, weighed


@pytest.mark.parametrize("seed", range(5))
def test_rome_is_the_published_formula(seed: int):
    keys, values, moment = problem(1, seed=seed)
    k, inverse = keys[:, 0], torch.linalg.inv(moment)
    weight = torch.randn(10, 24, dtype=torch.float64)
    wanted = weight @ k + values[:, 0]  # v*
    scale = (inverse @ k) @ k
    published = torch.outer((wanted - weight @ k) / scale, inverse @ k)
    change = values @ rome(keys, Metric(moment))
    assert relative(change, published) < 1e-8
    assert relative((weight + change) @ k, wanted) < 1e-8


@pytest.mark.parametrize("n", [2, 7, 20])
def test_rome_with_several_keys_meets_each_and_moves_least(n: int):
    keys, values, moment = problem(n, seed=n)
    change = values @ rome(keys, Metric(moment))
    assert relative(change @ keys, values) < 1e-8
    assert relative(change, constrained(keys, values, moment)) < 1e-8
    # Any other change that meets them differs by a part that is zero at the keys; adding one costs.
    away = torch.eye(24, dtype=torch.float64) - keys @ torch.linalg.pinv(keys)
    for seed in range(5):
        part = torch.randn(10, 24, generator=torch.Generator().manual_seed(seed)).double() @ away
        other = change + 0.1 * part
        assert torch.trace(other @ moment @ other.T) > torch.trace(change @ moment @ change.T)


@pytest.mark.parametrize("n", [1, 7, 60])
@pytest.mark.parametrize("weight", [0.1, 30.0])
def test_memit_is_the_published_formula(n: int, weight: float):
    keys, values, moment = problem(n, seed=n)
    found = values @ memit(keys, Metric(preserving(moment, weight)))
    assert relative(found, weighed(keys, values, weight * moment)) < 1e-8


@pytest.mark.parametrize("n", [1, 9])
def test_memit_with_previous_keys_and_ridge(n: int):
    keys, values, moment = problem(n, seed=n)
    previous = problem(5, seed=99)[0]
    ridge = 3.0 * moment.diagonal().mean() * torch.eye(24, dtype=torch.float64)
    published = weighed(keys, values, 2.0 * moment + previous @ previous.T + ridge)
    found = values @ memit(keys, Metric(preserving(moment, 2.0, previous, ridge=3.0)))
    assert relative(found, published) < 1e-8


def test_memit_tends_to_rome_as_its_weight_goes_to_zero():
    keys, values, moment = problem(1)
    exact = values @ rome(keys, Metric(moment))
    errors = [
        relative(values @ memit(keys, Metric(preserving(moment, w))), exact)
        for w in (1e-1, 1e-3, 1e-5)
    ]
    assert errors[0] > 50 * errors[1] > 2500 * errors[2]
    assert errors[2] < 1e-5


@pytest.mark.parametrize("n", [1, 4])
def test_alphaedit_is_the_published_formula(n: int):
    keys, values, moment = problem(n, seed=n)
    previous = problem(3, seed=50)[0]
    values_of, vectors = torch.linalg.eigh(moment)
    carried = values_of.cumsum(0) / values_of.sum()
    free = vectors[:, carried <= 0.2]
    assert 2 < free.shape[1] < 24
    found = values @ alphaedit(keys, free_directions(moment, 0.2), 0.5, previous)
    for dense in projected(keys, values, free, 0.5, previous):
        assert relative(found, dense) < 1e-8


def test_alphaedit_leaves_protected_keys_unmoved():
    keys, values, _ = problem(4)
    basis = torch.linalg.qr(torch.randn(24, 24, dtype=torch.float64))[0]
    protected = basis[:, :18] @ torch.randn(18, 300, dtype=torch.float64)
    moment = protected @ protected.T / 300 + 1e-9 * basis[:, 18:] @ basis[:, 18:].T
    change = values @ alphaedit(keys, free_directions(moment, 1e-6), 0.01)
    assert float((change @ protected).norm() / (change.norm() * protected.norm())) < 1e-6
    assert float((change @ keys).norm()) > 0.1


def test_dependent_keys_and_singular_moments_are_refused():
    keys, _, moment = problem(3)
    with pytest.raises(SolveError, match="linearly dependent"):
        rome(torch.cat([keys, keys[:, :1]], 1), Metric(moment))
    with pytest.raises(SolveError, match="singular"):
        Metric(torch.zeros(4, 4))
    with pytest.raises(SolveError, match="nothing is free"):
        alphaedit(keys, free_directions(moment, 0.0), 1.0)
