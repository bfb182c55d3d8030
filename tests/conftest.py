"""Fixtures shared by all tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models import save_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a family's tiny random checkpoint, written once."""
    folders: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in folders:
            folders[family] = save_checkpoint(family, tmp_path_factory.mktemp(family))
        return folders[family]

    return get
