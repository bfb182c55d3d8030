"""The tutorial on the demo, followed from a clone by a reader who copies every command."""

from pathlib import Path

from tests.docs.page import read_page
from tests.docs.reader import Reader, clone
from tests.evidence import ROOT


def test_the_tutorial_on_the_demo(tmp_path: Path) -> None:
    folder = clone(tmp_path / "trimtab")
    with Reader(folder, tmp_path, ["--enforce-eager"]) as reader:
        assert reader.follow(read_page(ROOT / "docs" / "tutorial-demo.md")) > 10
