"""`trimtab edit`: solve, list, evaluate, remove, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from editing.library import find_edit
from forward.fingerprint import model_fingerprint
from service.commands.edit import app
from service.commands.edit_offline import read_file
from service.commands.output import CommandError

RUNNER = CliRunner()
QUICK = ("--tokens", 600, "--prefixes", 1, "--layer", 1)
LOOSE = ("--override", "growth", "--override", "perplexity", "--override", "shift")


def run(*args: object) -> Result:
    return RUNNER.invoke(app, [str(arg) for arg in args])


def printed(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def model(checkpoint) -> Path:
    return checkpoint("llama")


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    path = tmp_path / "moves.yaml"
    lines = [
        f"- {{prompt: 'w20 {{}} w2{i}', subject: w{60 + i} w{90 + i}, target: w{120 + i}}}"
        for i in range(3)
    ]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    texts = [" ".join(f"w{30 + (7 * i + j * j) % 200}" for j in range(12)) for i in range(60)]
    path.write_text("\n".join(texts))
    return path


def test_solve_list_evaluate_remove(model: Path, facts: Path, corpus: Path, tmp_path: Path):
    out, peft, merged = tmp_path / "out", tmp_path / "peft", tmp_path / "merged"
    arguments = ("solve", model, "--facts", facts, "--corpus", corpus, "--out", out, *QUICK, *LOOSE)
    made = printed(run(*arguments, "--peft", peft, "--merged", merged, "--json"))
    assert made["name"] == "moves" and len(made["facts"]) == 3
    assert made["card"]["model"] == model_fingerprint(model).digest
    assert made["card"]["layers"] == [1] and made["card"]["method"] == "memit"
    assert made["card"]["gates"]["overridden"] == ["growth", "perplexity", "shift"]
    assert {"finite", "growth", "shift", "denominator", "perplexity"} <= set(
        made["card"]["gates"]["figures"]
    )
    assert (peft / "adapter_config.json").exists() and (merged / "model.safetensors").exists()
    assert printed(run("list", "--dir", out, "--json")) == [made]
    assert "moves" in run("list", "--dir", out).stdout

    cases = tmp_path / "cases.json"
    cases.write_text(
        json.dumps(
            [{"prompt": "w20 {} w20", "subject": "w60 w90", "target": "w120", "before": "w50"}]
        )
    )
    scored = printed(
        run("evaluate", model, "--edit", "moves", "--dir", out, "--cases", cases, "--json")
    )
    assert scored["cases"] == 1 and set(scored["edited"]) == {"E_acc", "ES", "EM"}
    assert scored["edited"]["EM"]["value"] > scored["unedited"]["EM"]["value"]

    gone = made["facts"][1]
    left = printed(
        run(
            "remove",
            model,
            "--edit",
            "moves",
            "--dir",
            out,
            "--fact",
            gone[:10],
            "--out",
            out,
            *LOOSE,
            "--json",
        )
    )
    assert gone not in left["facts"] and len(left["facts"]) == 2
    never = tmp_path / "never.yaml"
    kept = [
        line for line, d in zip(sorted_lines(facts, made), made["facts"], strict=True) if d != gone
    ]
    never.write_text("\n".join(kept))
    other = tmp_path / "elsewhere"
    fresh = printed(
        run(
            "solve",
            model,
            "--facts",
            never,
            "--name",
            "moves",
            "--corpus",
            corpus,
            "--out",
            other,
            *QUICK,
            *LOOSE,
            "--json",
        )
    )
    one, two = find_edit(left["path"], None).edit.delta, find_edit(fresh["path"], None).edit.delta
    dense, wanted = one.layers[1].dense(), two.layers[1].dense()
    assert float((dense - wanted).norm() / wanted.norm()) < 1e-3
    assert (
        "more than one edit"
        in run("evaluate", model, "--edit", "moves", "--dir", out, "--cases", cases).stderr
    )


def sorted_lines(facts: Path, made: Any) -> list[str]:
    """The file's lines in the order of the card's facts."""
    lines = facts.read_text().splitlines()
    return [next(line for line in lines if f["subject"] in line) for f in made["card"]["facts"]]


def test_people_read_a_table(model: Path, facts: Path, tmp_path: Path):
    result = run("solve", model, "--facts", facts, "--out", tmp_path / "out", *QUICK, *LOOSE)
    assert result.exit_code == 0, result.output
    for word in ("moves: memit at layers 1, rank 3", "w60 w90", "growth", "denominator", "digest:"):
        assert word in result.stdout


def test_a_gate_refuses_and_nothing_is_saved(model: Path, facts: Path, tmp_path: Path):
    out = tmp_path / "out"
    result = run(
        "solve", model, "--facts", facts, "--out", out, *QUICK, "--clamp", 1000, "--weight", 1e-6
    )
    assert result.exit_code == 1
    assert "refused by its gates" in result.stderr and "--override" in result.stderr
    assert not list(out.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- {prompt: 'w20 w21', subject: w60, target: w61}", "is not in the prompt"),
        ("- {prompt: 'w20 {}', subject: w60, target: ''}", "empty target"),
        (
            "- {prompt: 'w20 {}', subject: w60, target: w61}\n"
            "- {prompt: 'w20 {}', subject: w60, target: w62}",
            "contradict",
        ),
        ("facts: [", "moves.yaml:"),
        ("colour: red", "unknown field"),
        ("a: 1\n---\nb: 2", "2 documents"),
        ("- {prompt: 'w20 {}', subject: w60, target: 'ééé'}", "does not know target"),
        ("- {prompt: 'w20 {}', subject: 'ééé', target: w61}", "does not know the subject"),
    ],
)
def test_bad_facts(model: Path, tmp_path: Path, text: str, why: str):
    facts = tmp_path / "moves.yaml"
    facts.write_text(text)
    out = tmp_path / "out"
    result = run("solve", model, "--facts", facts, "--out", out, *QUICK)
    assert result.exit_code == 1 and "error: " in result.stderr
    assert why in result.stderr and "Traceback" not in result.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--layer", 99), "outside the model"),
        (("--layer", 1, "--layer", 2, "--method", "rome"), "one layer"),
        (("--layer", 1, "--override", "luck"), "no gate 'luck'"),
        (("--layer", 1, "--corpus", "none.txt"), "cannot read a corpus"),
        (("--layer", 1, "--beside", "none.safetensors"), "missing"),
    ],
)
def test_bad_options(
    model: Path, facts: Path, tmp_path: Path, options: tuple[object, ...], why: str
):
    result = run(
        "solve", model, "--facts", facts, "--out", tmp_path / "out", "--tokens", 300, *options
    )
    assert result.exit_code == 1 and why in result.stderr, result.output


def test_other_models(model: Path, checkpoint, facts: Path, tmp_path: Path):
    missing = run("solve", tmp_path / "none", "--facts", facts, "--out", tmp_path, *QUICK)
    assert missing.exit_code == 1 and "no folder here" in missing.stderr
    made = printed(
        run("solve", model, "--facts", facts, "--out", tmp_path, *QUICK, *LOOSE, "--json")
    )
    cases = tmp_path / "cases.json"
    cases.write_text("[]")
    other = checkpoint("qwen3")
    result = run(
        "remove", other, "--edit", made["path"], "--fact", made["facts"][0], "--out", tmp_path
    )
    assert result.exit_code == 1 and "solve it on this one" in result.stderr


def test_a_file_of_policies_may_hold_the_set(tmp_path: Path):
    path = tmp_path / "all.yaml"
    one = "{kind: EditSet, metadata: {name: a}, spec: {}}"
    other = one.replace("name: a", "name: b")
    policy = "{kind: Policy, metadata: {name: b}, spec: {edits: [a]}}"
    path.write_text(f"{one}\n---\n{policy}\n")
    assert read_file(path)["metadata"]["name"] == read_file(path, "x")["metadata"]["name"] == "a"
    path.write_text(f"{one}\n---\n{policy}\n---\n{other}\n")
    assert read_file(path, "b")["kind"] == "EditSet"
    for name in (None, "c"):
        with pytest.raises(CommandError, match="of kind EditSet a, b; name one"):
            read_file(path, name)
