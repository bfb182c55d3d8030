"""Documents, places of stores and the command line, for all tests of the service."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service import cli
from service.documents import Document, parse_content
from tests.service.commanding import Call, Done
from tests.service.places import StorePlace

PolicyMaker = Callable[..., Document]


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> StorePlace:
    """A place for a store, once on SQLite and once on PostgreSQL."""
    on_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/trimtab.db" if on_sqlite else ""
    return StorePlace(url or request.getfixturevalue("postgres_url"), tmp_path / "artifacts")


def _policy(name: str, **spec: Any) -> Document:
    content = {
        "apiVersion": "trimtab/v1",
        "kind": "Policy",
        "metadata": {"name": name},
        "spec": spec,
    }
    return parse_content(content)


def _binding(**spec: Any) -> Document:
    content = {
        "apiVersion": "trimtab/v1",
        "kind": "Binding",
        "metadata": {"name": "default"},
        "spec": spec,
    }
    return parse_content(content)


def _monitor(name: str, **spec: Any) -> Document:
    content = {
        "apiVersion": "trimtab/v1",
        "kind": "Monitor",
        "metadata": {"name": name},
        "spec": spec or {"read": {"probe": "p"}},
    }
    return parse_content(content)


@pytest.fixture
def monitor() -> PolicyMaker:
    """Return a function that makes a monitor of a name and fields of its spec."""
    return _monitor


@pytest.fixture
def policy() -> PolicyMaker:
    """Return a function that makes a policy of a name and fields of its spec."""
    return _policy


@pytest.fixture
def binding() -> PolicyMaker:
    """Return a function that makes the default binding of fields of its spec."""
    return _binding


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs the program."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["trimtab", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run
