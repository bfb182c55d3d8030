"""README, both tutorials and every how-to page, followed from clean clones, in order."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.docs import readme
from tests.docs.page import Block, read_page
from tests.docs.reader import Reader, clone
from tests.docs.tiny import own_model
from tests.evidence import ROOT

pytestmark = pytest.mark.prove

DOCS = ROOT / "docs"
OWN = DOCS / "tutorial-own-model.md"
PAGES = [DOCS / "tutorial-demo.md", OWN, *sorted((DOCS / "how-to").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path, figures: dict[str, Any]) -> None:
    options, filled = own_model(tmp_path) if page == OWN else ((), {})
    with Reader(clone(tmp_path / "trimtab"), tmp_path, options, filled) as reader:
        figures[page.stem] = followed(reader, read_page(page))


def test_every_command_of_the_readme(tmp_path: Path, figures: dict[str, Any]) -> None:
    folder = clone(tmp_path / "trimtab")
    readme.set_scene(folder)
    with Reader(folder, tmp_path) as reader:
        figures["README"] = followed(reader, readme.followed())


def followed(reader: Reader, blocks: Sequence[Block]) -> dict[str, Any]:
    """Follow a page and return what that came to."""
    started = time.monotonic()
    return {
        "blocks run": reader.follow(blocks),
        "outputs compared": sum(block.shown is not None for block in blocks if not block.left),
        "left out": {block.body.strip(): block.left for block in blocks if block.left},
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
