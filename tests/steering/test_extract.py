import json
from pathlib import Path
from typing import Any

import pytest
import torch

from forward.capture import capture
from forward.checkpoint import load_model, load_tokenizer
from forward.hookpoints import HookPoint
from forward.prompts import render
from steering.defaults import Defaults
from steering.direction import DirectionError
from steering.extract import best_layer, extract
from steering.pairs import ContrastPair, PairsError, activations, pairs_digest, read_pairs
from tests.models import D_MODEL, N_LAYERS
from tests.steering.toys import MODEL


def chat(*words: str, answer: str | None = None) -> tuple[dict[str, str], ...]:
    messages = [{"role": "user", "content": " ".join(words)}]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return tuple(messages)


PAIRS = [
    ContrastPair(chat(f"w{10 + i}", "w50", f"w{30 + i}"), chat(f"w{10 + i}", "w60"))
    for i in range(10)
]


@pytest.fixture(scope="module")
def loaded(checkpoint) -> tuple[Any, Any]:
    folder = checkpoint("llama")
    return load_model(folder), load_tokenizer(folder)


def by_hand(loaded: tuple[Any, Any], prompts: list[Any], point: HookPoint) -> torch.Tensor:
    """Residuals of the last token, one prompt a pass, no padding."""
    model, tokenizer = loaded
    return torch.stack(
        [capture(model, render(tokenizer, p), [point])[point][-1].double() for p in prompts]
    )


def extracted(loaded: tuple[Any, Any], pairs: list[ContrastPair] = PAIRS, **options: Any):
    model, tokenizer = loaded
    return extract(model, tokenizer, pairs, name="toy", fingerprint=MODEL, **options)


@pytest.mark.parametrize("hook", ["resid_post", "resid_pre"])
def test_mean_direction_is_that_of_unbatched_activations(loaded, hook):
    found = extracted(loaded, PAIRS, hook=hook)
    # the first layer's input at the last token is the same special token's embedding: no direction
    assert found.layers == tuple(range(1 if hook == "resid_pre" else 0, N_LAYERS))
    assert found.d_model == D_MODEL
    for layer in found.layers:
        point = HookPoint(hook, layer)
        positive = by_hand(loaded, [pair.positive for pair in PAIRS], point)
        negative = by_hand(loaded, [pair.negative for pair in PAIRS], point)
        difference = positive.mean(0) - negative.mean(0)
        assert torch.allclose(found.natural(layer), difference, rtol=1e-4, atol=1e-5)
        unit = found.vectors[layer].double()
        assert found.benign[layer] == pytest.approx(float(negative.mean(0) @ unit), abs=1e-3)
        assert found.target[layer] - found.benign[layer] == pytest.approx(
            found.scale[layer], rel=1e-5
        )
    assert found.provenance.n_pairs == len(PAIRS)
    assert found.provenance.source == pairs_digest(PAIRS)
    assert found.defaults.layers == (best_layer(found.separation),)


def test_prompts_that_do_not_differ(loaded):
    same = [ContrastPair(pair.positive, pair.positive) for pair in PAIRS]
    with pytest.raises(DirectionError, match="same activations at every layer"):
        extracted(
            loaded,
            same,
        )
    with pytest.raises(DirectionError, match=r"defaults to layers \[0\]"):
        extracted(
            loaded,
            PAIRS,
            hook="resid_pre",
            defaults=Defaults((0,)),
        )


def test_batches_and_progress_change_nothing(loaded, monkeypatch):
    whole = extracted(
        loaded,
        PAIRS,
    )
    monkeypatch.setattr("steering.extract.BATCH", 3)
    told: list[tuple[int, int]] = []
    parts = extracted(
        loaded,
        PAIRS,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(3, 10), (6, 10), (9, 10), (10, 10)]
    for layer in whole.layers:
        assert torch.allclose(parts.natural(layer), whole.natural(layer), rtol=1e-4, atol=1e-5)


def test_pca_and_mean_are_different_methods_of_one_sign(loaded):
    mean = extracted(
        loaded,
        PAIRS,
    )
    pca = extracted(loaded, PAIRS, method="pca")
    assert pca.provenance.method == "pca"
    for layer in mean.layers:
        assert 0 < float(mean.vectors[layer] @ pca.vectors[layer]) < 1 - 1e-6


def test_generated_positions_read_the_answer(loaded):
    model, tokenizer = loaded
    point = HookPoint("resid_post", 1)
    prompt = chat("w10", "w11", answer="w20 w21 w22")
    ids = tokenizer("<s> <|user|> w10 w11 <|end|> <|assistant|> w20 w21 w22").input_ids[1:]
    seen = capture(model, ids, [point])[point].double()
    last = activations(model, tokenizer, [prompt], [point], "last_generated")[point]
    mean = activations(model, tokenizer, [prompt], [point], "mean_generated")[point]
    assert torch.allclose(last[0], seen[-1], atol=1e-5)
    assert torch.allclose(mean[0], seen[-3:].mean(0), atol=1e-5)
    whole = activations(model, tokenizer, [prompt], [point], "last_prompt")[point]
    assert not torch.allclose(whole[0], last[0], atol=1e-2)


def test_generated_positions_need_an_answer(loaded):
    model, tokenizer = loaded
    for prompt in ("w10", chat("w10")):
        with pytest.raises(PairsError, match="end with the assistant's answer"):
            activations(model, tokenizer, [prompt], [HookPoint("resid_post", 0)], "last_generated")


def test_few_pairs_need_a_named_layer(loaded):
    with pytest.raises(PairsError, match="too few pairs"):
        extracted(
            loaded,
            PAIRS[:2],
        )
    found = extracted(loaded, PAIRS[:1], defaults=Defaults((2,)))
    assert found.defaults.layers == (2,)
    assert not found.separation
    with pytest.raises(PairsError, match="nothing to extract"):
        extracted(
            loaded,
            [],
        )


def test_reads_pairs(tmp_path: Path):
    path = tmp_path / "pairs.jsonl"
    lines = [
        {"positive": "w1", "negative": "w2"},
        {"positive": list(chat("w1")), "negative": "w2"},
    ]
    path.write_text("\n\n".join(json.dumps(line) for line in lines))
    pairs = read_pairs(path)
    assert pairs == [ContrastPair("w1", "w2"), ContrastPair(chat("w1"), "w2")]
    assert pairs_digest(pairs) != pairs_digest(pairs[::-1])
    assert pairs_digest(pairs[:1]) != pairs_digest([ContrastPair("w2", "w1")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no pairs"),
        ('{"positive": "a", "negative": "b"}\nnot json', "line 2 is not JSON"),
        ('{"positive": "a"}', 'line 1 needs exactly the keys "positive" and "negative"'),
        ('{"positive": "a", "negative": "b", "note": 1}', "exactly the keys"),
        ('{"positive": "", "negative": "b"}', "a prompt is text or a list of messages"),
        ('{"positive": [{"role": "user"}], "negative": "b"}', "a prompt is text or a list"),
        ('{"positive": 3, "negative": "b"}', "a prompt is text or a list of messages"),
        ("[1, 2]", "exactly the keys"),
    ],
)
def test_refuses_pairs_with_the_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "pairs.jsonl"
    path.write_text(text)
    with pytest.raises(PairsError, match=message):
        read_pairs(path)


def test_refuses_a_missing_file(tmp_path: Path):
    with pytest.raises(PairsError, match="cannot read pairs"):
        read_pairs(tmp_path / "none.jsonl")
