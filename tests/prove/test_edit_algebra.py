"""The algebra of edits: solvers against dense closed forms, limits, protection, order, removal.

Random problems are as wide as the demo's projections; sets of 50 facts go through the registry on
the demo model in float64, so that only mathematics differs.
"""

import random
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from editing.corpus import held
from editing.facts import METHODS, EditSet, Fact, MethodName
from editing.registry import Settings, Workbench
from editing.solve import Metric, alphaedit, free_directions, memit, preserving, rome
from tests.editing.demo_edits import demo_edits
from tests.editing.demo_model import contexts, demo_corpus, fingerprint, model, tokenizer
from tests.editing.toys import constrained, far, problem, projected, relative, weighed

pytestmark = pytest.mark.prove

D_IN, D_OUT, SEEDS = 576, 192, range(5)
SIZES = (1, 50, 200)
N_FACTS, GONE = 50, 17
LAYERS: Mapping[str, tuple[int, ...]] = {m: (1,) if m == "rome" else (1, 2) for m in METHODS}
LIMITS = (1.0, 1e-2, 1e-4)
TOKENS = 20_000

Problem = tuple[Tensor, Tensor, Tensor]


def dense(method: str, given: Problem, previous: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A method's change and the closed forms that it must equal."""
    keys, values, moment = given
    if method == "rome":
        return values @ rome(keys, Metric(moment)), [constrained(keys, values, moment)]
    if method == "memit":
        found = values @ memit(keys, Metric(preserving(moment, 3.0)))
        return found, [weighed(keys, values, 3.0 * moment)]
    if method == "memit-prev":
        found = values @ memit(keys, Metric(preserving(moment, 3.0, previous, ridge=0.5)))
        ridge = 0.5 * moment.diagonal().mean() * torch.eye(D_IN, dtype=torch.float64)
        return found, [weighed(keys, values, 3.0 * moment + previous @ previous.T + ridge)]
    free = free_directions(moment, 0.2)
    found = values @ alphaedit(keys, free, 0.5, previous)
    return found, list(projected(keys, values, free, 0.5, previous))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_solver_equals_its_closed_form(figures: dict[str, Any], method: str, n: int) -> None:
    """In float64, on random problems, to 1e-8."""
    errors = [0.0]
    for seed in SEEDS:
        given = problem(n, D_IN, D_OUT, seed)
        found, wanted = dense(method, given, problem(30, D_IN, D_OUT, 100 + seed)[0])
        errors += [relative(found, one) for one in wanted]
    figures.setdefault("largest relative error", {})[f"{method}, {n} facts"] = max(errors)
    assert max(errors) < 1e-8


def test_memit_tends_to_rome(figures: dict[str, Any], bench: Workbench, facts: list[Fact]) -> None:
    """One fact, one layer: the difference vanishes with the weight, in proportion to it."""
    solved = bench.solve(EditSet("one", tuple(facts[:1]), "rome", (1,)))
    (fit,) = solved.fits
    moment = solved.moments[1].ridged(bench.settings.weights.moment_ridge)
    real = (fit.key.double()[:, None], fit.delta.double()[:, None], moment)
    found = figures["memit beside rome, by weight"] = {"weight": list(LIMITS)}
    for name, given in {"random problem": problem(1, D_IN, D_OUT), "demo model": real}.items():
        keys, values, moment = given
        exact = values @ rome(keys, Metric(moment))
        close = [values @ memit(keys, Metric(preserving(moment, w))) for w in LIMITS]
        errors = found[name] = [relative(one, exact) for one in close]
        assert errors[0] > 50 * errors[1] > 2500 * errors[2]
        assert errors[2] < 1e-6
    through = solved.delta.layers[1].dense()
    assert relative(through, real[1] @ rome(real[0], Metric(real[2]))) < 1e-6


@pytest.mark.parametrize("seed", SEEDS)
def test_alphaedit_leaves_protected_keys(figures: dict[str, Any], seed: int) -> None:
    """5,000 keys in a subspace of 400 dimensions move by less than 1e-6 of what a key may."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    keys, values, _ = problem(50, D_IN, D_OUT, seed)
    basis = torch.linalg.qr(normal(D_IN, D_IN))[0]
    protected = basis[:, :400] @ normal(400, 5000)
    free = free_directions(protected @ protected.T / 5000, 1e-9)
    change = values @ alphaedit(keys, free, 0.01)
    moved = (change @ protected).norm(dim=0) / (torch.linalg.matrix_norm(change, 2))
    largest = float((moved / protected.norm(dim=0)).max())
    met = relative(change @ keys, values)
    figures.setdefault("protected keys moved, largest", []).append(largest)
    figures.setdefault("residual left at edited keys", []).append(met)
    assert largest < 1e-6
    assert met < 0.1


@pytest.fixture(scope="module")
def double() -> Any:
    """The demo model in float64."""
    return deepcopy(model()).double()


def _bench(work: Any) -> Workbench:
    """A bench with a cache of its own, so that nothing is shared with another."""
    settings = Settings(contexts(), tokens=TOKENS)
    return Workbench(work, tokenizer(), fingerprint(), settings, held(demo_corpus()))


@pytest.fixture(scope="module")
def bench(double: Any) -> Workbench:
    """The bench on which everything is solved first."""
    return _bench(double)


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    """50 facts of the demo's world."""
    return [edit.fact for edit in demo_edits(N_FACTS, seed=7, n_keep=2)]


@pytest.fixture(scope="module")
def shuffled(double: Any, facts: list[Fact]) -> tuple[Workbench, list[Fact]]:
    """Another bench, which meets the facts in another order."""
    other = list(facts)
    random.Random(1).shuffle(other)
    assert other != facts
    return _bench(double), other


@pytest.fixture(scope="module")
def never(double: Any) -> Workbench:
    """A bench that never hears of one of the facts."""
    return _bench(double)


@pytest.mark.parametrize("method", METHODS)
def test_order_means_nothing(
    figures: dict[str, Any],
    bench: Workbench,
    shuffled: tuple[Workbench, list[Fact]],
    facts: list[Fact],
    method: MethodName,
) -> None:
    """50 facts in two orders, each order on a bench of its own: the same change to 1e-6."""
    work, other = shuffled
    one = bench.solve(EditSet("a", tuple(facts), method, LAYERS[method]))
    two = work.solve(EditSet("a", tuple(other), method, LAYERS[method]))
    error = far(one.delta, two.delta)
    figures.setdefault("order of 50 facts, relative difference", {})[method] = error
    assert error < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_removed_is_never_had(
    figures: dict[str, Any],
    bench: Workbench,
    never: Workbench,
    facts: list[Fact],
    method: MethodName,
) -> None:
    """A set of 50 without one, against 49 on a bench that never heard of it."""
    whole = EditSet("a", tuple(facts), method, LAYERS[method])
    before = bench.solve(whole)
    after = bench.solve(whole.without([facts[GONE].digest]))
    rest = EditSet("a", (*facts[:GONE], *facts[GONE + 1 :]), method, LAYERS[method])
    wanted = never.solve(rest)
    error, had = (far(solved.delta, wanted.delta) for solved in (after, before))
    found = figures.setdefault("one of 50 removed, relative difference", {})
    found[method] = {"from never having had it": error, "from having it": had}
    assert error < 1e-6
    assert had > 1e-3
