"""``/v1/models`` with each policy that a client may choose listed as a model."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope

from service.api.errors import HttpError, error_response
from service.callers import ANONYMOUS, Caller
from service.catalog import Catalog, PolicyRevision
from service.selection import choices

PATH = "/v1/models"
Card = dict[str, Any]


async def models_response(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    path: str,
    catalog: Catalog,
    models: Iterable[str],
    caller: Caller = ANONYMOUS,
) -> Response:
    """Return vLLM's list with a caller's choices added, or the one model that ``path`` names."""
    listed = await _capture(app, {**scope, "path": _root(scope, path) + PATH}, receive)
    if listed.status_code != 200:
        return listed
    body: Card = json.loads(bytes(listed.body))
    body["data"] = with_policies(body["data"], choices(catalog, caller), models)
    kept = _kept_headers(listed)
    if path == PATH:
        return JSONResponse(body, headers=kept)
    name = path.removeprefix(f"{PATH}/")
    found = [card for card in body["data"] if card["id"] == name]
    if not found:
        message = f"there is no model '{name}'"
        return error_response(HttpError(404, "model_not_found", message, headers=kept))
    return JSONResponse(found[0], headers=kept)


def _kept_headers(answer: Response) -> dict[str, str]:
    """Return what vLLM's answer said beside its length, such as which origins may read it."""
    described = ("content-length", "content-type")
    return {name: value for name, value in answer.headers.items() if name not in described}


def with_policies(
    cards: list[Card], policies: Sequence[PolicyRevision], models: Iterable[str]
) -> list[Card]:
    """Return model cards with one more for each choice under each model, adapters among them.

    A model whose own name is ``<model>:<policy>`` is what that name means, so it is listed once.
    """
    listed = set(models)
    added = [
        _alias(card, policy.name)
        for card in cards
        if card["id"] in listed
        for policy in policies
        if f"{card['id']}:{policy.name}" not in listed
    ]
    return [*cards, *added]


def _alias(card: Card, policy: str) -> Card:
    return {
        **card,
        "id": f"{card['id']}:{policy}",
        "owned_by": "trimtab",
        "root": card["id"],
        "parent": card["id"],
    }


def _root(scope: Scope, path: str) -> str:
    return str(scope["path"]).removesuffix(path)


async def _capture(app: ASGIApp, scope: Scope, receive: Receive) -> Response:
    """Return what the application answers to a request without a body."""
    parts: list[bytes] = []
    captured = Response()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            captured.status_code = message["status"]
            captured.raw_headers = list(message["headers"])
        elif message["type"] == "http.response.body":
            parts.append(message.get("body", b""))

    await app({**scope, "method": "GET"}, receive, send)
    captured.body = b"".join(parts)
    return captured
