"""``trimtab artifact``: what a server keeps of artifacts, and how room is made."""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from service.commands.output import AsJson, print_json, print_line, print_table
from service.commands.source import CHANGE_SECONDS, ServerSource
from service.settings import Environment

app = typer.Typer(help="Look at artifacts, and take away what nothing names.", no_args_is_help=True)

Url = Annotated[str | None, typer.Option("--url", help="Ask the server at this URL.")]


class ArtifactServer(ServerSource):
    """Asks a running server about artifacts."""

    def artifacts(self) -> list[dict[str, Any]]:
        """Return a line of each artifact, newest first."""
        return self._ask("GET", "artifacts")["artifacts"]

    def collect(self, hours: int, is_dry: bool) -> dict[str, Any]:
        """Take away what nothing names, or say what that would be."""
        asked = {"hours": str(hours), "dry_run": str(is_dry).lower()}
        return self._ask("POST", "artifacts/gc", params=asked, timeout=CHANGE_SECONDS)

    def remove(self, digest: str) -> dict[str, Any]:
        """Take one artifact away."""
        return self._ask("DELETE", f"artifacts/{quote(digest, safe='')}")


@app.command("list")
def list_artifacts(url: Url = None, as_json: AsJson = False) -> None:
    """List the artifacts that the store keeps, newest first."""
    artifacts = _server(url).artifacts()
    if as_json:
        print_json(artifacts)
        return
    print_table(("digest", "kind", "name", "added"), [_row(one) for one in artifacts])


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    hours: Annotated[int, typer.Option(min=0, help="Leave what was added since.")] = 24,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Take away artifacts that no revision and no job names, and files that are left over."""
    found = _server(url).collect(hours, dry_run)
    if as_json:
        print_json(found)
        return
    does = "would be removed" if dry_run else "removed"
    for artifact in found["removed"]:
        print_line(f"{artifact['digest'][:12]} {artifact['kind']} {artifact['name']} {does}")
    for name in found["orphans"]:
        print_line(f"{name} {does}")
    count = len(found["removed"]) + len(found["orphans"])
    print_line(f"{count or 'nothing'} {does}, {found['bytes']} bytes")


@app.command()
def remove(
    digest: Annotated[str, typer.Argument(help="The artifact's digest, whole.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Take one artifact away, whatever its age, unless something names it."""
    found = _server(url).remove(digest)
    if as_json:
        print_json(found)
        return
    for artifact in found["removed"]:
        print_line(f"{artifact['kind']} {artifact['name']} removed")


def _server(url: str | None) -> ArtifactServer:
    environment = Environment.read()
    return ArtifactServer(url or environment.url, environment)


def _row(artifact: Mapping[str, Any]) -> tuple[str, ...]:
    return (artifact["digest"], artifact["kind"], artifact["name"], artifact["created_at"])
