"""``trimtab policy plan|apply|rollback|remove``: change what a running server serves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from service.assignment import parse_assignments
from service.commands.output import AsJson, print_json, print_line
from service.commands.plan_output import outcome_lines, plan_lines
from service.commands.policy_server import PolicyServer
from service.documents import load_paths

NO_CHANGE, REFUSED, CHANGES = 0, 1, 3
"""Exit codes of ``plan``."""

Files = Annotated[list[Path], typer.Argument(help="Policy files, or folders of them.")]
Name = Annotated[str, typer.Argument(help="The policy's name.")]
Url = Annotated[str | None, typer.Option("--url", help="Ask the server at this URL.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Return once every server of the store serves it.")
]
Timeout = Annotated[float, typer.Option(min=0, help="Seconds that --wait waits at most.")]
Generation = Annotated[
    int | None,
    typer.Option("--if-generation", help="Refuse if this is not the generation any more."),
]


def plan(
    files: Files,
    as_directory: Annotated[
        bool,
        typer.Option("--as-directory", help="They are all that the policy directory would have."),
    ] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Say what applying files would do: exit code 0 for nothing, 3 for changes, 1 if refused."""
    found = PolicyServer.at(url).plan(load_paths(files), as_directory)
    if as_json:
        print_json(found)
    else:
        for line in plan_lines(found):
            print_line(line)
    raise typer.Exit(_code(found))


def apply(
    files: Files,
    wait: Wait = False,
    timeout: Timeout = 60.0,
    if_generation: Generation = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Apply files, all or none; what is so already is left alone."""
    documents, server = load_paths(files), PolicyServer.at(url)
    finish(server, server.apply(documents, if_generation), timeout if wait else None, as_json)


def set_fields(
    name: Name,
    changes: Annotated[
        list[str], typer.Argument(help="FIELD=VALUE, such as monitors.harm.mode=shadow.")
    ],
    wait: Wait = False,
    timeout: Timeout = 60.0,
    if_generation: Generation = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Change fields of a policy that was applied over the API; null takes a field away."""
    server = PolicyServer.at(url)
    outcome = server.set_fields(name, parse_assignments(changes), if_generation)
    finish(server, outcome, timeout if wait else None, as_json)


def rollback(
    name: Name,
    revision: Annotated[
        int | None, typer.Argument(help="The revision; the one before the active one if left out.")
    ] = None,
    wait: Wait = False,
    timeout: Timeout = 60.0,
    if_generation: Generation = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Make an earlier revision of a policy a new one, with the artifacts that it meant."""
    server = PolicyServer.at(url)
    outcome = server.rollback(name, revision, if_generation)
    finish(server, outcome, timeout if wait else None, as_json)


def remove(
    name: Name,
    wait: Wait = False,
    timeout: Timeout = 60.0,
    if_generation: Generation = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Remove a policy that was applied over the API; its revisions stay, to roll back to."""
    server = PolicyServer.at(url)
    finish(server, server.remove(name, if_generation), timeout if wait else None, as_json)


def finish(
    server: PolicyServer, outcome: Mapping[str, Any], seconds: float | None, as_json: bool
) -> None:
    """Say what a change did, and wait until it is served if asked to."""
    if as_json:
        print_json(outcome)
    else:
        for line in outcome_lines(outcome):
            print_line(line)
    if seconds is not None:
        server.wait(outcome["generation"], seconds)


def _code(plan: Mapping[str, Any]) -> int:
    if plan["refused"] is not None:
        return REFUSED
    return CHANGES if plan["changes"] else NO_CHANGE
