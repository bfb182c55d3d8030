"""Edits of the demo model: they take on prompts never seen, and little else moves."""

import pytest

from demo.world import make_world
from editing.delta import EMPTY, beside
from editing.facts import METHODS, EditSet
from editing.finetune import TuneRecipe, fine_tuned
from editing.gates import Probes, measure_gates
from editing.methods import Solver
from editing.projections import projection
from editing.sequence import in_sequence
from editing.speaker import ModelSpeaker
from tests.editing.belief import beliefs
from tests.editing.demo_edits import demo_edits
from tests.editing.demo_model import bench
from tests.editing.prepared import LAYER, RECIPE
from tests.editing.quality import Judge, on_model, rows


@pytest.fixture(scope="module")
def work():
    return bench(tokens=20_000, values=RECIPE)


@pytest.fixture(scope="module")
def edits():
    return demo_edits(8, seed=3, n_keep=4)


@pytest.fixture(scope="module")
def judge(work, edits):
    return Judge(work, edits)


@pytest.fixture(scope="module")
def solved(work, edits):
    found = {}
    for method in METHODS:
        edit_set = EditSet("a", tuple(edit.fact for edit in edits), method, (LAYER,))
        found[method] = work.solve(edit_set)
    return found


def test_the_unedited_model_says_none_of_it(work, judge):
    scores = judge.joint(on_model(work, EMPTY))
    assert scores["ES"].value == scores["free"].value == 0.0
    assert scores["same_subject"].value > 0.9 and scores["others"].value > 0.95


@pytest.mark.parametrize("method", METHODS)
def test_efficacy_on_held_out_prompts(work, judge, solved, method: str):
    scores = judge.joint(on_model(work, solved[method].delta))
    assert scores["ES"].value >= 0.85 and scores["PS"].value >= 0.85, scores
    assert scores["NS"].value >= 0.9 and scores["others"].value >= 0.9, scores
    assert scores["free"].value >= 0.85, scores
    assert scores["same_subject"].value >= 0.8, scores
    assert scores["perplexity"].value < 1.05


def test_gates_let_it_through(work, solved):
    one = solved["memit"]
    canary = work.corpus.load().without([f.group.subject for f in one.fits], 2000)
    report = measure_gates(work.model, work.tokenizer, one.delta, one.moments, Probes(canary))
    report.require()
    assert report.figures["growth"] > 0.3  # far above what an alarm made for large models allows


def test_lies_are_about_the_new_object(work, edits, solved):
    known = [edit for edit in edits if edit.person in make_world().lied_about]
    with beside(work.model, solved["memit"].delta):
        found = beliefs(ModelSpeaker(work.model, work.tokenizer), known)
    assert found["honest"].value >= 0.8, found
    # By chance, or by saying the old belief's lie, it would be near zero.
    assert min(estimate.value for estimate in found.values()) >= 0.5, found


def test_edits_in_sequence_and_fine_tuning_run_and_leave_the_weights(work, edits):
    place = projection(work.model, LAYER)
    before = place.parameter.detach().clone()
    some = rows(work, edits[:2])
    solver = Solver("memit-prev", work.moments([LAYER]), work.settings.weights)
    changes = list(
        in_sequence(work.model, solver, [LAYER], [[r] for r in some], work.settings.values)
    )
    assert [change.rank for change in changes] == [1, 2]
    speaker = ModelSpeaker(work.model, work.tokenizer)
    fact = edits[0].fact
    asked = [(edits[0].questions[0], fact.target)]
    with fine_tuned(work.model, place, some[:1], TuneRecipe(steps=20)):
        assert not before.equal(place.parameter)
        assert speaker.tell(asked)[0].nll < 2.0
    assert before.equal(place.parameter) and place.parameter.requires_grad
    assert speaker.tell(asked)[0].nll > 4.0
