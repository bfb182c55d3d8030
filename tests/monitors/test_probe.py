import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from forward.capture import capture
from forward.checkpoint import load_model, load_tokenizer
from forward.clauses import TokenClause
from forward.columns import Read
from forward.container import Artifact, read_artifact
from forward.hookpoints import HookPoint
from monitors.activations import BATCH, item_residuals
from monitors.fit import FitError, fit_logistic, fit_mean_difference
from monitors.items import Item, ItemsError, items_digest, token_sequence
from monitors.pooling import Pool
from monitors.probe import Probe, ProbeError, ProbeProvenance, fit_probe
from monitors.probe_card import from_artifact, to_artifact
from monitors.statistics import Interval
from tests.models import D_MODEL

POINT = HookPoint("resid_post", 2)
MODEL = "m" * 64
HELD = Interval(0.9, 0.8, 1.0)


@pytest.fixture(scope="module")
def loaded(checkpoint) -> tuple[Any, Any]:
    folder = checkpoint("llama")
    return load_model(folder), load_tokenizer(folder)


def items(n: int = 24, answer: str | None = "w90 w91 w92") -> list[Item]:
    """Odd items have a word that even ones do not; lengths differ."""
    return [
        Item(
            ({"role": "user", "content": f"w{20 + i} {'w50 ' * (i % 2)}{'w60 ' * (i % 5)}"},),
            i % 2,
            answer,
        )
        for i in range(n)
    ]


def by_hand(loaded, item: Item, point: HookPoint = POINT) -> torch.Tensor:
    """Residuals of one item alone, without padding."""
    model, tokenizer = loaded
    ids = token_sequence(tokenizer, item).ids
    return capture(model, ids, [point])[point].double()


@pytest.mark.parametrize("point", [POINT, HookPoint("resid_pre", 3)])
def test_the_residual_is_that_of_the_token_that_is_asked_for(loaded, point: HookPoint):
    model, tokenizer = loaded
    many = items(BATCH + 3)
    lengths = [token_sequence(tokenizer, item).prompt_length for item in many]
    whole = [by_hand(loaded, item, point) for item in many]
    expected = {
        "last_prompt": [x[n - 1 : n] for x, n in zip(whole, lengths, strict=True)],
        "mean_prompt": [x[:n].mean(0, keepdim=True) for x, n in zip(whole, lengths, strict=True)],
        0: [x[n : n + 1] for x, n in zip(whole, lengths, strict=True)],
        -1: [x[-1:] for x in whole],
        -3: [x[n : n + 1] for x, n in zip(whole, lengths, strict=True)],
    }
    for position, rows in expected.items():
        found = item_residuals(model, tokenizer, many, point, position)
        torch.testing.assert_close(torch.cat(found), torch.cat(rows), rtol=1e-4, atol=1e-4)
        assert found[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("clause", "cut"),
    [
        (TokenClause("all"), lambda x, n: x),
        (TokenClause("prompt"), lambda x, n: x[:n]),
        (TokenClause("last_prompt"), lambda x, n: x[n - 1 : n]),
        (TokenClause("generation"), lambda x, n: x[n:]),
        (TokenClause("generation", 2), lambda x, n: x[n + 2 :]),
    ],
    ids=str,
)
def test_every_token_of_a_clause(loaded, clause: TokenClause, cut):
    model, tokenizer = loaded
    found = item_residuals(model, tokenizer, items(5), POINT, "every", clause)
    for item, rows in zip(items(5), found, strict=True):
        n = token_sequence(tokenizer, item).prompt_length
        expected = cut(by_hand(loaded, item), n)
        torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4)


def test_an_items_own_position_comes_first(loaded):
    model, tokenizer = loaded
    one, other = items(2)
    found = item_residuals(model, tokenizer, [replace(one, position=-2), other], POINT)
    torch.testing.assert_close(found[0], by_hand(loaded, one)[-2:-1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[1], by_hand(loaded, other)[-1:])


def test_tokens_that_are_not_there(loaded):
    model, tokenizer = loaded
    with pytest.raises(ItemsError, match="answer has 0"):
        item_residuals(model, tokenizer, items(2, answer=None), POINT, 0)
    with pytest.raises(ItemsError, match="no tokens of the clause 'from 9'"):
        clause = TokenClause("generation", 9)
        item_residuals(model, tokenizer, items(2), POINT, "every", clause)
    with pytest.raises(ItemsError, match="no items"):
        item_residuals(model, tokenizer, [], POINT)


@pytest.mark.parametrize(
    ("kind", "fit"), [("logistic", fit_logistic), ("mean-difference", fit_mean_difference)]
)
def test_a_probe_is_the_fit_of_captured_residuals(loaded, kind, fit):
    model, tokenizer = loaded
    done: list[int] = []
    probe = fit_probe(
        *(model, tokenizer, items()),
        **{"name": "odd", "kind": kind, "point": POINT, "fingerprint": MODEL},
        position=-2,
        progress=done.append,
    )
    x = torch.cat([by_hand(loaded, item)[-2:-1] for item in items()])
    expected = fit(x, torch.tensor([item.label for item in items()]))
    torch.testing.assert_close(
        probe.value.vector,
        expected.vector.float(),
        rtol=1e-3,
        atol=1e-3 * float(expected.vector.abs().max()),
    )
    assert (probe.kind, probe.model, probe.d_model) == (kind, MODEL, D_MODEL)
    assert sum(done) == 24
    made = probe.provenance
    assert (made.position, made.n_positive, made.n_negative) == ("-2", 12, 12)
    assert made.source == items_digest(items())
    assert 0.5 < made.held_out.value <= 1.0
    reader = probe.reader()
    raw = (x @ probe.value.vector.double() + probe.value.bias).reshape(-1, 1).numpy()
    odd, even = reader.values(raw)[1::2], reader.values(raw)[::2]
    assert odd.min() > even.max()


EMA = Pool("ema", alpha=0.25)


def by_hand_averaged(loaded, item: Item) -> torch.Tensor:
    """Averages over the tokens of an answer, one after the other."""
    n = token_sequence(loaded[1], item).prompt_length
    found: list[torch.Tensor] = []
    for row in by_hand(loaded, item)[n:]:
        found.append(0.25 * row + 0.75 * found[-1] if found else row)
    return torch.stack(found)


def test_under_a_pool_that_averages_a_row_is_the_average_up_to_its_token(loaded):
    model, tokenizer = loaded
    clause = TokenClause("generation")
    mixed = [
        replace(item, position=place)
        for item, place in zip(items(3), (1, "every", -1), strict=True)
    ]
    found = item_residuals(model, tokenizer, mixed, POINT, clause=clause, pool=EMA)
    expected = [by_hand_averaged(loaded, item) for item in mixed]
    cuts = (slice(1, 2), slice(0, 3), slice(2, 3))
    for rows, whole, cut in zip(found, expected, cuts, strict=True):
        torch.testing.assert_close(rows, whole[cut], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("position", "message"),
    [("last_prompt", "none of the clause 'generation'"), ("mean_prompt", "an average already")],
)
def test_tokens_that_no_pool_reaches(loaded, position, message):
    model, tokenizer = loaded
    with pytest.raises(ItemsError, match=message):
        item_residuals(
            model, tokenizer, items(2), POINT, position, TokenClause("generation"), pool=EMA
        )


def test_a_probe_is_fitted_on_what_its_pool_makes_of_the_residuals(loaded):
    options = {"name": "odd", "kind": "logistic", "point": POINT, "fingerprint": MODEL}
    clause = TokenClause("generation")
    probe = fit_probe(*loaded, items(), **options, position=2, clause=clause, pool=EMA)
    x = torch.stack([by_hand_averaged(loaded, item)[2] for item in items()])
    expected = fit_logistic(x, torch.tensor([item.label for item in items()])).vector.float()
    allowed = 1e-3 * float(expected.abs().max())
    torch.testing.assert_close(probe.value.vector, expected, rtol=1e-3, atol=allowed)
    assert probe.provenance.position == "2, averaged by ema 0.25"
    with pytest.raises(ProbeError, match="leave the pool out"):
        fit_probe(*loaded, items(), **(options | {"kind": "attention"}), position="every", pool=EMA)


def test_an_attention_probe_reads_query_and_value(loaded):
    model, tokenizer = loaded
    options = {"name": "odd", "kind": "attention", "point": POINT, "fingerprint": MODEL}
    clause = TokenClause("prompt")
    probe = fit_probe(model, tokenizer, items(), **options, position="every", clause=clause)
    reader = probe.reader()
    assert (reader.kind, len(reader.reads)) == ("attention", 2)
    assert [read.digest for read in reader.reads] == [probe.query.digest, probe.value.digest]
    assert probe.provenance.position == "every token of prompt"
    for wrong in (items(), [replace(item, position=0) for item in items()]):
        position = "every" if wrong[0].position == 0 else "last_prompt"
        with pytest.raises(ProbeError, match="every"):
            fit_probe(model, tokenizer, wrong, **options, position=position)


def test_the_same_token_everywhere_cannot_be_fitted(loaded):
    """At the input of the first layer the last token of every prompt is the same word."""
    model, tokenizer = loaded
    with pytest.raises(FitError, match="alike"):
        fit_probe(
            *(model, tokenizer, items()),
            **{"name": "odd", "kind": "logistic", "fingerprint": MODEL},
            point=HookPoint("resid_pre", 0),
        )


def toy(**changes: Any) -> Probe:
    made: dict[str, Any] = {
        "name": "toy",
        "kind": "logistic",
        "point": POINT,
        "model": MODEL,
        "value": Read(torch.tensor([0.1, -2.0, 3e-7]), 0.3),
        "provenance": ProbeProvenance("-1", 3, 4, "s" * 64, HELD),
    }
    return Probe(**(made | changes))


PAIR = toy(kind="attention", query=Read(torch.tensor([1.0, 0.0, 2.0]), -1.25))


@pytest.mark.parametrize("probe", [toy(), PAIR, toy(provenance=ProbeProvenance())])
def test_the_round_trip_is_exact(tmp_path, probe: Probe):
    artifact = to_artifact(probe)
    back = from_artifact(read_artifact(artifact.save(tmp_path)))
    assert to_artifact(back).digest == artifact.digest
    assert back == probe
    assert back.provenance == probe.provenance
    assert torch.equal(back.value.vector, probe.value.vector)
    assert back.value.bias == probe.value.bias
    assert back.reader().digest == probe.reader().digest


def test_identity_is_content():
    assert toy().digest == toy(name="other", provenance=ProbeProvenance()).digest
    assert toy() == toy(name="other")
    changed = [
        toy(kind="imported"),
        toy(point=HookPoint("resid_pre", 2)),
        toy(model="n" * 64),
        toy(value=Read(torch.tensor([0.1, -2.0, 4e-7]), 0.3)),
        toy(value=Read(torch.tensor([0.1, -2.0, 3e-7]), 0.4)),
        PAIR,
    ]
    assert len({toy().digest, *(probe.digest for probe in changed)}) == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Not A Name"}, "not a name"),
        ({"kind": "magic"}, "not a kind"),
        ({"kind": "attention"}, "has a query"),
        ({"query": Read(torch.ones(3))}, "has a query"),
        ({"value": Read(torch.zeros(3))}, "norm 0"),
        ({"value": Read(torch.full((3,), float("nan")))}, "norm nan"),
        ({"value": Read(torch.full((3,), 1e6))}, "norm"),
        ({"value": Read(torch.ones(3), float("inf"))}, "bias inf"),
        ({"kind": "attention", "query": Read(torch.ones(4))}, r"shape \(4,\)"),
    ],
)
def test_malformed_probes(changes, message: str):
    with pytest.raises(ProbeError, match=message):
        toy(**changes)


def test_refused_artifacts():
    artifact = to_artifact(PAIR)
    card = json.loads(json.dumps(artifact.card))
    with pytest.raises(ProbeError, match="is a direction, not a probe"):
        from_artifact(Artifact.make({"kind": "direction", "name": "x"}, {}))
    for changed in ({"more": 1}, {"at": "nowhere"}, {"d_model": 0}):
        with pytest.raises(ProbeError, match="card of probe 'toy' is wrong"):
            from_artifact(Artifact.make(card | changed, artifact.tensors))
    with pytest.raises(ProbeError, match="its card says 4"):
        from_artifact(Artifact.make(card | {"d_model": 4}, artifact.tensors))
    with pytest.raises(ProbeError, match="has tensors"):
        from_artifact(Artifact.make(card, {"value": artifact.tensors["value"]}))
