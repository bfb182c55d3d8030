"""The documents that are written parse, and say what was chosen."""

import pytest

from demo.dictionary import Latent
from demo.effects import HERE
from demo.gating import Gating
from demo.known import KNOWN
from demo.labelled import MONITORS
from demo.probes import RECIPES, Choice
from demo.prompts import conversation, prompts
from demo.written import (
    GATED,
    PROBES,
    WATCHED,
    feature_document,
    gated_document,
    probe_document,
    write,
)
from monitors.pooling import Pool
from service.documents import load_paths, parse_documents
from service.monitor_compile import pool_of
from service.schemas import Monitor, Policy

POLICIES = HERE / "policies"
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


@pytest.mark.parametrize("name", MONITORS)
def test_a_document_has_what_the_monitor_is_known_to_fire_on(name):
    (document,) = parse_documents(probe_document(name, Choice(pool=Pool("max"))).encode())
    assert isinstance(document.model, Monitor)
    probes, known = document.model.spec.probes, KNOWN.get(name)
    assert (probes is None) == (known is None)
    if probes is not None and known is not None:
        assert (probes.bad, probes.good) == (known.bad, known.good)


def test_the_committed_documents_are_what_is_written():
    """Up to the pools, which are chosen where the monitors are made."""
    found = {
        one.name: one.model.spec
        for one in load_paths([POLICIES / PROBES])
        if isinstance(one.model, Monitor)
    }
    assert list(found) == list(MONITORS)
    made = [probe_document(name, Choice(pool=pool_of(spec.pool))) for name, spec in found.items()]
    assert (POLICIES / PROBES).read_text().partition("\n")[2] == "---\n".join(made)


def test_nothing_held_out_is_asked():
    held_out = {
        message["content"]
        for kind in ("harmful", "harmless", "lie-pressured", "honest")
        for item in prompts(kind, "heldout", 500)
        for message in conversation(item)
    }
    assert not held_out & {text for known in KNOWN.values() for text in (*known.bad, *known.good)}


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
