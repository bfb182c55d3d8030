"""How a page is read: what is run, and which output fits what it shows."""

from pathlib import Path

import pytest

from tests.docs.page import Block, pattern, plain, read_page
from tests.evidence import ROOT

DOCS = ROOT / "docs"
FOLLOWED = [*DOCS.glob("tutorial-*.md"), *(DOCS / "how-to").glob("*.md")]
PAGE = """Some text.

<!-- exit code 3 -->
```sh
false
```

```text
one … two
```

<!-- not run: it needs a GPU -->
```sh
nvidia-smi
```

```yaml
a: 1
```

<!-- serves -->
```sh
serve
```

```python
print()
```
"""


def read(text: str, tmp_path: Path) -> list[Block]:
    page = tmp_path / "page.md"
    page.write_text(text)
    return read_page(page)


def test_blocks_are_read_in_order_with_what_is_said_of_them(tmp_path: Path) -> None:
    failing, left, serving, script = read(PAGE, tmp_path)
    assert failing == Block("page.md:4", "sh", "false\n", "one … two\n", status=3)
    assert left.left == "it needs a GPU" and left.shown is None
    assert serving.serves and (script.language, script.status) == ("python", 0)


def test_a_note_that_means_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="means nothing"):
        read("<!-- not ran: typo -->\n```sh\ntrue\n```\n", tmp_path)


@pytest.mark.parametrize(
    ("shown", "output", "fits"),
    [
        ("a\n", "a   \n", True),
        ("a\n", "a\nb\n", False),
        ("a\n", "b\n", False),
        ("a … c\n", "a x y c\n", True),
        ("a … c\n", "a x\ny c\n", False),
        ("…\nb\n", "b\n", True),
        ("…\nb\n…\n", "x\ny\nb\nz\n", True),
        ("…\nb\n…\n", "x\ny\nz\n", False),
        ("1 (0 to 1.5)\n", "1 (0 to 1x5)\n", False),
    ],
)
def test_what_is_shown_fits_the_output_or_not(shown: str, output: str, fits: bool) -> None:
    assert bool(pattern(shown).fullmatch(plain(output))) is fits


@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.stem)
def test_a_page_has_something_to_follow(page: Path) -> None:
    blocks = read_page(page)
    assert any(block.shown is not None for block in blocks if not block.left)
    assert sum(block.serves for block in blocks) <= 1


def test_every_how_to_is_listed() -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(f"({page.relative_to(ROOT)})" in readme for page in FOLLOWED)
