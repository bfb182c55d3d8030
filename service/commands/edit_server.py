"""What the ``edit`` commands do on a running server: ask for jobs, follow them, show them."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import typer

from service.commands.edit_output import print_listed, print_plain_scores, print_solved, progress
from service.commands.output import CommandError, print_json, print_line, print_table
from service.commands.source import CHANGE_SECONDS, ServerSource
from service.settings import Environment

POLL_SECONDS = 0.3
ENDED = ("succeeded", "failed", "cancelled")
_WRITTEN = ("prompt", "subject", "target", "also", "keep")


class EditServer(ServerSource):
    """Asks a running server about edits and jobs."""

    def edits(self) -> list[dict[str, Any]]:
        """Return a line of each edit."""
        return self._ask("GET", "edits")["edits"]

    def edit(self, name: str) -> dict[str, Any]:
        """Return one edit in detail."""
        return self._ask("GET", f"edits/{name}")

    def solve(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for an edit set to be solved and return the job."""
        return self._ask("POST", "edits", json=dict(wanted), timeout=CHANGE_SECONDS)

    def evaluate(self, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for an edit to be evaluated and return the job."""
        path = f"edits/{name}/evaluate"
        return self._ask("POST", path, json=dict(wanted), timeout=CHANGE_SECONDS)

    def remove(self, name: str) -> dict[str, Any]:
        """Remove an edit set and return what that did."""
        return self._ask("DELETE", f"edits/{name}", timeout=CHANGE_SECONDS)

    def jobs(self, state: str | None = None) -> list[dict[str, Any]]:
        """Return the newest jobs."""
        return self._ask("GET", "jobs", params={"state": state} if state else {})["jobs"]

    def job(self, number: int) -> dict[str, Any]:
        """Return a job in detail."""
        return self._ask("GET", f"jobs/{number}")

    def cancel(self, number: int) -> dict[str, Any]:
        """Cancel a job and return it."""
        return self._ask("POST", f"jobs/{number}/cancel")

    def card(self, number: int) -> str:
        """Return a job's card as HTML.

        Raises:
            CommandError: There is no such job.
        """
        answer: httpx.Response = self._answer("GET", f"jobs/{number}/card")
        if not answer.is_success:
            raise CommandError(f"there is no card of job {number} ({answer.status_code})")
        return answer.text


def edit_server(url: str | None) -> EditServer:
    """Return the server at a URL, the default one unless given."""
    environment = Environment.read()
    return EditServer(url or environment.url, environment)


def document(
    value: Any, name: str | None, method: str | None, layers: Sequence[int]
) -> dict[str, Any]:
    """Return the document of an edit set that a file holds in whatever form.

    Args:
        value: A document, a mapping with ``facts``, or a list of facts.
        name: Instead of the file's, or if it has none.
        method: Instead of the file's.
        layers: Instead of the file's.

    Raises:
        CommandError: There is no name, or no set.
    """
    if isinstance(value, list):
        value = {"facts": value}
    if not isinstance(value, dict):
        raise CommandError("an edit set is a list of facts, or a mapping with 'facts'")
    is_document = value.get("kind") == "EditSet"
    spec = dict(value.get("spec") or {}) if is_document else dict(value)
    known = value.get("metadata") or {} if is_document else {"name": spec.pop("name", None)}
    metadata = dict(known) | ({"name": name} if name is not None else {})
    if not metadata.get("name"):
        raise CommandError("the edit set has no name: give one with --name")
    changes = {"method": method, "layers": list(layers)}
    spec |= {field: given for field, given in changes.items() if given}
    head = {"apiVersion": "trimtab/v1", "kind": "EditSet"}
    return head | {"metadata": metadata, "spec": spec}


def cases_of(path: Path, form: str, limit: int | None) -> dict[str, Any]:
    """Return the records of a file of cases as a request has them.

    Raises:
        CommandError: It cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line.strip()]
        found = [json.loads(s) for s in lines] if path.suffix == ".jsonl" else json.loads(text)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise CommandError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, list):
        raise CommandError(f"{path} holds no list of records")
    return {"cases": found[:limit], "format": form}


def without(edit: Mapping[str, Any], facts: Sequence[str]) -> dict[str, Any]:
    """Return an edit's document without some facts, named by the first digits of their digests.

    Raises:
        CommandError: One names no fact or several, or nothing would be left.
    """
    content = edit["content"]
    if content is None:
        raise CommandError(f"'{edit['name']}' is an artifact without a document: nothing to change")
    gone: set[str] = set()
    for digits in facts:
        found = [f["digest"] for f in edit["facts"] if f["digest"].startswith(digits)]
        if len(found) != 1:
            known = ", ".join(f["digest"][:12] for f in edit["facts"][:8])
            raise CommandError(f"{len(found)} facts begin with '{digits}'; there are {known}")
        gone |= set(found)
    kept = [_as_written(f) for f in edit["facts"] if f["digest"] not in gone]
    if not kept:
        raise CommandError("no fact would be left: remove the edit itself, without --fact")
    spec = {name: v for name, v in content["spec"].items() if name != "keep"} | {"facts": kept}
    return dict(content) | {"spec": spec}


def follow(server: EditServer, job: Mapping[str, Any], wait: bool, as_json: bool) -> None:
    """Wait for a job, as bars, and show what it found; exit code 1 if it did not succeed."""
    number = int(job["id"])
    if not wait:
        print_json(dict(job)) if as_json else print_line(f"job {number} is {job['state']}")
        return
    try:
        ended = _ended(server, number)
    except KeyboardInterrupt as error:
        print_line(f"job {number} goes on: trimtab edit jobs {number} --cancel ends it")
        raise typer.Exit(130) from error
    show(ended, as_json)


def show(job: Mapping[str, Any], as_json: bool) -> None:
    """Show a job in detail; exit code 1 if it failed or was cancelled."""
    if as_json:
        print_json(dict(job))
    else:
        _print_job(job)
    if job["state"] in ("failed", "cancelled"):
        if as_json:
            raise typer.Exit(1)
        raise CommandError(job["error"] or f"job {job['id']} was cancelled")


def write_card(server: EditServer, number: int, path: Path) -> None:
    """Write a job's card to a file.

    Raises:
        CommandError: It cannot be written.
    """
    try:
        path.write_text(server.card(number), encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from error
    print_line(f"wrote {path}")


def print_jobs(jobs: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print a line of each job."""
    if as_json:
        print_json([dict(job) for job in jobs])
        return
    columns = ("job", "kind", "edit", "state", "stage", "asked", "error")
    print_table(columns, [_row(job) for job in jobs])


def print_edits(edits: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print a line of each edit of a server."""
    if as_json:
        print_json([dict(edit) for edit in edits])
    else:
        print_listed(edits)


def _as_written(fact: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fact[name] for name in _WRITTEN if name in fact}


def _ended(server: EditServer, number: int) -> dict[str, Any]:
    with progress() as report:
        while True:
            job = server.job(number)
            at = job["progress"]
            if job["state"] in ENDED:
                return job
            report(at["stage"] or job["state"], at["done"], at["total"])
            time.sleep(POLL_SECONDS)


def _print_job(job: Mapping[str, Any]) -> None:
    print_line(f"job {job['id']}: {job['kind']} {job['name']}, {job['state']}")
    result = job["result"] or {}
    if "edit" in result:
        print_solved(result)
    if result.get("scores"):
        print_plain_scores(result["scores"])


def _row(job: Mapping[str, Any]) -> tuple[str, ...]:
    at = job["progress"]
    stage = f"{at['stage']} {at['done']}/{at['total']}" if job["state"] == "running" else ""
    error = (job["error"] or "")[:60]
    asked = job["created_at"][:19].replace("T", " ")
    return (str(job["id"]), job["kind"], job["name"], job["state"], stage, asked, error)
