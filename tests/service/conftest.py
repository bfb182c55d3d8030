"""Documents that tests build on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.documents import Document, parse_content
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
