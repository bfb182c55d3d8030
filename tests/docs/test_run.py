"""`make test` runs every test file once and says what came of all of them."""

from collections import Counter
from pathlib import Path

import pytest

from tests import evidence, run


def ignored(arguments: tuple[str, ...]) -> list[Path]:
    return [Path(a.removeprefix("--ignore=")) for a in arguments if a.startswith("--ignore=")]


def test_every_test_file_is_in_one_batch():
    first, *own = run.everyday([run.TESTS])
    apart = ignored(first.arguments)
    together = [
        file
        for file in run.TESTS.rglob("test_*.py")
        if not any(file.is_relative_to(folder) for folder in apart)
    ]
    alone = [evidence.ROOT / batch.arguments[-1] for batch in own]
    every = set(run.TESTS.rglob("test_*.py")) - set((run.TESTS / "prove").rglob("test_*.py"))
    assert Counter([*together, *alone]) == Counter(every)
    assert all(len(batch.arguments) == 3 for batch in own), "one file a process"


def test_naming_a_folder_without_engines_runs_it_in_one_process():
    batches = run.everyday([run.TESTS / "docs"])
    assert [batch.arguments[-1] for batch in batches] == [str(run.TESTS / "docs")]


def test_counts_and_summary(tmp_path: Path):
    report = tmp_path / "1.xml"
    report.write_text(
        '<testsuites><testsuite tests="10" failures="1" errors="2" skipped="3"/></testsuites>'
    )
    total = run.counts(report)
    assert total == Counter(passed=4, failed=1, error=2, skipped=3)
    assert "1 failed, 4 passed, 3 skipped, 2 error in 61.50s (1:01)" in run.summary(total, [], 61.5)


def test_a_process_that_died_without_a_report_is_an_error(tmp_path: Path):
    assert run.counts(tmp_path / "absent.xml") == Counter(error=1)


def test_evidence_stands_for_its_source_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evidence, "FOLDER", tmp_path)
    monkeypatch.setattr(evidence, "commit", lambda: "0" * 40)
    monkeypatch.setattr(evidence, "source_digest", lambda: "a")
    assert not evidence.stands("parity")
    evidence.write("parity", passed=True, tests={"test_one": "passed"}, figures={"gap": 1e-6})
    assert evidence.stands("parity")
    monkeypatch.setattr(evidence, "source_digest", lambda: "b")
    assert not evidence.stands("parity"), "the source has changed"
    evidence.write("parity", passed=False, tests={"test_one": "failed"}, figures={})
    assert not evidence.stands("parity"), "it failed"


def test_a_figure_that_is_not_a_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evidence, "FOLDER", tmp_path)
    monkeypatch.setattr(evidence, "commit", lambda: "0" * 40)
    with pytest.raises(ValueError, match="not JSON compliant"):
        evidence.write("parity", passed=True, tests={}, figures={"gap": float("nan")})
    assert not list(tmp_path.glob("*.json"))
