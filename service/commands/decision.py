"""``trimtab decision``: what a request ran under, and what became of it."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from service.commands.output import AsJson, print_json, print_line, print_table
from service.commands.source import ServerSource
from service.settings import Environment

app = typer.Typer(help="Look at decision records.", no_args_is_help=True)

Url = Annotated[str | None, typer.Option("--url", help="Ask the server at this URL.")]


class DecisionServer(ServerSource):
    """Asks a running server about decision records."""

    def decision(self, name: str) -> dict[str, Any]:
        """Return the record of a request."""
        return self._ask("GET", f"decisions/{quote(name, safe='')}")

    def decisions(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the newest records."""
        params = {name: value for name, value in wanted.items() if value is not None}
        return self._ask("GET", "decisions", params=params)["decisions"]

    def verdicts(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Return what monitors did over the newest records."""
        params = {name: value for name, value in wanted.items() if value is not None}
        return self._ask("GET", "verdicts", params=params)


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(help="The answer's header x-trimtab-request, or its own id.")
    ],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show what a request ran under, and what monitors found."""
    found = _server(url).decision(name)
    if as_json:
        print_json(found)
        return
    for line in _lines(found):
        print_line(line)
    rows = [_verdict(choice, *one) for choice in found["choices"] for one in _verdicts(choice)]
    if rows:
        print_table(
            ("choice", "monitor", "policy", "mode", "action", "score", "threshold", "coverage"),
            rows,
        )


@app.command("list")
def list_decisions(
    policy: Annotated[str | None, typer.Option(help="Under this policy, or policy@revision.")] = (
        None
    ),
    key: Annotated[str | None, typer.Option(help="Of the key with this id.")] = None,
    before: Annotated[int | None, typer.Option(help="Older than the record with this id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List records, newest first."""
    wanted = {"policy": policy, "key": key, "before": before, "limit": limit}
    found = _server(url).decisions(wanted)
    if as_json:
        print_json(found)
        return
    columns = ("id", "request", "at", "policies", "binding", "outcome", "acted")
    print_table(columns, [_row(one) for one in found])


@app.command()
def report(
    policy: Annotated[str | None, typer.Option(help="Under this policy, or policy@revision.")] = (
        None
    ),
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Over so many of the newest.")] = 1000,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Count what monitors did: those in shadow beside those that are enforced."""
    found = _server(url).verdicts({"policy": policy, "limit": limit})
    if as_json:
        print_json(found)
        return
    print_line(f"over {found['records']} requests, by choices of their answers")
    print_table(_USE_COLUMNS, [_use(one) for one in found["uses"]])
    for one in found["uses"]:
        for way, names in one.get("examples", {}).items():
            if names:
                print_line(f"{one['policy']} {one['monitor']} {way}: {', '.join(names)}")


_COUNTS = ("choices", "fired", "acted", "faults", "agreed", "alone", "missed")
_USE_COLUMNS = ("policy", "monitor", "mode", "do", *_COUNTS)


def _use(found: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(found.get(name, "-")) for name in _USE_COLUMNS)


def _server(url: str | None) -> DecisionServer:
    environment = Environment.read()
    return DecisionServer(url or environment.url, environment)


def _lines(found: dict[str, Any]) -> list[str]:
    caller = found["caller"]
    who = caller["name"] + (f" ({caller['key']})" if caller["key"] else "")
    strength = "" if found["strength"] is None else f" at strength {found['strength']:g}"
    ends = ", ".join(str(choice["finish"]) for choice in found["choices"]) or "none"
    return [
        f"request    {found['request']}",
        f"answer     {found['answer'] or 'unnamed'}",
        f"at         {found['at']} for {found['seconds']:g} s",
        f"caller     {who}, tenant {caller['tenant'] or 'none'}",
        f"binding    {found['binding']}, generation {found['generation']}",
        f"policies   {_policies(found)}{strength}",
        f"digest     {found['digest']}",
        *(f"merged     {edit}" for edit in found["merged"]),
        *(f"adapter    {name}" for name in found["adapters"]),
        f"route      {found['route']}",
        f"outcome    {found['outcome']} (status {found['status']}), finish {ends}",
    ]


def _policies(found: dict[str, Any]) -> str:
    shown = (
        one["policy"] + ("" if one["mode"] == "enforce" else f" ({one['mode']})")
        for one in found["policies"]
    )
    return ", ".join(shown) or "none"


def _verdicts(choice: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return sorted(choice["verdicts"].items())


def _verdict(choice: dict[str, Any], monitor: str, verdict: dict[str, Any]) -> tuple[str, ...]:
    numbers = (verdict[name] for name in ("score", "threshold", "coverage"))
    return (
        str(choice["index"]),
        monitor,
        verdict["policy"],
        verdict["mode"],
        verdict["action"],
        *("-" if number is None else f"{number:.4g}" for number in numbers),
    )


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    acted = {
        f"{monitor}={verdict['action']}"
        for choice in found["choices"]
        for monitor, verdict in _verdicts(choice)
        if verdict["action"] != "none"
    }
    return (
        str(found["id"]),
        found["request"],
        found["at"],
        _policies(found),
        found["binding"],
        found["outcome"],
        ", ".join(sorted(acted)) or "none",
    )
