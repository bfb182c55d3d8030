import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from forward.container import read_artifact
from forward.fingerprint import model_fingerprint
from monitors.calibration import Calibration
from monitors.calibration_card import from_artifact as calibration_of
from monitors.probe_card import from_artifact as probe_of
from service.commands import direction
from service.commands.monitor import app
from tests.models import D_MODEL

RUNNER = CliRunner()
N = 120


def run(*args: object) -> Result:
    return RUNNER.invoke(app, [str(arg) for arg in args])


def printed(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def lines(path: Path, items: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(item) for item in items))
    return path


def asked(i: int, label: int, seed: int = 0, **more: Any) -> dict[str, Any]:
    """A prompt of random words; a positive one ends with one word over and over."""
    words = np.random.default_rng(1000 * seed + 10 * i + label).integers(60, 250, 2 + i % 3)
    text = " ".join([f"w{word}" for word in words] + ["w50"] * (4 * label))
    return {"messages": [{"role": "user", "content": text}], "label": label, **more}


@pytest.fixture(scope="module")
def model(checkpoint) -> Path:
    return checkpoint("llama")


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy folder with a fitted probe, a direction, a monitor and policies that write."""
    root = tmp_path_factory.mktemp("policies")
    items = [asked(i, label) for i in range(30) for label in (0, 1)]
    train = lines(root / "train.jsonl", items)
    options = ["--items", train, "--name", "word", "--at", "resid_post.2"]
    printed(run("fit", model, *options, "--out", root / "artifacts", "--json"))
    pairs = [{"positive": f"w{20 + i} w50", "negative": f"w{20 + i} w60"} for i in range(9)]
    made = RUNNER.invoke(
        direction.app,
        [
            *("extract", str(model), "--pairs", str(lines(root / "pairs.jsonl", pairs))),
            *("--name", "toy", "--layer", "1", "--out", str(root / "artifacts")),
        ],
    )
    assert made.exit_code == 0, made.output
    (root / "harm.yaml").write_text(
        "apiVersion: trimtab/v1\nkind: Monitor\nmetadata: {name: harm}\n"
        "spec: {read: {probe: word}, tokens: last_prompt}\n"
    )
    (root / "policies.yaml").write_text(
        "apiVersion: trimtab/v1\nkind: Policy\nmetadata: {name: push}\n"
        "spec: {mode: enforce, steer: [{direction: toy, coefficient: 3}]}\n---\n"
        "apiVersion: trimtab/v1\nkind: Policy\nmetadata: {name: late}\n"
        "spec: {mode: enforce, steer: [{direction: toy, coefficient: 3, tokens: generation}]}\n"
        "---\napiVersion: trimtab/v1\nkind: Binding\nmetadata: {name: acme}\n"
        "spec: {for: {tenants: [acme]}, mandatory: [push]}\n---\n"
        "apiVersion: trimtab/v1\nkind: Binding\nmetadata: {name: trial}\n"
        "spec: {for: {keys: [ann]}, mandatory: [late],\n"
        "  canary: {policy: push, replaces: late, share: 0.5}}\n"
    )
    lines(root / "benign.jsonl", [asked(i, 0, 1, slice=f"s{i % 2}") for i in range(N)])
    lines(root / "harmful.jsonl", [asked(i, 1, 1, slice="plain") for i in range(20)])
    fresh = [asked(i, label, 2, slice="fresh") for i in range(25) for label in (0, 1)]
    lines(root / "fresh.jsonl", fresh)
    return root


def calibrated(model: Path, folder: Path, out: Path, *more: object) -> Any:
    return printed(
        run(
            *("calibrate", model, folder / "harm.yaml", "--benign", folder / "benign.jsonl"),
            *("--positive", folder / "harmful.jsonl", "--artifacts", folder / "artifacts"),
            *("--out", out, "--json", *more),
        )
    )


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("mean-difference", ["--position", "-1"]),
        ("attention", ["--position", "every", "--tokens", "from:1"]),
    ],
)
def test_fit_then_show(model: Path, tmp_path: Path, kind: str, more: list[str]):
    items = [asked(i, label, answer="w91 w92 w93") for i in range(6) for label in (0, 1)]
    out = tmp_path / "artifacts"
    options = ["--items", lines(tmp_path / "items.jsonl", items), "--name", "p", "--kind", kind]
    made = printed(
        run(
            "fit",
            model,
            *options,
            "--at",
            "blocks.1.hook_resid_post",
            "--out",
            out,
            *more,
            "--json",
        )
    )
    probe = probe_of(read_artifact(Path(made["path"])))
    assert (probe.kind, str(probe.point), probe.d_model) == (kind, "resid_post.1", D_MODEL)
    assert probe.model == model_fingerprint(model).digest
    position = "every token of from 1" if kind == "attention" else "-1"
    assert made["card"]["provenance"]["position"] == position
    for what in (["p", "--dir", out], [made["path"]], [made["digest"], "--dir", out]):
        assert printed(run("show", *what, "--json")) == made
    shown = run("show", "p", "--dir", out).stdout
    assert made["digest"] in shown
    assert f"6 positive and 6 benign items at position: {position}" in shown
    # a second fit takes the place of the first
    again = printed(
        run("fit", model, *options, "--at", "resid_post.2", "--out", out, *more, "--json")
    )
    assert [path.stem for path in out.glob("*.safetensors")] == [again["digest"]]


def test_a_fit_for_a_pool_that_averages(model: Path, tmp_path: Path):
    items = [asked(i, label, answer="w91 w92 w93") for i in range(6) for label in (0, 1)]
    common = ["--items", lines(tmp_path / "items.jsonl", items), "--name", "p"]
    place = ["--at", "resid_post.1", "--position", "2", "--tokens", "generation"]
    probes = [
        probe_of(read_artifact(Path(printed(run("fit", *said, "--json"))["path"])))
        for more in (["--pool", "mean"], ["--pool", "rolling:3"], [])
        for said in ([model, *common, *place, "--out", tmp_path, *more],)
    ]
    assert probes[0] == probes[1] != probes[2]
    places = [probe.provenance.position for probe in probes]
    assert places == ["2, averaged by mean", "2, averaged by rolling 3", "2"]


def test_import_of_a_vector_and_of_a_direction(model: Path, folder: Path, tmp_path: Path):
    vector = np.random.default_rng(0).normal(size=D_MODEL)
    np.savez(tmp_path / "p.npz", coef_=vector.reshape(1, -1), intercept_=np.array([0.25]))
    common = ["--model", model, "--name", "brought", "--out", tmp_path / "artifacts", "--json"]
    made = printed(run("import", tmp_path / "p.npz", "--at", "resid_pre.3", *common))
    probe = probe_of(read_artifact(Path(made["path"])))
    np.testing.assert_array_equal(probe.value.vector.numpy(), vector.astype(np.float32))
    assert (probe.kind, probe.value.bias, str(probe.point)) == ("imported", 0.25, "resid_pre.3")
    (toy,) = [
        path
        for path in (folder / "artifacts").glob("*.json")
        if json.loads(path.read_bytes())["kind"] == "direction"
    ]
    made = printed(run("import", toy, *common))
    probe = probe_of(read_artifact(Path(made["path"])))
    unit = read_artifact(toy.with_suffix(".safetensors")).tensors["resid_post.1"]
    assert torch.equal(probe.value.vector, unit)
    assert (str(probe.point), probe.value.bias) == ("resid_post.1", 0.0)
    assert made["card"]["provenance"]["source"] == toy.stem


def test_calibrate_show_evaluate(model: Path, folder: Path, tmp_path: Path):
    made = calibrated(model, folder, tmp_path)
    found = calibration_of(read_artifact(Path(made["path"])))
    assert isinstance(found, Calibration)
    assert (found.name, found.request.n, found.token.n) == ("harm", N, N)
    assert found.binding.model == model_fingerprint(model).digest
    assert found.binding.writes == ""
    assert [(s.name, s.label, s.n) for s in found.slices] == [
        ("s0", 0, 60),
        ("s1", 0, 60),
        ("plain", 1, 20),
    ]
    assert found.slices[2].auroc.value > 0.9
    assert set(found.baselines) == {"output entropy", "bag of words"}
    assert [row["supported"] for row in made["thresholds"]["request"]] == [True, True, False, False]
    shown = run("show", "harm", "--dir", tmp_path).stdout
    assert "not supported" in shown
    assert found.binding.plan in shown
    options = ["--items", folder / "fresh.jsonl", "--artifacts", folder / "artifacts"]
    held = printed(
        run(
            *("evaluate", model, folder / "harm.yaml", *options, "--calibration", made["path"]),
            *("--words", folder / "train.jsonl", "--json"),
        )
    )
    assert (held["calibration"], held["items"], held["unscored"]) == (made["digest"], 50, 0)
    (benign, positive) = held["slices"]
    assert (benign["n"], positive["n"]) == (25, 25)
    assert positive["auroc"]["value"] > 0.9
    # the word itself tells, so words alone do as well
    assert held["baselines"]["bag of words"][1]["auroc"]["value"] > 0.9
    text = run("evaluate", model, folder / "harm.yaml", *options, "--calibration", made["path"])
    assert text.exit_code == 0
    assert "+ fresh" in text.stdout


def test_writes_before_the_monitor_make_another_calibration(
    model: Path, folder: Path, tmp_path: Path
):
    plain = calibrated(model, folder, tmp_path)
    pushed = calibrated(model, folder, tmp_path, "--policies", folder, "--policy", "push")
    assert pushed["card"]["binding"]["writes"] != plain["card"]["binding"]["writes"] == ""
    thresholds = [made["thresholds"]["request"][0]["value"] for made in (plain, pushed)]
    assert abs(thresholds[0] - thresholds[1]) > 1e-3
    # both stand side by side, and the same conditions again replace their own
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    plain = calibrated(model, folder, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    options = ["--items", folder / "fresh.jsonl", "--artifacts", folder / "artifacts"]
    wrong = run(
        *("evaluate", model, folder / "harm.yaml", *options, "--calibration", plain["path"]),
        *("--policies", folder, "--policy", "push"),
    )
    assert wrong.exit_code == 1
    assert "does not hold here: writes: calibrated on none" in wrong.stderr


def test_each_binding_has_its_own_writes(model: Path, folder: Path, tmp_path: Path):
    def writes(*more: object) -> str:
        made = calibrated(model, folder, tmp_path, "--policies", folder, *more)
        return made["card"]["binding"]["writes"]

    pushed = writes("--policy", "push")
    assert writes() == ""
    assert writes("--binding", "acme") == writes("--binding", "trial", "--canary") == pushed
    assert writes("--binding", "trial") not in ("", pushed)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--binding", "acne"], "there is no binding 'acne'"),
        (["--binding", "acme", "--canary"], "declares no canary"),
    ],
)
def test_a_binding_that_is_not_there(model: Path, folder: Path, more: list[str], message: str):
    options = ["--benign", folder / "benign.jsonl", "--out", folder, "--policies", folder]
    refused = run(
        *("calibrate", model, folder / "harm.yaml", "--artifacts", folder / "artifacts"),
        *options,
        *more,
    )
    assert refused.exit_code == 1
    assert message in refused.stderr


def test_evaluate_finds_the_calibration_that_holds(model: Path, folder: Path, tmp_path: Path):
    for path in (folder / "artifacts").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    options = ["--items", folder / "fresh.jsonl", "--artifacts", tmp_path]
    none = run("evaluate", model, folder / "harm.yaml", *options)
    assert none.exit_code == 1
    assert "has no calibration; run trimtab monitor calibrate first" in none.stderr
    plain = calibrated(model, folder, tmp_path)
    pushed = calibrated(model, folder, tmp_path, "--policies", folder, "--policy", "push")
    for made, more in ((plain, []), (pushed, ["--policies", folder, "--policy", "push"])):
        found = printed(run("evaluate", model, folder / "harm.yaml", *options, *more, "--json"))
        assert found["calibration"] == made["digest"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--name", "Not A Name"], "'Not A Name' is not a name"),
        (["--at", "resid_post.9"], "is outside the model"),
        (["--items", "/none.jsonl"], "cannot read items"),
        (["--position", "soon"], "'soon' is not a position"),
        (["--position", "0"], "one item's answer has 0"),
        (["--tokens", "sometimes"], "'sometimes' is not a token clause"),
        (["--kind", "attention"], "fit it at position 'every'"),
        (["--pool", "softmax"], "'softmax' is not a pool to fit for"),
        (["--pool", "ema:2"], "alpha 2.0"),
        (["--l2", "0"], "must be positive"),
        (["--at", "resid_pre.0"], "all residuals are alike"),
    ],
)
def test_fit_refusals(model: Path, folder: Path, tmp_path: Path, args: list[str], message: str):
    out = tmp_path / "artifacts"
    options = ["--items", folder / "train.jsonl", "--name", "p", "--at", "resid_post.1"]
    result = run("fit", model, *options, "--out", out, *args)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert message in result.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"vector": np.ones(3, np.float32)}, "has a vector of 3 numbers"),
        ({"vector": np.full(D_MODEL, np.nan)}, "not finite"),
        ({"vector": np.zeros(D_MODEL)}, "norm 0"),
        ({"a": np.ones(D_MODEL), "b": np.ones(D_MODEL)}, "a probe is one vector"),
        ({"vector": np.ones(D_MODEL), "bias": np.ones(2)}, "bias that is not one number"),
        ({"vector": np.ones((2, D_MODEL // 2))}, "one vector of floats is needed"),
        ({"vector": np.ones(D_MODEL, np.int64)}, "one vector of floats is needed"),
        ({"vector": np.array([{"a": 1}], dtype=object)}, "not an npz file of plain numbers"),
        (None, "not an npz file of plain numbers"),
    ],
)
def test_import_refusals(model: Path, tmp_path: Path, content: Any, message: str):
    path = tmp_path / "p.npz"
    if content is None:
        path.write_bytes(b"no")
    else:
        np.savez(path, **content)
    common = ["--model", model, "--name", "brought", "--out", tmp_path / "artifacts"]
    result = run("import", path, *common, "--at", "resid_post.1")
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--monitor", "deception"], "has 0 documents of kind Monitor named 'deception' (harm)"),
        (["--policy", "push"], "give the folder with --policies"),
        (["--policies", ".", "--policy", "pull"], "there is no policy 'pull'"),
        (["--artifacts", "/none"], "there is no probe 'word'"),
        (["--positive", "benign.jsonl"], "has label 0 in a file of label 1"),
    ],
)
def test_calibrate_refusals(
    model: Path, folder: Path, tmp_path: Path, monkeypatch, args: list[str], message: str
):
    monkeypatch.chdir(folder)
    options = ["--benign", "benign.jsonl", "--out", tmp_path / "out"]
    result = run("calibrate", model, "harm.yaml", *options, *args)
    assert result.exit_code == 1
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_show_refusals(folder: Path, tmp_path: Path):
    for args in (["nobody"], ["nobody", "--dir", tmp_path], [tmp_path / "x.safetensors"]):
        result = run("show", *args)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
    assert "which has word" in run("show", "nobody", "--dir", folder / "artifacts").stderr
