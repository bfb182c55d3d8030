"""Requests made from the description, in its terms and out of them: no 5xx, no undescribed answer.

Run twice over what there is: all that keeps it first, then all that removes. A path's part is now a
name of something that is there and now any.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.api.openapi.build import describe, short
from service.api.operations import operations_app
from tests.service.api.full_world import full_world, names_of
from tests.service.api.listening import Listening
from tests.service.api.world import KEY, World, server_of

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance"),
    *("unsupported_method", "ignored_auth"),
)
EXAMPLES = 4
SECONDS = 300


def directed(world: World, names: dict[str, list[str]]) -> dict[str, Any]:
    """Return the description, with what there is among the parts of paths."""
    made = describe(operations_app(server_of(world)).routes)
    for path, methods in made["paths"].items():
        for operation in methods.values():
            for part in (p for p in operation["parameters"] if p["in"] == "path"):
                of = short(path).split("/", 1)[0] if part["name"] == "id" else part["name"]
                is_number = part["schema"]["type"] == "integer"
                known = [int(name) if is_number else name for name in names[of]]
                part["schema"] = {"anyOf": [{"enum": known}, part["schema"]]}
    return made


async def made(file: Path) -> World:
    world = await full_world()
    file.write_text(json.dumps(directed(world, await names_of(world))))
    return world


def run(
    file: Path, url: str, *more: str, examples: int = EXAMPLES, seconds: float = SECONDS
) -> str:
    """Return what schemathesis says; it ends with an error if it found one."""
    options = (
        "--seed",
        "1",
        "--suppress-health-check",
        "filter_too_much",
        "--max-examples",
        str(examples),
        "--no-color",
        "--no-shrink",
    )
    checks = ("--checks", ",".join(CHECKS), "--continue-on-failure", "--warnings", "off")
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(file), "--url", url]
    command += ["--header", f"Authorization: Bearer {KEY}", *options, *checks, *more]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, check=False, cwd=file.parent
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-20_000:]
    return said


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_no_request_finds_a_fault(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "openapi.json"
    options = ("--phases", "fuzzing", "--mode", mode)
    with Listening(lambda: made(file)) as world:
        kept = run(file, world.url, *options, "--exclude-method", "DELETE")
        run(file, world.url, *options, "--include-method", "DELETE")
    assert "No issues found" in kept


def test_an_answer_that_is_not_described_is_found(tmp_path: Path) -> None:
    """Else the test above could not fail."""
    file = tmp_path / "openapi.json"
    with Listening(lambda: made(file)) as world:
        described = json.loads(file.read_text())
        described["components"]["schemas"]["Status"]["properties"].pop("version")
        described["components"]["schemas"]["Status"]["required"].remove("version")
        file.write_text(json.dumps(described))
        with pytest.raises(AssertionError, match="version"):
            run(file, world.url, "--phases", "fuzzing", "--include-path", "/trimtab/v1/status")
