"""Write `docs/reference/` from the code: ``python -m tests.docs.reference``."""

from collections.abc import Mapping

from tests.docs.reference import commands, errors, interface, measures, variables
from tests.evidence import ROOT

FOLDER = ROOT / "docs" / "reference"


def pages() -> Mapping[str, str]:
    """Return each page's text by its file's name."""
    made = {
        "commands.md": commands.page(),
        "http.md": interface.page(),
        "errors.md": errors.page(),
        "metrics.md": measures.page(),
        "environment.md": variables.page(),
    }
    return {"README.md": _index(made), **made}


def _index(made: Mapping[str, str]) -> str:
    titles = {name: text.split("\n", 1)[0].removeprefix("# ") for name, text in made.items()}
    lines = [f"- [{title}]({name})" for name, title in titles.items()]
    about = (
        "What there is, made of the code by `python -m tests.docs.reference`; a test fails while a "
        "page is stale.\nPolicy files have a schema for editors: "
        "[policy.schema.json](../policy.schema.json)."
    )
    return "\n".join(["# Reference", "", about, "", *lines, ""])


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
