"""``trimtab key``: who may ask, for what, and how much."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from service.callers import ROLES
from service.commands.key_source import id_of, open_keys
from service.commands.output import (
    AsJson,
    CommandError,
    print_error,
    print_json,
    print_line,
    print_table,
)
from service.key_request import DEFAULT_GRACE_SECONDS

app = typer.Typer(help="Make, list, rotate and revoke keys.", no_args_is_help=True)

State = Annotated[str | None, typer.Option("--state", help="Use this store, without a server.")]
Url = Annotated[str | None, typer.Option("--url", help="Ask the server at this URL.")]
Which = Annotated[str, typer.Argument(help="The key's id, or the name of a live one.")]

_PERIOD = re.compile(r"([1-9][0-9]{0,5})([smhdw])")
_UNITS = {
    "requests_per_minute": "/min",
    "concurrent": " at once",
    "max_body_bytes": " B",
    "max_seconds": " s",
}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is called; bindings find it by that.")],
    role: Annotated[str, typer.Option(help=f"One of {', '.join(ROLES)}.")] = "infer",
    tenant: Annotated[str | None, typer.Option(help="Whose key it is.")] = None,
    expires: Annotated[
        str | None, typer.Option(help="In so long (12h, 30d), or a time: 2027-01-31T12:00:00Z.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Limit of its rate.")] = None,
    concurrent: Annotated[int | None, typer.Option(help="Limit of requests at once.")] = None,
    max_body_bytes: Annotated[int | None, typer.Option(help="Limit of a request's body.")] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Limit of an inference request's time.")
    ] = None,
    state: State = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it; it is not shown again."""
    limits = {
        "requests_per_minute": requests_per_minute,
        "concurrent": concurrent,
        "max_body_bytes": max_body_bytes,
        "max_seconds": max_seconds,
    }
    wanted = {
        "name": name,
        "role": role,
        "tenant": tenant,
        "expires_at": None if expires is None else when(expires),
        "limits": {limit: value for limit, value in limits.items() if value is not None},
    }
    _print_issued(open_keys(state, url).create(wanted), as_json)


@app.command("list")
def list_keys(
    all_keys: Annotated[bool, typer.Option("--all", help="Dead ones too.")] = False,
    state: State = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List the keys, newest first; never what they are made of."""
    keys = open_keys(state, url).keys()
    shown = [key for key in keys if all_keys or key["state"] == "live"]
    if as_json:
        print_json(shown)
        return
    columns = ("key", "id", "role", "tenant", "state", "expires", "limits")
    print_table(columns, [_row(key) for key in shown])


@app.command()
def rotate(
    key: Which,
    grace: Annotated[
        str, typer.Option(help="How long the old key is still valid: 0, 90s, 2h, 7d.")
    ] = f"{DEFAULT_GRACE_SECONDS}s",
    state: State = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Make a key in the place of another, print it, and let the old one end after a while."""
    source, seconds = open_keys(state, url), 0 if grace == "0" else period(grace)
    _print_issued(source.rotate(id_of(source.keys(), key), seconds), as_json)


@app.command()
def revoke(key: Which, state: State = None, url: Url = None, as_json: AsJson = False) -> None:
    """Revoke a key for good: every process refuses it within two seconds."""
    source = open_keys(state, url)
    revoked = source.revoke(id_of(source.keys(), key))
    if as_json:
        print_json(revoked)
    else:
        print_line(f"{revoked['name']} ({revoked['id']}) is revoked")


def period(text: str) -> int:
    """Return the seconds of a time such as ``12h``.

    Raises:
        CommandError: It is none.
    """
    found = _PERIOD.fullmatch(text)
    if found is None:
        raise CommandError(f"'{text}' is no time: write a number and s, m, h, d or w, such as 30d")
    return int(found[1]) * _SECONDS[found[2]]


def when(text: str) -> str:
    """Return the time that a text names, or that is so far from now."""
    if _PERIOD.fullmatch(text) is None:
        return text
    return (datetime.now(UTC) + timedelta(seconds=period(text))).isoformat(timespec="seconds")


def _print_issued(issued: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(issued)
        return
    # The key alone on standard output, so that a script can take it.
    print_error(f"{issued['name']} ({issued['id']}), role {issued['role']}; not shown again:")
    print_line(issued["key"])


def _row(key: dict[str, Any]) -> tuple[str, ...]:
    limits = ", ".join(f"{value:g}{_UNITS[name]}" for name, value in key["limits"].items())
    return (
        key["name"],
        key["id"],
        key["role"],
        key["tenant"] or "",
        key["state"] if key["replaced_by"] is None else f"{key['state']}, replaced",
        "never" if key["expires_at"] is None else key["expires_at"][:16],
        limits or "none",
    )
