"""Every name on docs/token-path.md is a name in the code."""

import re
from importlib import import_module
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "token-path.md"
NAMES = sorted(set(re.findall(r"`((?:forward|steering|service)\.[\w.]+)`", PAGE.read_text())))


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_a_name_on_the_page_is_in_the_code(name: str) -> None:
    """A renamed function fails here."""
    assert resolves(name)


def test_the_page_names_the_path() -> None:
    """The pattern above finds names at all, from every room on the way."""
    rooms = {name.split(".")[0] for name in NAMES}
    assert rooms == {"forward", "steering", "service"} and len(NAMES) > 20
