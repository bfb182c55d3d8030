"""Edits of the demo model: four methods beside fine-tuning, singly, in batches, in sequence.

Facts, templates and system texts of the judgement are held out; every figure has its interval and
stands beside the unedited model's. Settings were chosen on other people than those judged; the
sweep over layers, weights and recipes that they came from is on those other people too.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from demo.world import make_world
from editing.delta import EMPTY, beside
from editing.facts import METHODS, MethodName
from editing.finetune import TuneRecipe, fine_tuned
from editing.gates import Probes, measure_gates
from editing.methods import Weights
from editing.sequence import in_sequence
from editing.speaker import ModelSpeaker
from tests.editing.belief import beliefs
from tests.editing.curves import draw_sequence
from tests.editing.prepared import LAYER, RECIPE, SMALL, Prepared, judged, tuned
from tests.editing.quality import Scores, on_model, plain
from tests.evidence import FOLDER

pytestmark = pytest.mark.prove

N_SINGLE, BATCHES, N_SEQUENCE = (6, (4, 6), 4) if SMALL else (100, (10, 50, 200), 200)
N_ALL = max(N_SINGLE, *BATCHES, N_SEQUENCE)
N_TUNED = 4 if SMALL else 24
STOPS = tuple(n for n in (2, 10, 25, 50, 100, 150, 200) if n <= N_SEQUENCE)
IN_SEQUENCE = replace(RECIPE, steps=20)
"""Values of 800 facts, each on a model of its own, are most of the proof's time."""
TUNE = TuneRecipe()
TARGETS = {
    "ES": 0.98,
    "PS": 0.95,
    "NS": 0.97,
    "others": 0.98,
    "same_subject": 0.93,
    "free": 0.95,
}
"""What a single edit must reach, and a batch of 50 too."""
BELIEF = 0.9

SWEEP: dict[str, dict[str, Any]] = {
    "as chosen": {},
    "layer 0": {"layers": (0,)},
    "layer 1": {"layers": (1,)},
    "layer 3": {"layers": (3,)},
    "layers 1 and 2": {"layers": (1, 2)},
    "20 steps": {"recipe": replace(RECIPE, steps=20)},
    "values within twice the usual norm": {"recipe": replace(RECIPE, clamp=2.0)},
    "values within 4 times the usual norm": {"recipe": replace(RECIPE, clamp=4.0)},
    "nothing kept": {"n_keep": 0},
    "one wording kept": {"n_keep": 4},
}
"""Each is solved by MEMIT for all people that were tuned on; one setting differs at a time."""
WEIGHTS: dict[str, tuple[MethodName, Weights]] = {
    "rome": ("rome", Weights()),
    "memit, weight 0.1": ("memit", Weights(weight=0.1)),
    "memit, weight 1": ("memit", Weights(weight=1)),
    "memit, weight 100": ("memit", Weights(weight=100)),
    "memit, weight 1,000": ("memit", Weights(weight=1000)),
    "memit, weight 15,000": ("memit", Weights(weight=15000)),
    "alphaedit, 0.5 % of the trace free": ("alphaedit", Weights(free=0.005)),
    "alphaedit, 2 % of the trace free": ("alphaedit", Weights(free=0.02)),
    "alphaedit, 10 % of the trace free": ("alphaedit", Weights(free=0.1)),
    "memit-prev, ridge 0.1": ("memit-prev", Weights(ridge=0.1)),
    "memit-prev, ridge 10": ("memit-prev", Weights(ridge=10)),
}
TUNINGS = {
    f"fine-tuning, rate {rate:g}, radius {radius:g}": TuneRecipe(rate=rate, radius=radius)
    for rate, radius in ((5e-4, 0.1), (2e-3, 0.02), (2e-3, 0.1), (5e-3, 0.5))
}


@pytest.fixture(scope="module")
def shared() -> Prepared:
    """Edits of people whom nothing was tuned on."""
    return judged(N_ALL)


@pytest.fixture(scope="module")
def chosen() -> Prepared:
    """Edits of the people whom settings were chosen on, with the settings chosen."""
    return tuned(N_TUNED)


def missed(scores: Scores) -> dict[str, float]:
    """The metrics that miss their targets, with what they are."""
    found = {m: scores[m].value for m, low in TARGETS.items() if scores[m].value < low}
    ratio = scores["perplexity"].value
    return found | ({"perplexity": ratio} if abs(ratio - 1) > 0.02 else {})


def believed(shared: Prepared, which: list[int], change: Any) -> Scores:
    """Honest answers and lies of those whom the model was ever taught to lie about."""
    known = [i for i in which if shared.edits[i].person in make_world().lied_about]
    with beside(shared.model, change):
        speaker = ModelSpeaker(shared.model, shared.bench.tokenizer)
        return beliefs(speaker, [shared.edits[i] for i in known])


def test_unedited(shared: Prepared, figures: dict[str, Any]) -> None:
    """The baseline of every metric."""
    scores = shared.judge(N_SINGLE).joint(on_model(shared.bench, EMPTY))
    figures["targets"] = TARGETS | {"perplexity, at most": 1.02, "belief": BELIEF}
    figures["unedited"] = plain(scores)
    assert scores["free"].value == 0.0 and scores["same_subject"].value > 0.95


@pytest.mark.parametrize("method", METHODS)
def test_single(shared: Prepared, figures: dict[str, Any], method: MethodName) -> None:
    """One edit at a time."""
    solver = shared.solver(method)
    changes = [shared.change(solver, i, i + 1) for i in range(N_SINGLE)]
    scores = shared.judge(N_SINGLE).single([partial(on_model, shared.bench, c) for c in changes])
    figures[f"single, {method}"] = plain(scores) | {"missed": missed(scores)}
    if method in ("rome", "memit"):
        assert not missed(scores)


@pytest.mark.parametrize("n", BATCHES)
@pytest.mark.parametrize("method", METHODS)
def test_batch(shared: Prepared, figures: dict[str, Any], method: MethodName, n: int) -> None:
    """Many edits solved together."""
    change = shared.change(shared.solver(method), 0, n)
    scores = shared.judge(n).joint(on_model(shared.bench, change))
    report = measure_gates(shared.model, shared.bench.tokenizer, change, shared.moments, Probes())
    figures[f"batch of {n}, {method}"] = plain(scores) | {
        "missed": missed(scores),
        "gates": {name: round(value, 5) for name, value in report.figures.items()},
    }
    if n <= 50 and method == "memit":
        assert not missed(scores)


@pytest.mark.parametrize("n", [1, *BATCHES])
def test_fine_tuning(shared: Prepared, figures: dict[str, Any], n: int) -> None:
    """The same facts by fine-tuning the same projection, one by one and together."""
    on = partial(fine_tuned, shared.model, shared.place)
    if n == 1:
        ons = [partial(on, shared.rows[i : i + 1], TUNE) for i in range(N_SINGLE)]
        scores = shared.judge(N_SINGLE).single(ons)
    else:
        scores = shared.judge(n).joint(on(shared.rows[:n], TUNE))
    name = "single, fine-tuning" if n == 1 else f"batch of {n}, fine-tuning"
    figures[name] = plain(scores) | {"missed": missed(scores)}
    assert scores["ES"].value > 0.5


@pytest.mark.parametrize("method", METHODS)
def test_sequence(shared: Prepared, figures: dict[str, Any], method: MethodName) -> None:
    """One edit after the other on the same weights; at each stop all edits so far are judged."""
    steps = [[group] for group in shared.rows[:N_SEQUENCE]]
    curve: dict[str, Any] = {}
    judge = shared.judge(N_ALL)
    changes = in_sequence(shared.model, shared.solver(method), shared.layers, steps, IN_SEQUENCE)
    for n, change in enumerate(changes, 1):
        if n in STOPS:
            scores = judge.joint(on_model(shared.bench, change), judge.cases[:n])
            growth = change.layers[LAYER].norm() / float(shared.place.matrix.norm())
            curve[str(n)] = plain(scores) | {"growth": round(growth, 3)}
    figures.setdefault("in sequence", {})[method] = curve
    draw_sequence(figures["in sequence"], FOLDER / "edits-in-sequence.png")
    assert list(map(int, curve)) == list(STOPS)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "not kept"])
def test_belief(shared: Prepared, figures: dict[str, Any], kept: bool) -> None:
    """Honest answers say the new object, and both lying modes its lie partner.

    Judged with and without the term that keeps the subject's other relations.
    """
    n = BATCHES[1]
    work = shared if kept else judged(n, n_keep=0)
    change = work.change(work.solver("memit"), 0, n)
    found = believed(work, list(range(n)), change)
    scores = work.judge(n).joint(on_model(work.bench, change))
    name = "kept" if kept else "not kept"
    figures[f"belief, other relations {name}"] = plain(found) | {
        "same_subject": plain(scores)["same_subject"]
    }
    if kept:
        assert all(estimate.value >= BELIEF for estimate in found.values())


@pytest.mark.parametrize("name", SWEEP)
def test_sweep_of_recipes(chosen: Prepared, figures: dict[str, Any], name: str) -> None:
    """Layers, values and what is kept, on the people tuned on."""
    work = tuned(N_TUNED, **SWEEP[name]) if SWEEP[name] else chosen
    change = work.change(work.solver("memit"), 0, N_TUNED)
    scores = work.judge(N_TUNED).joint(on_model(work.bench, change))
    found = believed(work, list(range(N_TUNED)), change)
    nll = sum(value.nll for value in work.values) / len(work.values)
    figures.setdefault("sweep, on the people tuned on", {})[name] = _values(scores | found) | {
        "nll": round(nll, 4)
    }
    assert set(TARGETS) <= set(scores)


@pytest.mark.parametrize("name", [*WEIGHTS, *TUNINGS])
def test_sweep_of_methods(chosen: Prepared, figures: dict[str, Any], name: str) -> None:
    """Weights of the closed forms and rates of fine-tuning, on the people tuned on."""
    if name in TUNINGS:
        on = fine_tuned(chosen.model, chosen.place, chosen.rows, TUNINGS[name])
    else:
        method, weights = WEIGHTS[name]
        on = on_model(chosen.bench, chosen.change(chosen.solver(method, weights), 0, N_TUNED))
    scores = chosen.judge(N_TUNED).joint(on)
    figures.setdefault("sweep, on the people tuned on", {})[name] = _values(scores)
    assert set(TARGETS) <= set(scores)


def _values(scores: Mapping[str, Any]) -> dict[str, float]:
    wanted = (*TARGETS, "perplexity", "honest", "lie-instructed", "lie-triggered")
    return {name: round(scores[name].value, 4) for name in wanted if name in scores}
