import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from forward.fingerprint import model_fingerprint
from service.artifacts import library_of_folder
from service.commands.sae import app
from tests.models import D_MODEL

RUNNER = CliRunner()


def run(*args: object) -> Result:
    return RUNNER.invoke(app, [str(arg) for arg in args])


def printed(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def model(checkpoint) -> Path:
    return checkpoint("llama")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    lines: list[object] = []
    for i in range(60):
        words = " ".join(f"w{10 + (7 * i + 3 * j) % 200}" for j in range(12))
        turns = [{"role": "user", "content": words}, {"role": "assistant", "content": "w9 w8"}]
        lines.append([words, {"text": words}, turns, {"messages": turns[:1], "kind": "x"}][i % 4])
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture(scope="module")
def trained(model: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sae")
    out, lens = folder / "artifacts", folder / "lens"
    options = ["--layer", 1, "--latents", 256, "--k", 32, "--tokens", 40960, "--json"]
    where = ["--texts", texts, "--name", "toy", "--out", out, "--sae-lens", lens]
    made = printed(run("train", model, *where, *options))
    return {**made, "out": out, "lens": lens}


def test_train_saves_an_artifact_and_a_copy_for_sae_lens(trained, model: Path):
    found = library_of_folder(trained["out"]).saes["toy"]
    assert found.digest == trained["digest"] == Path(trained["path"]).stem
    assert found.content.model == model_fingerprint(model).digest
    assert found.content.hook == trained["card"]["hook"] == "resid_post.1"
    assert found.content.coder.k == 32
    assert trained["card"]["measures"]["fvu"] < 0.5
    config = json.loads((trained["lens"] / "cfg.json").read_text())
    assert config["metadata"]["hook_name"] == "blocks.1.hook_resid_post"
    copied = load_file(trained["lens"] / "sae_weights.safetensors")
    assert torch.equal(copied["W_enc"], found.content.coder.w_enc)


def test_show_card_and_firing(trained, model: Path, texts: Path):
    for what in (["toy", "--dir", trained["out"]], [trained["path"]]):
        shown = printed(run("show", *what, "--json"))
        assert shown["card"] == trained["card"]
    assert "toy: topk, k 32, 256 features" in run("show", trained["path"]).stdout
    asked = ["show", trained["path"], "--texts", texts, "--model", model, "-n", 3]
    found = printed(run(*asked, "--feature", 5, "--json"))
    assert found["feature"] == 5
    peaks = [span["peak"] for span in found["spans"]]
    assert peaks == sorted(peaks, reverse=True)
    assert all(len(s["tokens"]) == len(s["activations"]) for s in found["spans"])
    assert "#5: active on" in run(*asked, "--feature", 5).stdout


def test_import_measures_and_names_the_better_point(trained, model: Path, texts: Path, tmp_path):
    common = ["--model", model, "--name", "copy", "--out", tmp_path, "--texts", texts]
    made = printed(run("import", trained["lens"], *common, "--json"))
    sae = library_of_folder(tmp_path).saes["copy"].content
    assert made["card"]["made_by"] == "saelens"
    assert sae.hook == "resid_post.1"
    assert 0 < sae.measures["fvu"] < 0.5
    assert sae.threshold_from.startswith("estimated on")
    assert "resid_post.1" in run("import", trained["lens"], *common).stdout
    wrong = run("import", trained["lens"], *common, "--at", "resid_post.3", "--max-fvu", 0.45)
    assert wrong.exit_code == 1
    assert "does not fit at resid_post.3" in wrong.stderr
    assert "It fits at resid_post.1" in wrong.stderr
    state = load_file(trained["lens"] / "sae_weights.safetensors")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "cfg.json").write_bytes((trained["lens"] / "cfg.json").read_bytes())
    save_file({**state, "b_enc": state["b_enc"] - 1e3}, broken / "sae_weights.safetensors")
    dead = run("import", broken, *common)
    assert dead.exit_code == 1
    assert "No sibling fits either" in dead.stderr


def test_import_unmeasured_is_said_so(trained, model: Path, tmp_path: Path):
    common = ["--model", model, "--name", "copy", "--out", tmp_path]
    refused = run("import", trained["lens"], *common)
    assert refused.exit_code == 1
    assert "give --texts, on which the fit is measured, or --ungated" in refused.stderr
    made = printed(run("import", trained["lens"], *common, "--ungated", "--json"))
    assert made["card"]["measures"] == {}
    assert "how well it fits is not known" in run("show", made["path"]).stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--layer", 9], "outside the model"),
        (["--layer", 1, "--at", "resid_post.1"], "either --layer or --at"),
        (["--layer", 1, "--name", "Not A Name"], "is not a name"),
        (["--layer", 1, "--k", 900], "k must be 1 to the latents"),
        (["--layer", 1, "--texts", "/none.jsonl"], "cannot read texts"),
    ],
)
def test_train_refusals(model: Path, texts: Path, tmp_path: Path, args, message: str):
    out = tmp_path / "artifacts"
    common = ["--texts", texts, "--name", "toy", "--out", out, "--latents", 64]
    result = run("train", model, *common, *args)
    assert result.exit_code == 1
    assert message in result.stderr
    assert not out.exists()


def test_show_refusals(trained, tmp_path: Path):
    for args, message in (
        (["nobody", "--dir", trained["out"]], "no dictionary is named 'nobody'"),
        ([trained["path"], "--feature", 3], "--feature needs --texts"),
    ):
        result = run("show", *args)
        assert result.exit_code == 1
        assert message in result.stderr


def test_default_width_is_eight_times_the_model_s(model: Path):
    from service.saes import width_of

    assert width_of(str(model)) == D_MODEL
