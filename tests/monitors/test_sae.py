from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forward.container import read_artifact
from monitors.sae import Sae
from monitors.sae_card import from_artifact, save_sae, to_artifact
from monitors.sae_coder import Coder, SaeError
from service.artifacts import library_of_folder

MODEL = "b" * 64


def make(architecture: str, seed: int = 0, d: int = 10, n: int = 30, subtract: bool = True) -> Sae:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    parts = {
        "jumprelu": {"threshold": draw(n)},
        "gated": {"b_gate": draw(n), "r_mag": 0.5 * draw(n)},
        "topk": {"k": 4, "threshold": draw(n).abs()},
        "batchtopk": {"k": 4, "threshold": draw(n)},
    }.get(architecture, {})
    coder = Coder(
        architecture, draw(d, n), draw(n), draw(n, d), draw(d), subtracts_b_dec=subtract, **parts
    )
    return Sae("toy", MODEL, "resid_post.3", coder)


@pytest.mark.parametrize("architecture", ["relu", "jumprelu", "gated", "topk", "batchtopk"])
@given(seed=st.integers(0, 1000), subtract=st.booleans(), index=st.integers(0, 29))
def test_a_feature_alone_is_the_dictionary_s_column(architecture, seed, subtract, index):
    sae = make(architecture, seed, subtract=subtract)
    x = 3 * torch.randn(40, 10, generator=torch.Generator().manual_seed(seed + 1))
    feature = sae.feature(index)
    whole = sae.coder.encode_alone(x)[:, index]
    alone = feature.activation(x)
    # At the floor itself rounding decides, so scores within 1e-4 of it may fall on either side.
    clear = (sae.coder.scores(x)[:, index] - feature.floor).abs() > 1e-4
    assert clear.float().mean() > 0.9
    assert torch.allclose(alone[clear], whole[clear], atol=1e-4, rtol=1e-5)
    if architecture != "topk":
        assert torch.allclose(sae.encode(x)[:, index][clear], whole[clear], atol=1e-4, rtol=1e-5)
    assert torch.equal(feature.decoder, sae.coder.w_dec[index])


def test_gated_as_the_paper_writes_it():
    """Rajamanoharan et al. 2024, equations 6 and 7, a number at a time."""
    sae = make("gated")
    c, x = sae.coder, torch.randn(20, 10, generator=torch.Generator().manual_seed(2))
    for t, residual in enumerate(x):
        for i in range(30):
            shared = float((residual - c.b_dec).double() @ c.w_enc[:, i].double())
            gate = shared + float(c.b_gate[i]) > 0
            magnitude = float(c.r_mag[i].double().exp()) * shared + float(c.b_enc[i])
            expected = max(magnitude, 0.0) if gate else 0.0
            assert float(sae.encode(x)[t, i]) == pytest.approx(expected, abs=1e-4)


def test_jumprelu_is_strict_and_never_negative():
    ones = torch.ones(1, 2)
    coder = Coder(
        "jumprelu", ones, torch.zeros(2), ones.T, torch.zeros(1), torch.tensor([1.0, -1.0])
    )
    x = torch.tensor([[1.0], [1.5], [-0.5]])
    assert coder.encode(x).tolist() == [[0.0, 1.0], [1.5, 1.5], [0.0, 0.0]]


def test_topk_ranks_and_never_gives_negative_activations():
    sae = make("topk")
    x = torch.randn(20, 10, generator=torch.Generator().manual_seed(3))
    scores, found = sae.coder.scores(x), sae.encode(x)
    for t in range(20):
        order = sorted(range(30), key=lambda i: -float(scores[t, i]))
        for rank, i in enumerate(order):
            expected = max(float(scores[t, i]), 0.0) if rank < 4 else 0.0
            assert float(found[t, i]) == expected


def test_batchtopk_without_threshold_ranks_over_the_tokens_given():
    sae = make("batchtopk")
    coder = replace(sae.coder, threshold=None)
    x = torch.randn(25, 10, generator=torch.Generator().manual_seed(3))
    found, scores = coder.encode(x), coder.scores(x).relu()
    assert int((found > 0).sum()) == 4 * 25
    assert float(found[found > 0].min()) >= float(scores[found == 0].max())


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_a_rank_without_threshold_gives_no_single_feature(architecture):
    sae = make(architecture)
    bare = replace(sae, coder=replace(sae.coder, threshold=None))
    with pytest.raises(SaeError, match="depends on all others and has no threshold"):
        bare.feature(0)
    assert bare.with_threshold(torch.tensor(0.5), "given").feature(0).floor == 0.5


@pytest.mark.parametrize("architecture", ["relu", "jumprelu", "gated", "topk", "batchtopk"])
def test_artifact_round_trip(architecture, tmp_path):
    typical = torch.linspace(0, 1, 30)
    sae = replace(make(architecture).measured(fvu=0.04, l0=16.0), typical=typical)
    path = save_sae(sae, tmp_path)
    found = from_artifact(read_artifact(path))
    assert found.digest == sae.digest
    assert found.measures == sae.measures
    assert found.feature(29).typical == 1.0
    x = torch.randn(5, 10)
    assert torch.equal(found.encode(x), sae.encode(x))
    newer = make(architecture, seed=1)
    save_sae(newer, tmp_path)
    assert library_of_folder(tmp_path).saes["toy"].content.digest == newer.digest


def test_identity_is_content():
    sae = make("jumprelu")
    assert replace(sae, name="other").measured(fvu=0.1).digest == sae.digest
    for other in (
        replace(sae, hook="resid_post.2"),
        replace(sae, model="c" * 64),
        replace(sae, coder=replace(sae.coder, subtracts_b_dec=False)),
        replace(sae, coder=replace(sae.coder, threshold=torch.add(sae.coder.threshold, 1e-6))),
    ):
        assert other.digest != sae.digest


def test_malformed_dictionaries_are_refused(tmp_path):
    coder = make("jumprelu").coder
    for changes, message in (
        ({"b_enc": torch.zeros(3)}, "b_enc has shape"),
        ({"threshold": None}, "needs threshold"),
        ({"b_gate": torch.zeros(30)}, "has no b_gate"),
        ({"k": 4}, "others have none"),
        ({"b_dec": torch.full((10,), torch.nan)}, "not finite"),
    ):
        with pytest.raises(SaeError, match=message):
            replace(coder, **changes)
    with pytest.raises(SaeError, match="it is a transcoder, so say where"):
        Sae(
            "toy",
            MODEL,
            "resid_post.3",
            replace(coder, w_dec=torch.zeros(30, 4), b_dec=torch.zeros(4), subtracts_b_dec=False),
        )
    with pytest.raises(SaeError, match="feature 30 is not there"):
        make("relu").feature(30)
    artifact = to_artifact(make("relu"))
    with pytest.raises(SaeError, match="lacks tensors"):
        from_artifact(replace(artifact, tensors={"w_enc": artifact.tensors["w_enc"]}))
    with pytest.raises(SaeError, match="no sae"):
        from_artifact(replace(artifact, card={"kind": "direction", "name": "x"}))
