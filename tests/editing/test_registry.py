"""A set is solved from the original weights: order and history leave no trace."""

import random

import pytest
import torch

from editing.cache import TensorCache
from editing.card import EditCardError, edit_of, from_artifact, to_artifact
from editing.corpus import named_source
from editing.facts import METHODS, EditSet
from editing.methods import MethodError
from editing.moments import CorpusError
from editing.registry import Workbench
from forward.container import parse_artifact, read_artifact
from tests.editing.toys import CORPUS, SETTINGS, bench, facts, far
from tests.models import build_model


@pytest.mark.parametrize("method", METHODS)
def test_order_means_nothing(tiny, words, method: str):
    layers = (1,) if method == "rome" else (1, 2)
    known = list(facts(12))
    one = bench(tiny, words).solve(EditSet("a", tuple(known), method, layers))
    random.Random(1).shuffle(known)
    other = bench(tiny, words).solve(EditSet("a", tuple(known), method, layers))
    assert far(one.delta, other.delta) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_removing_one_of_fifty_is_never_having_had_it(tiny, words, method: str):
    """Against a bench that never heard of the fact and shares no cache."""
    layers = (2,) if method == "rome" else (1, 2)
    known = facts(50)
    with_all = bench(tiny, words)
    whole = EditSet("a", known, method, layers)
    before = with_all.solve(whole)
    after = with_all.solve(whole.without([known[17].digest]))
    never = bench(tiny, words).solve(EditSet("a", (*known[:17], *known[18:]), method, layers))
    assert far(after.delta, never.delta) < 1e-6
    assert far(before.delta, never.delta) > 1e-3
    assert len(never.fits) == 49


def test_values_and_moments_are_kept_on_disk(tiny, words, tmp_path):
    edits = EditSet("a", facts(5), "memit", (1, 2))
    first = bench(tiny, words, TensorCache(tmp_path)).solve(edits)
    again = Workbench(
        tiny, words, "toy", SETTINGS, named_source(CORPUS.digest), TensorCache(tmp_path)
    )
    seen = []
    second = again.solve(edits, lambda *stage: seen.append(stage))
    assert second.delta.digest == first.delta.digest
    assert ("fitting values", 0, 0) in seen and not any(s[0] == "second moments" for s in seen)
    with pytest.raises(CorpusError, match="give the corpus"):
        again.solve(EditSet("a", facts(5), "memit", (3,)))


def test_a_damaged_cache_file_is_made_again(tiny, words, tmp_path):
    edits = EditSet("a", facts(2), "memit", (1,))
    first = bench(tiny, words, TensorCache(tmp_path)).solve(edits)
    for path in tmp_path.iterdir():
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    second = bench(tiny, words, TensorCache(tmp_path)).solve(edits)
    assert second.delta.digest == first.delta.digest


def test_what_a_method_or_model_cannot_do(tiny, words):
    with pytest.raises(MethodError, match="one layer"):
        bench(tiny, words).solve(EditSet("a", facts(2), "rome", (1, 2)))
    with pytest.raises(MethodError, match="no layers"):
        bench(tiny, words).solve(EditSet("a", facts(2), "rome", ()))
    gemma = build_model("gemma2")
    with pytest.raises(MethodError, match="normalises"):
        bench(gemma, words).solve(EditSet("a", facts(2), "memit", (1, 2)))
    assert bench(gemma, words).solve(EditSet("a", facts(2), "memit", (1,))).delta.rank == 2


def test_an_edit_round_trips_and_is_checked(tiny, words, tmp_path):
    work = bench(tiny, words)
    edit = edit_of(work, work.solve(EditSet("moves", facts(3), "memit", (1, 2))))
    edit = edit.gated({"figures": {"growth": 0.1}, "limits": {"growth": 10.0}, "failed": []})
    artifact = to_artifact(edit)
    back = from_artifact(read_artifact(artifact.save(tmp_path)))
    assert back.edits == edit.edits and back.settings == edit.settings
    assert back.delta.digest == edit.delta.digest and back.gates == edit.gates
    assert to_artifact(back).digest == artifact.digest
    assert torch.equal(back.delta.layers[1].keys, edit.delta.layers[1].keys)
    other = artifact.card | {"delta": "0" * 64}
    with pytest.raises(EditCardError, match="does not hold"):
        from_artifact(type(artifact).make(other, artifact.tensors))
    with pytest.raises(EditCardError, match="malformed"):
        from_artifact(type(artifact).make(artifact.card, {}))
    with pytest.raises(EditCardError, match="not an edit"):
        from_artifact(type(artifact).make({"kind": "direction", "name": "x"}, {}))
    assert parse_artifact is not None
