"""Every error code with its status, from where the code says it."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from service.api import errors
from tests.docs.reference.table import code, table
from tests.evidence import ROOT

_RAISED = ("HttpError", "SelectionError", "CatalogError")
_ABOUT = (
    "`error.code` of what is refused, in the shape of its route (OpenAI's, or Anthropic's for "
    "messages). The message says what, why and what instead; it may change, the code does not."
)


def page() -> str:
    """Return the page."""
    found: dict[tuple[str, int], set[str]] = {}
    for name, status, words in (*_known(), *_raised()):
        found.setdefault((name, status), set()).add(words)
    rows = [
        (code(name), str(status), " · ".join(sorted(words - {""})))
        for (name, status), words in sorted(found.items())
    ]
    return "\n".join(
        ["# Error codes", "", _ABOUT, "", *table(("code", "status", "when"), rows), ""]
    )


def _known() -> Iterator[tuple[str, int, str]]:
    for kind, status, name in errors._KNOWN:
        yield name, status, (kind.__doc__ or "").split("\n", 1)[0]


def _raised() -> Iterator[tuple[str, int, str]]:
    """Yield what is raised with a code that stands there as it is."""
    for file in sorted((ROOT / "service").rglob("*.py")):
        yield from _in(file)


def _in(file: Path) -> Iterator[tuple[str, int, str]]:
    tree = ast.parse(file.read_text())
    words = _words(tree.body)
    for scope in ast.walk(tree):
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _of(scope, words)


def _of(function: ast.AST, shared: Mapping[str, str]) -> Iterator[tuple[str, int, str]]:
    own = _words(ast.walk(function))
    for node in ast.walk(function):
        if not (isinstance(node, ast.Call) and _name(node.func) in _RAISED):
            continue
        values = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        status = next((value for value in values if isinstance(value, int)), None)
        names = [value for value in values if isinstance(value, str) and value.isidentifier()]
        if status is not None and names:
            yield names[0], status, _message(node.args, {**shared, **own})


def _words(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """Return the texts that are given a name."""
    assigned = [node for node in nodes if isinstance(node, ast.Assign)]
    return {_name(node.targets[0]): _text(node.value) for node in assigned}


def _message(arguments: Iterable[ast.expr], words: Mapping[str, str]) -> str:
    said = [words.get(_name(argument), _text(argument)) for argument in arguments]
    return next((text for text in said if " " in text), "")


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _text(node: ast.expr) -> str:
    """Return a text, with a sign for what is filled in; nothing for what is none."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
