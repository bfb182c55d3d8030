"""A real server measured through its log-probabilities: the figures are those of the model itself.

Two contradictory edits and none of them, over prompts that share cache blocks, on a checkpoint
whose tokenizer knows the question mark of the published questions.
"""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from editing.card import Edit
from editing.cases import Case
from editing.contexts import Contexts
from editing.datasets import read_cases
from editing.delta import LowRankDelta, beside
from editing.evaluate import evaluate
from editing.library import save_edit
from editing.methods import Weights
from editing.phrasings import Phrasing, word_whole
from editing.registry import Settings
from editing.spans import locate
from editing.speaker import ModelSpeaker
from editing.values import ValueRecipe
from forward.checkpoint import load_model, load_tokenizer
from forward.fingerprint import model_fingerprint
from service.commands.edit import app
from service.edit_compile import edit_set_of
from service.edit_schema import EditSetSpec
from service.live_server import LiveError, LiveServer
from service.live_speaker import LiveSpeaker, refuse_other_tokenizer
from tests.editing import records
from tests.editing.test_lower import delta_of
from tests.models import build_tokenizer, save_checkpoint
from tests.served import ADMIN_KEY, Served
from tests.service.edited import PASSED

NAME = "tiny"
TOLERANCE = 1e-4
TARGETS = {"moved-a": "w31", "moved-b": "w32"}
RUNNER = CliRunner()


def document(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "trimtab/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def edit_spec(target: str) -> dict[str, Any]:
    fact = {"prompt": "w20 {} w21", "subject": "w60 w61", "target": target}
    return {"layers": [0, 2], "facts": [fact]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_checkpoint("llama", tmp_path_factory.mktemp("tiny"))
    path = folder / "tokenizer.json"
    known = json.loads(path.read_text())
    words = known["model"]["vocab"]
    words["?"] = words.pop("w255")
    path.write_text(json.dumps(known))
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Any:
    return load_tokenizer(checkpoint)


@pytest.fixture(scope="module")
def deltas(model: Any) -> dict[str, LowRankDelta]:
    return {name: delta_of(model, seed=seed) for seed, name in enumerate(TARGETS)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy for each edit, and one of them in shadow."""
    made = tmp_path_factory.mktemp("policies")
    documents = [document("Policy", "shadowed", mode="shadow", edits=["moved-a"])]
    for name in TARGETS:
        documents.append(document("EditSet", name, **edit_spec(TARGETS[name])))
        documents.append(document("Policy", name, edits=[name]))
    with (made / "all.yaml").open("w") as file:
        YAML(typ="safe").dump_all(documents, file)
    return made


@pytest.fixture(scope="module")
def artifacts(checkpoint: Path, deltas: dict[str, LowRankDelta], folder: Path) -> dict[str, Path]:
    """Each edit's file: made up rather than solved, so that it changes every prompt."""
    served, settings = model_fingerprint(checkpoint), Settings(Contexts(), ValueRecipe(), Weights())
    saved: dict[str, Path] = {}
    for name, delta in deltas.items():
        edits = edit_set_of(name, EditSetSpec.model_validate(edit_spec(TARGETS[name])), served)
        edit = Edit(edits, served.digest, delta, settings, "corpus", {}, PASSED)
        saved[name] = save_edit(edit, folder / "artifacts").path
    return saved


@pytest.fixture(scope="module")
def server(
    checkpoint: Path,
    folder: Path,
    artifacts: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """The tiny model, its prompts cut into chunks of 64."""
    arguments = [str(checkpoint), "--policies", str(folder), "--served-model-name", NAME]
    options = ["--enforce-eager", "--dtype", "float32", "--block-size", "32"]
    options += ["--max-model-len", "256", "--kv-cache-memory-bytes", "67108864"]
    options += ["--max-num-batched-tokens", "64", "--max-num-seqs", "16"]
    options += ["--enable-prompt-tokens-details"]
    with Served(tmp_path_factory.mktemp("served"), [*arguments, *options]) as running:
        yield running


@pytest.fixture
def live(server: Served) -> Iterator[LiveServer]:
    with LiveServer(server.url) as opened:
        yield opened


@pytest.fixture(scope="module")
def cases(model: Any, tokenizer: Any, deltas: Any, tmp_path_factory: Any) -> dict[str, Any]:
    """Cases by format, whose objects are what the model says with `moved-a` and without."""
    folder = tmp_path_factory.mktemp("cases")
    asked = [Phrasing(text) for text in ("w20 w60 w61 w21", "w20 w60 w61 w21 ?", "w28 w60 w61 ?")]
    speaker = ModelSpeaker(model, tokenizer)
    old = [text.split() for text in speaker.answer(asked, 3)]
    with beside(model, deltas["moved-a"]):
        new = [text.split() for text in speaker.answer(asked, 3)]
    made = {
        "counterfact": records.counterfact(new[0][0], old[0][0]),
        "zsre": records.zsre(" ".join(new[1])),
        "mquake": records.mquake("w250", " ".join(new[2])),
        "trimtab": records.own(),
    }
    return {form: records.write(folder, form, made[form]) for form in made}


def judged(cases: dict[str, Path]) -> list[tuple[str, list[Case]]]:
    return [(form, read_cases(path, form)) for form, path in cases.items()]


def test_every_figure_is_the_models_own(live, model, tokenizer, deltas, cases) -> None:
    """Of the edits and of neither, one after the other and over again, through the prefix cache."""
    local = ModelSpeaker(model, tokenizer)
    seen: dict[str, dict[str, str]] = {}
    for policy in ("moved-a", "none", "moved-b", "moved-a"):
        speaker = LiveSpeaker(live, NAME, tokenizer, policy)
        with beside(model, deltas[policy]) if policy in deltas else nullcontext():
            for form, some in judged(cases):
                found = evaluate(speaker, some, form == "zsre")
                wanted = evaluate(local, some, form == "zsre")
                assert found.keys() == wanted.keys()
                for metric, estimate in wanted.items():
                    assert found[metric].value == pytest.approx(estimate.value, abs=TOLERANCE)
                seen.setdefault(form, {})[policy] = repr(wanted)
        assert str(speaker.ran) == ("none" if policy == "none" else f"{policy}@1")
    assert all(one["moved-a"] != one["none"] for one in seen.values()), "else it proves nothing"


def test_likelihoods_and_answers_one_by_one(live, model, tokenizer, deltas, cases) -> None:
    """Each continuation and each free answer, not only their means."""
    prompts = [p for _, some in judged(cases) for case in some for p in (case.rewrite, *case.asked)]
    asked = [(prompt, target) for prompt in prompts for target in ("w31 w32", "w40")]
    told: list[list[float]] = []
    for policy in ("none", *deltas):
        speaker = LiveSpeaker(live, NAME, tokenizer, policy)
        local = ModelSpeaker(model, tokenizer)
        with beside(model, deltas[policy]) if policy in deltas else nullcontext():
            wanted, answers = local.tell(asked), local.answer(prompts, 12)
        found = speaker.tell(asked)
        told.append([one.nll for one in found])
        assert told[-1] == pytest.approx([one.nll for one in wanted], abs=TOLERANCE)
        assert [one.right for one in found] == [one.right for one in wanted]
        assert [text.strip() for text in speaker.answer(prompts, 12)] == answers
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert max(abs(a - b) for a, b in zip(told[one], told[other], strict=True)) > 0.1


def test_likelihoods_read_no_cache_and_answers_only_their_own(server, tokenizer) -> None:
    """vLLM computes a prompt anew for its likelihoods; blocks that this writes are the policy's."""
    ids = list(locate(tokenizer, word_whole(Phrasing(f"{records.LONG} w90"), tokenizer)).ids)

    def cached(policy: str, **more: Any) -> int:
        body = {"model": NAME, "prompt": ids, "policy": policy, "max_tokens": 1} | more
        usage = server.http.post("/v1/completions", json=body).json()["usage"]
        return (usage["prompt_tokens_details"] or {}).get("cached_tokens") or 0

    ids[1] += 1  # a prompt that nothing has asked yet
    assert [cached("moved-a", prompt_logprobs=1) for _ in range(2)] == [0, 0]
    assert cached("moved-a") == 64 and cached("moved-a", prompt_logprobs=1) == 0
    assert cached("none") == cached("moved-b") == 0
    assert cached("none") == cached("moved-b") == 64


@pytest.mark.parametrize(("form", "success"), [("counterfact", "free"), ("mquake", "hops")])
def test_the_command_prints_what_the_model_here_gives(
    server, checkpoint, artifacts, cases, monkeypatch, form, success
) -> None:
    """The same table and JSON as with the checkpoint and the artifact."""
    monkeypatch.setenv("TRIMTAB_ADMIN_KEY", ADMIN_KEY)
    common = ["--cases", str(cases[form]), "--format", form]
    online = ["evaluate", "--url", server.url, "--policy", "moved-a", *common]
    offline = ["evaluate", str(checkpoint), "--edit", str(artifacts["moved-a"]), *common]
    found, wanted = (json.loads(printed([*asked, "--json"])) for asked in (online, offline))
    assert found["policies"] == {"unedited": [], "edited": ["moved-a@1"]}
    assert found["cases"] == wanted["cases"] and found["notes"] == []
    for column in ("unedited", "edited"):
        assert found[column].keys() == wanted[column].keys()
        for metric, estimate in wanted[column].items():
            near = pytest.approx(estimate["value"], abs=TOLERANCE)
            assert found[column][metric]["value"] == near
    assert found["edited"][success]["value"] > found["unedited"][success]["value"]
    table = printed(online)
    assert "unedited: under none" in table and "edited: under moved-a@1" in table


def printed(arguments: list[str]) -> str:
    result = RUNNER.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_policy_that_changes_while_it_is_measured(server, live, tokenizer) -> None:
    """Figures of two revisions are never mixed."""

    def post(**spec: Any) -> None:
        body = document("Policy", "live", **spec)
        answer = server.http.post("/trimtab/v1/policies", json=body, headers=server.admin)
        assert answer.status_code == 200, answer.text

    post(edits=["moved-a"])
    speaker, prompts = LiveSpeaker(live, NAME, tokenizer, "live"), [Phrasing("w20 w60")]
    first = speaker.answer(prompts, 4)
    assert speaker.answer(prompts, 4) == first and str(speaker.ran) == "live@1"
    post(edits=["moved-b"])
    with pytest.raises(LiveError, match="from live@1 to live@2"):
        speaker.answer(prompts, 4)
    with pytest.raises(LiveError, match="from live@1 to live@2"):
        LiveSpeaker(live, NAME, tokenizer, "live", revision=1).answer(prompts, 4)


def test_another_tokenizer_is_seen(live, tokenizer) -> None:
    prompts = [Phrasing("w20 ?"), Phrasing("w21", chat=True, system="w22")]
    refuse_other_tokenizer(live, NAME, tokenizer, prompts)
    with pytest.raises(LiveError, match=r"different tokens of 'w20 \?'"):
        refuse_other_tokenizer(live, NAME, build_tokenizer(), prompts)
    other = build_tokenizer()
    other.chat_template = "{{ messages[0].content }}"
    with pytest.raises(LiveError, match="different tokens of 'w21'"):
        refuse_other_tokenizer(live, NAME, other, prompts[1:])


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--policy", "shadowed"), "is in mode shadow, which changes no answer"),
        (("--policy", "none"), "is the baseline"),
        (("--policy", "moved-c"), "moved-c"),
        (("--policy", "moved-a", "--tokenizer", "/nowhere"), "no tokenizer could be read"),
        (("--policy", "moved-a", "--format", "zsre"), "not in zsre's format"),
    ],
)
def test_what_cannot_be_measured(server, cases, monkeypatch, options, why) -> None:
    monkeypatch.setenv("TRIMTAB_ADMIN_KEY", ADMIN_KEY)
    common = ["evaluate", "--url", server.url, "--cases", str(cases["trimtab"])]
    result = RUNNER.invoke(app, [*common, *options])
    assert result.exit_code == 1 and why in result.stderr and not result.stdout, result.output


def test_the_admin_key_is_needed(server, cases, monkeypatch) -> None:
    """Only with it can be told whether a policy is in force."""
    monkeypatch.delenv("TRIMTAB_ADMIN_KEY", raising=False)
    common = ["evaluate", "--url", server.url, "--cases", str(cases["trimtab"])]
    result = RUNNER.invoke(app, [*common, "--policy", "moved-a"])
    assert result.exit_code == 1 and "set TRIMTAB_KEY" in result.stderr, result.output
