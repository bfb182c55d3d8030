"""``trimtab audit``: who changed what, and whether the log is what was written."""

from collections.abc import Mapping
from typing import Annotated, Any, Protocol

import typer

from service.audit import AuditLog, parse_anchor
from service.audit_views import page_view, verification_view
from service.commands.output import (
    AsJson,
    CommandError,
    print_error,
    print_json,
    print_line,
    print_table,
)
from service.commands.source import ServerSource
from service.settings import Environment
from service.store import Store

VERIFY_SECONDS = 600.0
"""A long log takes a while to compute."""

app = typer.Typer(help="Read and check the audit log.", no_args_is_help=True)

State = Annotated[str | None, typer.Option("--state", help="Read this store, without a server.")]
Url = Annotated[str | None, typer.Option("--url", help="Ask the server at this URL.")]
Json = dict[str, Any]


class AuditSource(Protocol):
    """Something that has an audit log."""

    def page(self, before: int | None, limit: int) -> Json:
        """Return entries, newest first."""
        ...

    def verification(self, anchor: str | None) -> Json:
        """Return what a check of all rows found."""
        ...


class AuditServer(ServerSource):
    """Asks a running server."""

    def page(self, before: int | None, limit: int) -> Json:
        """Return entries, newest first."""
        asked = {"limit": limit} | ({} if before is None else {"before": before})
        return self._ask("GET", "audit", params=asked)

    def verification(self, anchor: str | None) -> Json:
        """Return what a check of all rows found."""
        asked = {} if anchor is None else {"anchor": anchor}
        return self._ask("GET", "audit/verify", params=asked, timeout=VERIFY_SECONDS)


class AuditStore:
    """Reads a store without a server."""

    def __init__(self, log: AuditLog) -> None:
        """Read ``log``."""
        self._log = log

    def page(self, before: int | None, limit: int) -> Json:
        """Return entries, newest first."""
        return page_view(self._log.entries(before, limit), limit)

    def verification(self, anchor: str | None) -> Json:
        """Return what a check of all rows found."""
        return verification_view(self._log.verify(parse_anchor(anchor) if anchor else None))


@app.command("list")
def list_entries(
    before: Annotated[int | None, typer.Option(min=1, help="Older than this number.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    state: State = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List who changed what, newest first."""
    page = _source(state, url).page(before, limit)
    if as_json:
        print_json(page)
        return
    columns = ("number", "at", "who", "did", "to", "revision")
    print_table(columns, [_row(entry) for entry in page["entries"]])
    if page["next"] is not None:
        print_line(f"older ones: --before {page['next']}")


@app.command()
def verify(
    anchor: Annotated[
        str | None,
        typer.Option(help="SEQ:HASH as it was printed before: that row must still be in the log."),
    ] = None,
    state: State = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Compute every hash again; exit code 1 with the first row that is not as it was written."""
    found = _source(state, url).verification(anchor)
    if as_json:
        print_json(found)
    else:
        _print_verification(found)
    if not found["ok"]:
        raise typer.Exit(1)


def _source(state: str | None, url: str | None) -> AuditSource:
    if state is not None and url is not None:
        raise CommandError("--state reads a store and --url asks a server: give one of them")
    environment = Environment.read()
    if state is None:
        return AuditServer(url or environment.url, environment)
    store = Store.open(state, environment.artifacts_folder, must_exist=True)
    return AuditStore(store.audit())


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = [_number(entry[side]) for side in ("before", "after")]
    shown = " -> ".join(numbers) if any(numbers) else ""
    return (str(entry["seq"]), entry["at"], entry["actor"], entry["action"], entry["target"], shown)


def _number(state: Mapping[str, Any] | None) -> str:
    return "none" if state is None else str(state.get("revision", ""))


def _print_verification(found: Mapping[str, Any]) -> None:
    bad = found["bad"]
    if bad is None:
        print_line(f"{found['rows']} rows, each as it was written")
        print_line(f"anchor {found['anchor']}")
        return
    print_error(f"row {bad['seq']}: {bad['flaw']}: {bad['message']}")
    print_error(f"the {found['rows']} rows before it hold; anchor {found['anchor']}")
