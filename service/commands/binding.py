"""``trimtab binding``: who runs under which policies."""

from typing import Annotated, Any

import typer

from service.commands.output import AsJson, print_json, print_line, print_table
from service.commands.policy_changes import Generation, Timeout, Url, Wait, apply, finish
from service.commands.policy_server import PolicyServer

app = typer.Typer(help="Look at and change who runs under which policies.", no_args_is_help=True)
app.command("apply")(apply)

Name = Annotated[str, typer.Argument(help="The binding's name.")]


@app.command("list")
def list_bindings(url: Url = None, as_json: AsJson = False) -> None:
    """List the bindings that are written; without any, requests run under no policy by default."""
    bindings = PolicyServer.at(url).bindings()
    if as_json:
        print_json(bindings)
        return
    columns = ("binding", "mandatory", "policy", "choices", "owner", "canary")
    print_table(columns, [_row(binding) for binding in bindings])


@app.command()
def show(
    name: Name,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show a binding: its document, what it comes to, and its revisions."""
    binding = PolicyServer.at(url).binding(name)
    if as_json:
        print_json(binding)
        return
    print_line(f"{binding['name']}@{binding['revision']}")
    print_line(f"digest     {binding['digest']}")
    print_line(f"mandatory  {', '.join(binding['mandatory']) or 'none'}")
    if binding["halted"]:
        print_line(f"canary     ended: {binding['halted']}")
    for one in binding["revisions"]:
        print_line(f"revision   {one['revision']} {one['created_at']} by {one['owner']}")
    print_json(binding["content"])


@app.command()
def remove(
    name: Name,
    wait: Wait = False,
    timeout: Timeout = 60.0,
    if_generation: Generation = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Remove a binding that was applied over the API."""
    server = PolicyServer.at(url)
    outcome = server.remove(name, if_generation, "bindings")
    finish(server, outcome, timeout if wait else None, as_json)


@app.command()
def halt(name: Name, url: Url = None, as_json: AsJson = False) -> None:
    """End the canary of a binding, on every server and for good; a new one has to be declared."""
    ended = PolicyServer.at(url).halt(name)
    if as_json:
        print_json(ended)
        return
    print_line(f"the canary of binding {name} is ended: {ended['halted']}")


def _row(binding: dict[str, Any]) -> tuple[str, ...]:
    spec = binding["spec"]
    choices, canary = spec.get("choices"), spec.get("canary")
    return (
        f"{binding['name']}@{binding['revision']}",
        ", ".join(binding.get("mandatory", ())) or "none",
        spec["policy"],
        "all selectable" if choices is None else ", ".join(choices) or "none",
        binding["owner"],
        "none" if canary is None else "ended" if binding.get("halted") else canary["policy"],
    )
