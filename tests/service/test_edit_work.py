"""The work of a job, in this process: what it finds, what it refuses, what it cannot do."""

import math
from pathlib import Path
from typing import Any

import pytest

from editing.errors import EditError
from forward.fingerprint import CheckpointError, model_fingerprint
from service.edit_jobs import EditWork, KeepError
from service.edit_work import Brief, Clock, Finding, work
from service.job_folder import FINDING
from service.job_runner import RefusedError
from service.store import Store
from tests.service.solving import CASE, QUICK, edit_set, fact, solving


@pytest.fixture(scope="module")
def model(checkpoint) -> Path:
    return checkpoint("llama")


def brief(model: Path, folder: Path, request: dict[str, Any], **fields: Any) -> Brief:
    known = {"kind": "edit-solve", "artifacts": {}}
    places = {"checkpoint": str(model), "cache": str(folder / "cache"), "out": str(folder / "out")}
    return Brief(request=request, **(known | places | fields))


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


def test_a_brief_and_a_finding_are_read_as_they_were_written(tmp_path: Path) -> None:
    given = brief(tmp_path, tmp_path, solving())
    given.write(tmp_path / "brief.json")
    assert Brief.read(tmp_path / "brief.json") == given
    Finding({"low": -math.inf, "nested": [{"nan": math.nan, "one": 1.5}]}, "d").write(
        tmp_path / FINDING
    )
    read = Finding.read(tmp_path / FINDING)
    assert read.result == {"low": None, "nested": [{"nan": None, "one": 1.5}]}, "JSON has neither"
    assert (read.artifact, read.refused) == ("d", "")


def test_a_clock_adds_up_what_each_stage_took() -> None:
    times = iter([0.0, 1.0, 1.0, 4.0, 4.0, 4.5])
    seen: list[tuple[str, int, int]] = []
    clock = Clock(lambda *at: seen.append(at), lambda: next(times))
    for stage in ("reading", "fitting", "reading"):
        clock(stage, 0, 1)
    assert clock.stop() == [
        {"stage": "reading", "seconds": 1.5},
        {"stage": "fitting", "seconds": 3.0},
    ]
    assert [stage for stage, *_ in seen] == ["reading", "fitting", "reading"]


def test_an_edit_is_evaluated_as_it_was_when_it_was_solved(model: Path, tmp_path: Path) -> None:
    solved = work(brief(model, tmp_path, solving(cases=[CASE])), silent)
    digest = solved.artifact
    path = str(tmp_path / "out" / f"{digest}.safetensors")
    request = {"artifact": digest, "cases": [CASE], "format": "trimtab"}
    again = work(
        brief(model, tmp_path, request, kind="edit-evaluate", artifacts={digest: path}), silent
    )
    assert again.artifact is None and again.result["artifact"] == digest
    scores = solved.result["scores"]
    assert again.result["scores"]["unedited"] == scores["unedited"]
    for metric, estimate in scores["edited"].items():
        value = again.result["scores"]["edited"][metric]["value"]
        assert value == pytest.approx(estimate["value"], rel=1e-4)
    assert scores["edited"]["EM"]["value"] > 1.5 * scores["unedited"]["EM"]["value"]
    assert again.result["edit"] == solved.result["edit"]


@pytest.mark.parametrize(
    ("request_of", "says"),
    [
        (lambda: solving(edit_set(layers=[99])), "outside the model"),
        (lambda: solving(edit_set(facts=[fact(0, prompt="w20 w21")])), "is not in the prompt"),
        (lambda: solving(override=["luck"]), "no gate 'luck'"),
    ],
    ids=["layer", "prompt", "gate"],
)
def test_what_cannot_be_solved_says_why(model: Path, tmp_path: Path, request_of, says) -> None:
    with pytest.raises(EditError, match=says):
        work(brief(model, tmp_path, request_of()), silent)
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no readable config\.json"):
        work(brief(tmp_path / "nowhere", tmp_path, solving()), silent)


def test_a_refused_edit_has_its_figures_and_no_artifact(model: Path, tmp_path: Path) -> None:
    wild = QUICK | {"clamp": 1000.0, "weight": 1e-6}
    request = solving(override=[], settings=wild, cases=[CASE])
    finding = work(brief(model, tmp_path, request), silent)
    assert finding.artifact is None and "scores" not in finding.result
    gates = finding.result["edit"]["gates"]
    for name in gates["failed"]:
        assert f"{name} {gates['figures'][name]:.4g}" in finding.refused
    finding.write(tmp_path / FINDING)
    with Store.ephemeral() as store:
        keeper = EditWork(store, model, model_fingerprint(model).digest, _never)
        with pytest.raises(RefusedError, match="refused by its gates") as refused:
            keeper.found(tmp_path)
    assert refused.value.result["edit"]["gates"]["failed"] == gates["failed"]


def test_a_finding_of_another_model_is_not_kept(tmp_path: Path) -> None:
    Finding({"edit": {"model": "a" * 64}}, "d").write(tmp_path / FINDING)
    with Store.ephemeral() as store:
        keeper = EditWork(store, tmp_path, "b" * 64, _never)
        with pytest.raises(KeepError, match="start the server again"):
            keeper.found(tmp_path)


async def _never(documents: object, *, actor: str) -> None:
    raise AssertionError("nothing is to be applied")
