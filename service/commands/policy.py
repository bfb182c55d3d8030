"""``trimtab policy``: check policy files; look at and change the policies of a server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from service.bindings import BindingError, check_references
from service.commands import policy_changes
from service.commands.output import AsJson, print_error, print_json, print_line, print_table
from service.commands.source import open_source
from service.documents import Document, DocumentsError, Problem, load_paths
from service.explain import did_you_mean
from service.schemas import Binding, Policy, json_schema

app = typer.Typer(help="Check policy files; look at and change policies.", no_args_is_help=True)

for change in (
    policy_changes.plan,
    policy_changes.apply,
    policy_changes.rollback,
    policy_changes.remove,
):
    app.command()(change)
app.command("set")(policy_changes.set_fields)

State = Annotated[str | None, typer.Option("--state", help="Read this store, without a server.")]
Url = Annotated[str | None, typer.Option("--url", help="Ask the server at this URL.")]


@app.command()
def validate(
    paths: Annotated[list[Path], typer.Argument(help="Policy files, or folders of them.")],
    as_json: AsJson = False,
) -> None:
    """Check policy files: every problem with its file, line and column."""
    documents: Sequence[Document] = ()
    problems: Sequence[Problem] = ()
    try:
        documents = load_paths(paths)
        problems = _reference_problems(documents)
    except DocumentsError as error:
        problems = error.problems
    if as_json:
        print_json(_validation(documents, problems))
    else:
        _print_validation(documents, problems)
    if problems:
        raise typer.Exit(1)


@app.command()
def schema(as_json: AsJson = True) -> None:
    """Print the JSON Schema of policy documents, for editors."""
    _ = as_json  # a schema has no other form
    print_json(json_schema())


@app.command("list")
def list_policies(state: State = None, url: Url = None, as_json: AsJson = False) -> None:
    """List the active policies."""
    policies = open_source(state, url).policies()
    if as_json:
        print_json(policies)
        return
    columns = ("policy", "mode", "selectable", "strength", "owner", "digest", "description")
    print_table(columns, [_row(policy) for policy in policies])


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The policy's name.")],
    revision: Annotated[int | None, typer.Option(help="This revision of it.")] = None,
    state: State = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show a policy: its document, the artifacts it uses and its revisions."""
    policy = open_source(state, url).policy(name, revision)
    if as_json:
        print_json(policy)
        return
    active = "" if policy.get("active", True) else " (not active)"
    print_line(f"{policy['name']}@{policy['revision']}{active}")
    print_line(f"digest     {policy['digest']}")
    for artifact, digest in policy["artifacts"].items():
        print_line(f"artifact   {artifact} {digest}")
    for one in policy["revisions"]:
        print_line(f"revision   {one['revision']} {one['created_at']} by {one['owner']}")
    print_json(policy["content"])


def _reference_problems(documents: Sequence[Document]) -> list[Problem]:
    policies = [document.name for document in documents if document.kind == "Policy"]
    problems: list[Problem] = []
    for document in documents:
        if isinstance(document.model, Binding):
            try:
                check_references(document.model.spec, policies)
            except BindingError as error:
                note = f"{error} (among the files given)"
                problems.append(Problem(note, document.source, path="spec"))
    return problems + _monitor_problems(documents)


def _monitor_problems(documents: Sequence[Document]) -> list[Problem]:
    monitors = [document.name for document in documents if document.kind == "Monitor"]
    return [
        Problem(
            f"policy '{document.name}' names monitor '{name}', which is not there"
            f"{did_you_mean(name, monitors)} (among the files given)",
            document.source,
            path=f"spec.monitors.{name}",
        )
        for document in documents
        if isinstance(document.model, Policy)
        for name in document.model.spec.monitors
        if name not in monitors
    ]


def _validation(documents: Sequence[Document], problems: Sequence[Problem]) -> dict[str, Any]:
    listed = [
        {"kind": d.kind, "name": d.name, "digest": d.digest, "file": d.source} for d in documents
    ]
    errors = [problem.as_dict() for problem in problems]
    return {"ok": not problems, "documents": listed, "errors": errors}


def _print_validation(documents: Sequence[Document], problems: Sequence[Problem]) -> None:
    for problem in problems:
        print_error(str(problem))
    if problems:
        print_error(_count(len(problems), "problem"))
        return
    for document in documents:
        print_line(f"{document.kind} {document.name}  {document.digest[:12]}  {document.source}")
    print_line(f"{_count(len(documents), 'document')}, no problems")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _row(policy: dict[str, Any]) -> tuple[str, ...]:
    allowed = policy["strength"]
    return (
        f"{policy['name']}@{policy['revision']}",
        policy["mode"],
        "yes" if policy["selectable"] else "no",
        f"{allowed['default']:g} ({allowed['min']:g} to {allowed['max']:g})",
        policy["owner"],
        policy["digest"][:12],
        policy["description"],
    )
