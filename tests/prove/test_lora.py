"""LoRA adapters beside policies: on two ranks, under speculation, and over HTTP with monitors."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.adapters import NAMES, cases, random_adapter, served
from tests.engine.test_exactness import TIE
from tests.engine.test_parallel import SPECULATE
from tests.faulty import REFUSAL
from tests.models import build_model, prompt
from tests.prove.test_faults import EVENTS, HOWS, PROMPT, TEXT, ask, asking, bind, guarded
from tests.served import Served

pytestmark = pytest.mark.prove

TOLERANCE = 1e-4
SETUPS = {"one rank": (), "two ranks": ("--tensor-parallel-size", "2")}
DRAFTS = (*SPECULATE, "--max-num-batched-tokens", "128")
SMALL = (
    *("--dtype", "float32", "--block-size", "32", "--kv-cache-memory-bytes", "134217728"),
    *("--max-num-seqs", "16", "--enable-lora", "--max-lora-rank", "8", "--lora-modules"),
)
POET, NAMED_AS_CHOICE = "poet", "tiny:push"


@pytest.mark.parametrize("setup", SETUPS)
def test_logits_are_those_of_merged_weights(
    checkpoint: Callable[[str], Path], tmp_path: Path, figures: dict[str, Any], setup: str
) -> None:
    """Two adapters and none, an edit and none, steering and none, in one batch."""
    model = build_model("llama")
    given = cases(model)
    with served(checkpoint("llama"), model, tmp_path, SETUPS[setup]) as world:
        gaps = world.gaps(given)
    moved = [effect for case, (_, effect) in zip(given, gaps, strict=True) if case.is_changed]
    figures[f"logits, {setup}"] = {
        "cases": len(gaps),
        "largest error": max(error for error, _ in gaps),
        "smallest effect": min(moved),
    }
    assert all(error < TOLERANCE for error, _ in gaps)
    assert min(moved) > 100 * TOLERANCE


def test_speculated_tokens_are_those_of_merged_weights(
    checkpoint: Callable[[str], Path], tmp_path: Path, figures: dict[str, Any]
) -> None:
    """N-gram drafts, on prompts that repeat themselves."""
    model = build_model("llama")
    given, ids = cases(model), prompt(20, seed=3) + prompt(6, seed=3)[1:] * 4
    short: list[float] = []
    with served(checkpoint("llama"), model, tmp_path, DRAFTS) as world:
        asks = [world.ask(case, ids, max_tokens=32) for case in given]
        for case, answer in zip(given, world.engine.ask(asks), strict=True):
            logits = world.logits(case, ids, answer.tokens)
            chosen = logits[range(len(answer.tokens)), answer.tokens]
            short.append(float((logits.max(-1).values - chosen).max()))
    figures["n-gram speculation"] = {"answers": len(short), "largest shortfall": max(short)}
    assert max(short) < TIE


@pytest.fixture(scope="module")
def server(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Generator[Served]:
    """The tiny model, three guards and two adapters, one of which has the name of a choice."""
    model, folder = build_model("llama"), tmp_path_factory.mktemp("adapters")
    poet, other = (random_adapter(model, i).save(folder / name) for i, name in enumerate(NAMES))
    policies = guarded(checkpoint("llama"), tmp_path_factory.mktemp("policies"))
    with Served(
        tmp_path_factory.mktemp("served"),
        [
            *(str(checkpoint("llama")), "--policies", str(policies)),
            *("--served-model-name", "tiny", *SMALL),
            *(f"{POET}={poet}", f"{NAMED_AS_CHOICE}={other}"),
        ],
    ) as found:
        yield found


def test_an_adapter_is_a_model_with_policies_of_its_own(server: Served) -> None:
    """Listed, chosen and answered under the policy; the longest name is the model."""
    listed = [card["id"] for card in server.http.get("/v1/models").json()["data"]]
    choices = ("push", *HOWS)
    models = ("tiny", POET, NAMED_AS_CHOICE)
    aliases = {f"{model}:{choice}" for model in models for choice in choices}
    assert sorted(listed) == sorted({*models, *aliases})
    texts: dict[str, str] = {}
    for model, policy in (
        ("tiny", None),
        (POET, None),
        (NAMED_AS_CHOICE, None),
        (f"{POET}:push", "push@1"),
        (f"{NAMED_AS_CHOICE}:push", "push@1"),
    ):
        body = asking("none") | {"model": model}
        answer = server.http.post(TEXT, json={k: v for k, v in body.items() if k != "policy"})
        assert answer.headers["x-trimtab-policy"] == (policy or "none")
        texts[model] = answer.json()["choices"][0]["text"]
    assert len(set(texts.values())) == len(texts)
    named = ask(server, "push", model=POET)[0]
    assert named == texts[f"{POET}:push"]


def test_every_monitor_is_unfit_for_an_adapter(server: Served, figures: dict[str, Any]) -> None:
    """What blocks refuses before anything is given; the others go on, and are counted."""
    plain, poem = ask(server, "none")[0], ask(server, "none", model=POET)[0]
    told: dict[str, Any] = {}
    for how in HOWS:
        bind(server, how)
        assert ask(server, "none")[:2] == (plain, "length"), "unfit without an adapter"
        text, reason, shown = ask(server, "none", model=POET)
        told[how] = shown["verdicts"]["harm"]
        expected = (REFUSAL, "content_filter") if how == "block" else (poem, "length")
        assert (text, reason) == expected
    bind(server)
    metrics = server.http.get("/metrics").text
    page = server.http.get(EVENTS, headers=server.admin, params={"monitor": "harm"}).json()
    events = sorted((e["policy"], e["action"], e["fault"]) for e in page["events"])
    figures["monitors under an adapter"] = {
        "actions": {how: verdict["action"] for how, verdict in told.items()},
        "events": events,
    }
    assert {how: (v["action"], v["fault"]) for how, v in told.items()} == {
        "block": ("refuse", "adapter"),
        "pass": ("pass", "adapter"),
        "shadow": ("none", "adapter"),
    }
    assert events == [("block@1", "refuse", "adapter"), ("pass@1", "pass", "adapter")]
    for how, mode in (("block", "enforce"), ("pass", "enforce"), ("shadow", "shadow")):
        labels = f'mode="{mode}",monitor="harm",policy="{how}",reason="adapter"'
        assert f"trimtab_monitor_faults_total{{{labels}}} 1.0" in metrics


@pytest.mark.parametrize("more", [{"prompt_logprobs": 1}, {"echo": True, "logprobs": 1}], ids=str)
def test_the_logprobs_of_a_prompt_are_a_400(server: Served, more: dict[str, Any]) -> None:
    """They would end vLLM's CPU engine; it goes on."""
    answer = server.http.post(TEXT, json=asking("none") | {"prompt": PROMPT} | more)
    assert answer.status_code == 400
    assert "not served beside LoRA adapters" in answer.json()["error"]["message"]
    assert ask(server, "none")[1] == "length" and server.is_ready()


def test_an_adapter_that_cannot_be_loaded_is_no_server(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """It ends, saying which option and why."""
    options = [*SMALL, f"gone={tmp_path / 'nowhere'}"]
    with pytest.raises(AssertionError, match="does not serve with these --lora-modules"):
        Served(tmp_path, [str(checkpoint("llama")), *options])
