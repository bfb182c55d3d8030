"""Every command of `trimtab` with its arguments and options, from the program itself."""

from collections.abc import Iterator
from enum import Enum
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import typer

from service import cli
from tests.docs.reference.table import code, table

_ABOUT = (
    "`.venv/bin/trimtab COMMAND --help` says the same. What `serve` does not know of its command "
    "line is vLLM's."
)


def page() -> str:
    """Return the page."""
    lines = ["# Commands", "", _ABOUT]
    for words, command in commands():
        lines += [
            "",
            f"## trimtab {' '.join(words)}",
            "",
            command.help or "",
            "",
            *_usage(words, command),
        ]
    return "\n".join([*lines, ""])


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command with the words that call it; those that stand for others are loaded."""
    yield from _below((), typer.main.get_command(cli.app))


def _below(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(command, cli.Deferred):
        command = command._load()
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words, command
        return
    for name, one in inner.items():
        yield from _below((*words, name), one)


def _usage(words: tuple[str, ...], command: Any) -> list[str]:
    arguments = [p for p in command.params if not p.opts[0].startswith("-")]
    shown = " ".join(["trimtab", *words, *map(_place, arguments), "[OPTIONS]"])
    lines = ["```text", shown, "```"]
    if command.params:
        rows = [_row(parameter) for parameter in command.params]
        lines += ["", *table(("", "takes", "default", ""), rows)]
    return lines


def _place(argument: Any) -> str:
    name = argument.name.upper() + ("…" if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"


def _row(parameter: Any) -> tuple[str, str, str, str]:
    is_option = parameter.opts[0].startswith("-")
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name.upper()]
    default = "required" if parameter.required else code(_default(parameter))
    return " ".join(map(code, names)), code(_takes(parameter)), default, parameter.help or ""


def _default(parameter: Any) -> str:
    value = parameter.default
    if value is None or value == "" or getattr(parameter, "is_flag", False):
        return ""
    return str(value)


def _takes(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return ""
    return _named(parameter.type_descriptor.annotation)


def _named(annotation: Any) -> str:
    origin: Any = get_origin(annotation)
    if origin is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if origin in (list, UnionType):
        return _named(next(part for part in get_args(annotation) if part is not type(None)))
    if issubclass(annotation, Enum):
        return " | ".join(str(member.value) for member in annotation)
    name: str = annotation.__name__
    return {"str": "text", "Path": "path", "int": "number", "float": "number"}.get(name, name)
