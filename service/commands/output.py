"""How commands speak: JSON or tables on standard output, errors on standard error."""

import json
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.errors import ServiceError

_PIPE_WIDTH = 10_000

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class CommandError(ServiceError):
    """A command that cannot do what it was asked; it ends with exit code 1."""


class DtypeOption(StrEnum):
    """Precision of a model while it is read."""

    float32 = "float32"
    bfloat16 = "bfloat16"


@contextmanager
def expecting(*errors: type[Exception]) -> Generator[None]:
    """Turn errors that input causes into a line on standard error and exit code 1."""
    try:
        yield
    except errors as error:
        print_error(f"error: {error}")
        raise typer.Exit(1) from error


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_line(text: str) -> None:
    """Print a line as it is, without markup."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()  # whoever follows a log sees the line now


def print_error(text: str) -> None:
    """Print a line on standard error as it is, without markup."""
    sys.stderr.write(f"{text}\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their columns."""
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    # What reads a pipe gets whole values; only a terminal has an edge to fold them at.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(markup=False, highlight=False, width=width).print(table)
