"""The tutorial for one's own model, followed on a tiny checkpoint of another family."""

from pathlib import Path

from tests.docs.page import read_page
from tests.docs.reader import Reader, clone
from tests.docs.tiny import PAGE, own_model


def test_the_tutorial_for_a_model_of_ones_own(tmp_path: Path) -> None:
    options, filled = own_model(tmp_path)
    folder = clone(tmp_path / "trimtab")
    with Reader(folder, tmp_path, options, filled) as reader:
        assert reader.follow(read_page(PAGE)) > 7
