"""`docs/reference/` says what the code says today."""

import re

import pytest

from tests.docs.reference import variables
from tests.docs.reference.__main__ import FOLDER, pages
from tests.docs.reference.commands import commands
from tests.evidence import ROOT

MADE = pages()


@pytest.mark.parametrize("name", MADE)
def test_a_page_is_current(name: str) -> None:
    assert (FOLDER / name).read_text() == MADE[name], "run: python -m tests.docs.reference"


def test_no_page_is_left_over() -> None:
    assert {page.name for page in FOLDER.iterdir()} == set(MADE)


def test_every_command_is_there_with_its_options() -> None:
    names = {" ".join(words) for words, _ in commands()}
    assert {"serve", "bench", "policy rollback", "direction extract", "audit verify"} <= names
    assert (
        "| `--layer` | `number` |  | Default layer, from 0; may be repeated. |"
        in (MADE["commands.md"])
    )
    assert "| `--port` | `number` | `8000` |" in MADE["commands.md"]


def test_every_variable_is_listed() -> None:
    listed = {name for name, _, _ in variables.VARIABLES}
    read = {
        name
        for file in (ROOT / "service").rglob("*.py")
        for name in re.findall(r'"(TRIMTAB_[A-Z_]+)"', file.read_text())
    }
    assert listed == read


def test_every_kind_of_thing_is_found() -> None:
    """Guards the comparison above: what is made of nothing is current too."""
    assert "| `trimtab_requests_total` | counter | `policy`, `outcome` |" in MADE["metrics.md"]
    assert "| `rate_limit_exceeded` | 429 |" in MADE["errors.md"]
    assert "| `role_too_small` | 403 |" in MADE["errors.md"]
    assert "| `policy_not_found` | 404 |" in MADE["errors.md"]
    assert "| POST | `/trimtab/v1/policies/{name}/rollback` | operator |" in MADE["http.md"]
