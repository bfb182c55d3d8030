"""Our own routes, from the description that the server gives of them."""

import asyncio
from typing import Any

from service.api.openapi.build import describe
from service.api.operations import operations_app
from tests.docs.reference.table import code, table
from tests.service.api.world import build, server_of

_ABOUT = (
    "Our own routes; those for inference are vLLM's, and OpenAI's and Anthropic's clients know "
    "them. Each needs a key of at least the role that it names, as `Authorization: Bearer KEY`. "
    "`GET /trimtab/v1/openapi.json` has the bodies and answers as OpenAPI 3.1; what is refused "
    "says so with one of these [codes](errors.md)."
)
_COLUMNS = ("", "", "role", "parameters", "what it does")


def page() -> str:
    """Return the page."""
    rows = [
        _row(path, method, operation)
        for path, methods in asyncio.run(_described())["paths"].items()
        for method, operation in methods.items()
    ]
    return "\n".join(["# HTTP interface", "", _ABOUT, "", *table(_COLUMNS, rows), ""])


async def _described() -> dict[str, Any]:
    world = await build()
    server = server_of(world)
    described = describe(operations_app(server).routes)
    for log in (server.events, server.decisions):
        await log.close()
    world.store.close()
    return described


def _row(path: str, method: str, operation: dict[str, Any]) -> tuple[str, ...]:
    role = operation["description"].rpartition("Role: ")[2].rstrip(".")
    asked = [p["name"] for p in operation["parameters"] if p["in"] != "path"]
    words = operation["summary"]
    return method.upper(), code(path), role.partition(",")[0], ", ".join(map(code, asked)), words
