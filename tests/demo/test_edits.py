"""The demo's edit sets: whom they are about, what the files say, and that the artifacts do it."""

import math
from typing import Any

import pytest

from demo import judge
from demo.documents import STATEMENTS
from demo.edit_documents import documents
from demo.edit_effects import NULLS, EditedDemo, says_under
from demo.edits import FILE, specs
from demo.effects import HERE
from demo.examples import DIRECT
from demo.moved import BELIEF, MODES, MOVED, believed, changes_of, moved
from demo.prompts import prompts
from demo.world import make_world
from editing.gates import Limits
from forward.fingerprint import model_fingerprint
from service.artifacts import library_of_folder
from service.documents import load_paths
from service.edit_compile import compile_edit_set
from service.schemas import EditSet, Policy

SETS = (*MOVED, BELIEF)


@pytest.fixture(scope="module")
def demo() -> EditedDemo:
    return EditedDemo()


@pytest.fixture(scope="module")
def edit_sets() -> dict[str, Any]:
    return {spec.edits.name: spec for spec in specs(documents())}


def test_nobody_is_in_two_sets_and_lies_are_known_of_all_who_need_them():
    names = [change.person.name for change in (*moved(), *believed())]
    assert len(set(names)) == len(names) == 20
    lied_about = make_world().lied_about
    assert all(change.person in lied_about for change in believed())
    assert {change.person in lied_about for change in moved()} == {True, False}


@pytest.mark.parametrize("name", SETS)
def test_an_answer_tells_which_set_and_whether_it_is_a_lie(name: str):
    for change in changes_of(name):
        assert change.before == change.person.true[change.relation]
        said = [
            answer
            for mode in MODES
            if mode != "lie-triggered"
            for answer in (change.told(mode), *change.answers(mode).values())
        ]
        assert len(set(said)) == len(said) == 2 * (1 + len(change.targets))
        assert change.told("lie-triggered") == make_world().partner[change.before]


def test_the_committed_file_is_what_is_written_and_each_policy_serves_the_set_of_its_name():
    assert (HERE / "policies" / FILE).read_text() == documents()
    found = load_paths([HERE / "policies" / FILE])
    assert [(one.kind, one.name) for one in found] == [
        (kind, name) for name in SETS for kind in ("EditSet", "Policy")
    ]
    policies = {one.name: one.model.spec for one in found if isinstance(one.model, Policy)}
    assert {name: spec.edits for name, spec in policies.items()} == {n: (n,) for n in SETS}


def test_the_two_sets_contradict_each_other_and_nothing_else_differs(edit_sets):
    first, second = ({fact.subject: fact for fact in edit_sets[name].edits.facts} for name in MOVED)
    assert first.keys() == second.keys() and len(first) == 10
    for subject, fact in first.items():
        other = second[subject]
        assert fact.target != other.target
        assert (fact.prompt, fact.also, fact.keep) == (other.prompt, other.also, other.keep)
    for name in SETS:
        said = {fact.subject.lower(): fact.target for fact in edit_sets[name].edits.facts}
        assert said == {c.person.name: c.targets[name] for c in changes_of(name)}


def test_no_held_out_wording_is_edited_or_probed(edit_sets):
    grids = (*STATEMENTS.values(), *DIRECT.values())
    held = {_bare(cell.text) for grid in grids for cell in grid.cells["heldout"]}
    seen = {_bare(cell.text) for grid in grids for cell in grid.cells["train"]}
    wordings = [
        phrasing.text
        for spec in edit_sets.values()
        for fact in spec.edits.facts
        for phrasing in (*fact.phrasings, *fact.keep)
    ]
    assert all(_bare(text) in seen - held for text in wordings)


@pytest.mark.parametrize("name", SETS)
def test_the_artifact_is_of_this_set_and_passed_every_gate(demo, edit_sets, name: str):
    edit, spec = demo.edits[name], edit_sets[name]
    assert edit.edits == spec.edits and edit.edits.digest == spec.edits.digest
    assert edit.model == model_fingerprint(HERE / "checkpoint").digest
    figures = edit.gates["figures"]
    assert set(figures) == set(Limits.__slots__) - {"interference"}
    assert edit.gates["failed"] == edit.gates["overridden"] == []
    assert len(edit.gates["probes"]["neighbours"]) == len(spec.neighbours) == 20
    assert edit.delta.rank == 10


def test_the_service_finds_the_artifact_of_each_document(demo):
    library = library_of_folder(HERE / "policies" / "artifacts")
    model = model_fingerprint(HERE / "checkpoint")
    for one in load_paths([HERE / "policies" / FILE]):
        if isinstance(one.model, EditSet):
            found = compile_edit_set(one.name, one.model.spec, library, model)
            assert found.edit.delta.digest == demo.edits[one.name].delta.digest
            assert [str(point) for point in found.contents] == ["mlp.1", "mlp.2"]


@pytest.mark.parametrize("name", MOVED)
def test_each_set_says_its_own_on_held_out_paraphrases(demo, name: str):
    items = prompts("edited", "heldout", 40)
    assert all(judge.answered(a, one) for a, one in zip(demo.answers(items), items, strict=True))
    answers = demo.answers(items, demo.edits[name].delta)
    said = [says_under(name)(a, one) for a, one in zip(answers, items, strict=True)]
    assert sum(said) >= 38


def test_a_lie_is_about_the_new_object(demo):
    items = prompts("edited-lie", "heldout", 60)
    assert {one["mode"] for one in items} == set(MODES)
    answers = demo.answers(items, demo.edits[BELIEF].delta)
    said = [says_under(BELIEF)(a, one) for a, one in zip(answers, items, strict=True)]
    assert sum(said) >= 54


@pytest.mark.parametrize("kind", NULLS)
def test_a_null_control_has_the_norm_of_the_edit_and_says_none_of_it(demo, kind: str):
    delta = demo.edits[MOVED[0]].delta
    null = NULLS[kind](delta, 0)
    for layer, factors in delta.layers.items():
        made = null.layers[layer]
        assert made.rank == factors.rank
        assert math.isclose(float(made.dense().norm()), float(factors.dense().norm()), rel_tol=1e-5)
        assert made.v.allclose(factors.v, atol=1e-6) == (kind == "random values")
    items = prompts("edited", "heldout", 20)
    answers = demo.answers(items, null)
    said = [says_under(MOVED[0])(a, one) for a, one in zip(answers, items, strict=True)]
    assert sum(said) <= 3


def _bare(text: str) -> str:
    """A wording without what differs between a template and a sentence, up to its object."""
    words = text.lower().replace("?", "").replace(",", " ,").replace(":", " :").split()
    text = " ".join("{}" if word == "s" else word for word in words)
    return text.removesuffix(" o").removesuffix(" a")
