"""What a page has its reader do: its fenced blocks, and the output that it shows for them.

Blocks of `sh` and of `python` are run, in order. A block of `text` right after one is its output:
`…` stands for anything in a line, and alone on a line for any lines. A comment before a block says
what is not plain from it: `<!-- serves -->` (it goes on running), `<!-- exit code 3 -->`,
`<!-- not run: why -->`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RUN = ("sh", "python")
_FENCE = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*?) -->\n)?```(?P<language>\w*)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_EXIT = re.compile(r"exit code (\d+)")
_NOT_RUN = "not run: "


@dataclass(frozen=True)
class Block:
    """Something to run.

    Attributes:
        where: The page and the line, for messages.
        language: ``sh`` or ``python``.
        body: What is run.
        shown: The output that the page shows; None where it shows none.
        status: The exit status that the page lets one expect.
        serves: Whether it goes on running while the page goes on.
        left: Why it is not run, or an empty text.
    """

    where: str
    language: str
    body: str
    shown: str | None = None
    status: int = 0
    serves: bool = False
    left: str = ""


def read_page(page: Path) -> list[Block]:
    """Return a page's blocks to run, in order."""
    text = page.read_text()
    found = list(_FENCE.finditer(text))
    return list(_blocks(page.name, text, found))


def _blocks(name: str, text: str, found: list[re.Match[str]]) -> Iterator[Block]:
    for number, match in enumerate(found):
        if match["language"] not in RUN:
            continue
        following = found[number + 1] if number + 1 < len(found) else None
        is_shown = following is not None and following["language"] == "text"
        note = match["note"] or ""
        exits = _EXIT.fullmatch(note)
        if note and not (exits or note == "serves" or note.startswith(_NOT_RUN)):
            raise ValueError(f"{name}: '{note}' before a block means nothing here")
        yield Block(
            where=f"{name}:{text.count(chr(10), 0, match.start('body'))}",
            language=match["language"],
            body=match["body"],
            shown=following["body"] if following is not None and is_shown else None,
            status=int(exits[1]) if exits else 0,
            serves=note == "serves",
            left=note.removeprefix(_NOT_RUN) if note.startswith(_NOT_RUN) else "",
        )


def pattern(shown: str) -> re.Pattern[str]:
    """Return what matches every output that a page's text stands for."""
    parts = [_line(line) for line in shown.rstrip("\n").split("\n")]
    return re.compile("".join(parts))


def plain(output: str) -> str:
    """Return output without what a page cannot show: spaces at the ends of lines."""
    return "".join(f"{line.rstrip()}\n" for line in output.rstrip("\n").split("\n"))


def _line(line: str) -> str:
    if line.strip() == "…":
        return r"(?:.*\n)*?"
    return re.escape(line.rstrip()).replace("…", ".*") + r"\n"
