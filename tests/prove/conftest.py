"""Collect the figures of one section and write them when its tests are through.

A proof asks for the fixture `figures`, a dict that it fills with what it measured; the file's name
names the section.
"""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests import evidence

_FIGURES = pytest.StashKey[dict[str, dict[str, Any]]]()
_OUTCOMES = pytest.StashKey[dict[str, dict[str, str]]]()


def section_of(path: Path) -> str:
    """Return the section that a file of tests/prove/ proves."""
    return path.stem.removeprefix("test_")


def pytest_configure(config: pytest.Config) -> None:
    """Make room for what is collected."""
    config.stash[_FIGURES], config.stash[_OUTCOMES] = {}, {}


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The figures of this test's section, by name; what is put in stays if the test then fails."""
    return request.config.stash[_FIGURES].setdefault(section_of(request.node.path), {})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep each test's outcome; a failed set-up or clean-up counts as the test's."""
    report = yield
    outcomes = item.config.stash[_OUTCOMES].setdefault(section_of(item.path), {})
    if report.when == "call" or not report.passed:
        outcomes[item.name] = report.outcome
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write one file a section, unless the run was cut short: half must not pass for the whole."""
    if (
        exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        or session.config.option.collectonly
    ):
        return
    for section, outcomes in session.config.stash[_OUTCOMES].items():
        passed = all(outcome == "passed" for outcome in outcomes.values())
        evidence.write(section, passed, outcomes, session.config.stash[_FIGURES].get(section, {}))
