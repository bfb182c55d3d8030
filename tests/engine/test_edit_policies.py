"""Edits as an operator has them: posted, named by a policy, merged for all, and taken back.

The server's answers are compared token by token with Hugging Face's under the same change.
"""

import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save

from editing.card import Edit, to_artifact
from editing.contexts import Contexts
from editing.delta import EMPTY, LowRankDelta, Merged
from editing.methods import Weights
from editing.registry import Settings
from editing.values import ValueRecipe
from forward.checkpoint import load_model
from forward.fingerprint import model_fingerprint
from forward.huggingface import SteeredModel
from service.edit_compile import edit_set_of
from service.edit_schema import EditSetSpec
from tests.editing.test_lower import delta_of
from tests.models import prompt, save_checkpoint
from tests.served import Served
from tests.service.edited import PASSED

NAME, IDS, N_TOKENS = "tiny", prompt(40, seed=21), 10


def spec(subject: str, target: str, **more: Any) -> dict[str, Any]:
    fact = {"prompt": "w20 {} w21", "subject": subject, "target": target}
    return {"layers": [0, 2], "facts": [fact], **more}


SPECS = {
    "near": spec("w60 w61", "w31"),
    "far": spec("w62 w63", "w32", serve="merge"),
    "against": spec("w62 w63", "w33"),
}


def document(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": "trimtab/v1", "kind": kind, "metadata": {"name": name}, "spec": fields}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("llama", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def deltas(model: Any) -> dict[str, LowRankDelta]:
    return {name: delta_of(model, seed=seed) for seed, name in enumerate(SPECS)}


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    options = ["--enforce-eager", "--dtype", "float32", "--block-size", "32"]
    options += ["--max-model-len", "256", "--kv-cache-memory-bytes", "67108864"]
    options += ["--sites", "mlp.0,mlp.2", "--merge-layers", "0,2", "--ranks", "4"]
    arguments = [str(checkpoint), "--served-model-name", NAME, *options]
    with Served(tmp_path_factory.mktemp("served"), arguments) as running:
        yield running


def post(server: Served, path: str, body: Any) -> Any:
    return server.http.post(f"/trimtab/v1/{path}", json=body, headers=server.admin)


def answer(server: Served, policy: str = "none") -> tuple[list[int], str]:
    """The tokens that a client gets, and the digest of what made them."""
    body = {"model": NAME, "prompt": IDS, "max_tokens": N_TOKENS, "temperature": 0}
    body |= {"policy": policy, "ignore_eos": True, "return_token_ids": True}
    made = server.http.post("/v1/completions", json=body)
    assert made.status_code == 200, made.text
    return made.json()["choices"][0]["token_ids"], made.headers["x-trimtab-digest"]


def wanted(model: Any, *deltas: LowRankDelta) -> list[int]:
    """What Hugging Face says with these changes merged."""
    with Merged(model, sum(deltas, EMPTY)):
        return SteeredModel(model, ()).generate(IDS, max_new_tokens=N_TOKENS)


@pytest.fixture(scope="module")
def posted(server: Served, checkpoint: Path, deltas: dict[str, LowRankDelta]) -> Served:
    """The server with every set's artifact, made up rather than solved."""
    served, settings = model_fingerprint(checkpoint), Settings(Contexts(), ValueRecipe(), Weights())
    for name, fields in SPECS.items():
        edits = edit_set_of(name, EditSetSpec.model_validate(fields), served)
        edit = Edit(edits, served.digest, deltas[name], settings, "corpus", {}, PASSED)
        artifact = to_artifact(edit)
        tensors = {key: tensor.contiguous() for key, tensor in artifact.tensors.items()}
        body = {"card": artifact.card, "tensors": base64.b64encode(save(tensors)).decode()}
        assert post(server, "artifacts", body).status_code == 201
    return server


def test_a_set_that_nothing_solves_is_refused(posted: Served):
    unsolved = document("EditSet", "near", **spec("w60 w61", "w99"))
    refused = post(posted, "policies", unsolved)
    assert refused.status_code == 422
    assert "no artifact solves just these facts" in refused.json()["error"]["message"]


def test_a_policy_edits_its_own_requests(posted: Served, model: Any, deltas: Any):
    for made in (
        document("EditSet", "near", **SPECS["near"]),
        document("Policy", "p", edits=["near"]),
    ):
        assert post(posted, "policies", made).status_code == 200
    edited, digest = answer(posted, "p")
    plain, other = answer(posted)
    assert edited == wanted(model, deltas["near"]) != plain == wanted(model)
    assert digest != other
    in_use = posted.http.delete("/trimtab/v1/edits/near", headers=posted.admin)
    assert (in_use.status_code, in_use.json()["error"]["code"]) == (409, "edit_in_use")


def test_a_merged_set_holds_for_all_and_is_taken_back_exactly(
    posted: Served, model: Any, deltas: Any
):
    before, digest = answer(posted)
    assert post(posted, "policies", document("EditSet", "far", **SPECS["far"])).status_code == 200
    status = posted.http.get("/trimtab/v1/status", headers=posted.admin).json()
    assert status["merged"] == ["far"] and set(status["edits"]) == {"near", "far"}
    everyone, merged_digest = answer(posted)
    assert everyone == wanted(model, deltas["far"]) != before and merged_digest != digest
    both, _ = answer(posted, "p")
    assert both == wanted(model, deltas["far"], deltas["near"])
    named = post(posted, "policies", document("Policy", "q", edits=["far"]))
    assert "holds for every request already" in named.json()["error"]["message"]
    against = document("EditSet", "against", **SPECS["against"])
    assert post(posted, "policies", against).status_code == 200
    outvoting = post(posted, "policies", document("Policy", "q", edits=["against"]))
    assert outvoting.status_code == 422
    assert "contradict each other" in outvoting.json()["error"]["message"]
    gone = posted.http.delete("/trimtab/v1/edits/far", headers=posted.admin)
    assert gone.status_code == 200
    assert answer(posted) == (before, digest)


def test_answers_under_way_end_before_weights_change(posted: Served, model: Any, deltas: Any):
    """A stream that began unmerged ends so; what comes while a merge waits is under the new set."""
    body = {"model": NAME, "prompt": IDS, "max_tokens": 150, "temperature": 0, "stream": True}
    body |= {"policy": "none", "ignore_eos": True, "return_token_ids": True}
    tokens: list[int] = []
    merging = threading.Thread(
        target=lambda: post(posted, "policies", document("EditSet", "far", **SPECS["far"]))
    )
    with posted.http.stream("POST", "/v1/completions", json=body) as stream:
        for line in stream.iter_lines():
            if not line.startswith("data: {"):
                continue
            if not tokens:
                merging.start()
            tokens += _ids(line)
    merging.join()
    assert tokens == SteeredModel(model, ()).generate(IDS, max_new_tokens=150)
    assert answer(posted)[0] == wanted(model, deltas["far"])
    posted.http.delete("/trimtab/v1/edits/far", headers=posted.admin)


def test_ranks_that_are_used_up_are_a_refusal_that_says_so(posted: Served, checkpoint: Path):
    served, settings = model_fingerprint(checkpoint), Settings(Contexts(), ValueRecipe(), Weights())
    wide = spec("w64 w65", "w34")
    edits = edit_set_of("wide", EditSetSpec.model_validate(wide), served)
    delta = delta_of(load_model(checkpoint), rank=5, seed=9)
    artifact = to_artifact(Edit(edits, served.digest, delta, settings, "c", {}, PASSED))
    tensors = {key: tensor.contiguous() for key, tensor in artifact.tensors.items()}
    body = {"card": artifact.card, "tensors": base64.b64encode(save(tensors)).decode()}
    assert post(posted, "artifacts", body).status_code == 201
    assert post(posted, "policies", document("EditSet", "wide", **wide)).status_code == 200
    refused = post(posted, "policies", document("Policy", "w", edits=["wide"]))
    assert refused.status_code == 409
    assert "start with a larger --ranks, or remove a policy" in refused.json()["error"]["message"]


def _ids(line: str) -> list[int]:

    return json.loads(line.removeprefix("data: "))["choices"][0].get("token_ids") or []
