import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from forward.fingerprint import model_fingerprint
from service.commands.direction import app
from steering.library import read_directions
from tests.models import D_MODEL, N_LAYERS

RUNNER = CliRunner()


def run(*args: object) -> Result:
    return RUNNER.invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def model(checkpoint) -> Path:
    return checkpoint("llama")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    lines = [{"positive": f"w{20 + i} w50", "negative": f"w{20 + i} w60"} for i in range(9)]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def printed(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_extract_then_show(model: Path, pairs: Path, tmp_path: Path):
    out = tmp_path / "artifacts"
    options = ["--pairs", pairs, "--name", "toy", "--out", out]
    made = printed(
        run("extract", model, *options, "--layer", 2, "--layer", 1, "--tokens", "from:3", "--json")
    )
    found = read_directions(out)["toy"]
    assert made["digest"] == found.digest == Path(made["path"]).stem
    assert found.direction.model == model_fingerprint(model).digest
    assert found.direction.layers == tuple(range(N_LAYERS))
    assert made["card"]["d_model"] == D_MODEL
    assert made["card"]["defaults"]["layers"] == [1, 2]
    assert made["card"]["defaults"]["tokens"] == {"from": 3}
    assert made["card"]["provenance"]["n_pairs"] == 9
    for what in (["toy", "--dir", out], [made["path"]], [made["digest"], "--dir", out]):
        assert printed(run("show", *what, "--json")) == made
    shown = run("show", "toy", "--dir", out)
    assert made["digest"] in shown.stdout
    assert "1*" in shown.stdout
    assert "from 3" in shown.stdout


def test_extract_chooses_a_layer_and_replaces(model: Path, pairs: Path, tmp_path: Path):
    out = tmp_path / "artifacts"
    options = ["--pairs", pairs, "--name", "toy", "--out", out, "--json"]
    made = printed(run("extract", model, *options))
    separation = made["card"]["separation"]
    (layer,) = made["card"]["defaults"]["layers"]
    best = max(separation, key=lambda k: (separation[k]["auroc"], separation[k]["d_prime"]))
    assert layer == int(best)
    other = printed(run("extract", model, *options, "--method", "pca", "--op", "ablate"))
    assert other["digest"] != made["digest"]
    assert read_directions(out)["toy"].digest == other["digest"]


def test_import(model: Path, tmp_path: Path):
    path = tmp_path / "v.npz"
    vector = np.arange(1, D_MODEL + 1, dtype=np.float32)
    np.savez(path, v=vector)
    made = printed(
        run(
            *("import", path, "--format", "npz", "--model", model, "--name", "brought"),
            *("--layer", 3, "--out", tmp_path / "artifacts", "--json"),
        )
    )
    assert made["card"]["scale"] == {"3": pytest.approx(float(np.linalg.norm(vector)))}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--layer", "9"], "layers [9] are outside the model: it has 4, 0 to 3"),
        (["--name", "Not A Name"], "'Not A Name' is not a name"),
        (["--tokens", "sometimes"], "'sometimes' is not a token clause"),
        (["--tokens", "from:x"], "'from:x' is not a token clause"),
        (["--coefficient", "nan"], "must be finite"),
        (["--pairs", "/none.jsonl"], "cannot read pairs"),
    ],
)
def test_extract_refusals(model: Path, pairs: Path, tmp_path: Path, args: list[str], message: str):
    out = tmp_path / "artifacts"
    result = run("extract", model, "--pairs", pairs, "--name", "toy", "--out", out, *args)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"v": np.ones(3, np.float32)}, "is torch.float32 of shape (3,)"),
        ({"v": np.zeros(D_MODEL, np.float32)}, "zero"),
        ({"v": np.full(D_MODEL, np.nan, np.float32)}, "not finite"),
        (None, "not an npz file"),
    ],
)
def test_import_refusals(model: Path, tmp_path: Path, content, message: str):
    path = tmp_path / "v.npz"
    if content is None:
        path.write_bytes(b"no")
    else:
        np.savez(path, **content)
    result = run(
        *("import", path, "--format", "npz", "--model", model, "--name", "brought"),
        *("--layer", 3, "--out", tmp_path / "artifacts"),
    )
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_show_refusals(tmp_path: Path):
    for args in (["nobody"], ["nobody", "--dir", tmp_path], [tmp_path / "x.safetensors"]):
        result = run("show", *args)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")


def test_no_such_model(pairs: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run("extract", "/no/model", "--pairs", pairs, "--name", "toy", "--out", tmp_path)
    assert result.exit_code == 1
    assert "'/no/model' is no folder here" in result.stderr
