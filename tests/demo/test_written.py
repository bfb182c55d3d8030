"""The documents that are written parse, and say what was chosen."""

import pytest

from demo.dictionary import Latent
from demo.gating import Gating
from demo.labelled import MONITORS
from demo.probes import RECIPES, Choice
from demo.written import GATED, WATCHED, feature_document, gated_document, probe_document, write
from monitors.pooling import Pool
from service.documents import load_paths, parse_documents
from service.monitor_compile import pool_of
from service.schemas import Monitor, Policy

POOLS = (Pool("max"), Pool("mean"), Pool("ema", alpha=0.15), Pool("rolling", window=2))


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("name", MONITORS)
def test_a_probes_document_says_how_scores_are_pooled(name, pool):
    (document,) = parse_documents(probe_document(name, Choice(pool=pool)).encode())
    assert isinstance(document.model, Monitor)
    spec = document.model.spec
    assert (document.name, spec.read.probe) == (name, name)
    assert pool_of(spec.pool) == pool
    assert spec.tokens == str(RECIPES[name].clause)


@pytest.mark.parametrize(("weight", "written"), [(1.0, (None, (7,))), (-1.0, ((-1.0,), (7,)))])
@pytest.mark.parametrize("name", WATCHED)
def test_the_document_of_a_latent(name, weight, written):
    (document,) = parse_documents(feature_document(name, Latent(7, weight, 1.0)).encode())
    assert isinstance(document.model, Monitor)
    feature = document.model.spec.read.feature
    assert feature is not None
    assert (feature.weights, feature.latents) == written
    assert document.name == f"{name}-feature"
    assert document.model.spec.tokens == str(RECIPES[name].clause)


def test_gated_steers_as_much_and_where_it_was_chosen(tmp_path):
    write(tmp_path, GATED, [gated_document(Gating(1.75, 0.001))])
    assert (tmp_path / GATED).read_text().startswith("# Written by `python -m demo.monitors`: ")
    (document,) = load_paths([tmp_path])
    assert isinstance(document.model, Policy)
    (steer,) = document.model.spec.steer
    assert (document.name, steer.coefficient, steer.when.fpr) == ("gated", 1.75, 0.001)
    assert document.model.spec.monitors["harm"].fpr == 0.001
