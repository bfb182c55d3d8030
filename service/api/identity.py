"""The name of a request, and what its client calls its answer.

Each request gets a name of ours, which is unique. vLLM names answers by the header ``X-Request-Id``
or a field of the body; where a client gives neither, ours is put there, so that the answer's own id
holds the name.
"""

import uuid
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Scope, Send

HEADER = "x-trimtab-request"
_REQUEST = "trimtab_request"
_RESPONSES = "/v1/responses"
_MESSAGES = "/v1/messages"
PREFIXES: Mapping[str, str] = {
    "/v1/chat/completions": "chatcmpl-",
    "/v1/chat/completions/batch": "chatcmpl-",
    "/v1/completions": "cmpl-",
    _MESSAGES: "chatcmpl-",
    "/inference/v1/generate": "generate-tokens-",
}
"""What vLLM puts before a name, by route."""


def with_request(scope: Scope) -> Scope:
    """Return the scope with a name of ours: a new one unless it has one."""
    return scope if _REQUEST in scope else {**scope, _REQUEST: uuid.uuid4().hex}


def request_of(scope: Mapping[str, Any]) -> str:
    """Return our name of a request."""
    return scope[_REQUEST]


def telling(send: Send, request: str) -> Send:
    """Return a ``send`` that puts our name of the request on its answer."""

    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message.get("headers", ())))
            headers[HEADER] = request
            message = {**message, "headers": headers.raw}
        await send(message)

    return told


def named(scope: Scope, path: str, fields: Mapping[str, Any]) -> tuple[Scope, dict[str, Any], str]:
    """Return the scope and the body's fields by which vLLM names the answer, and that name.

    What a client chose stays; the name is empty where vLLM will refuse what it chose.
    """
    request, given = request_of(scope), fields.get("request_id")
    if path == _RESPONSES:
        answer = given if "request_id" in fields else f"resp_{request}"
        kept = isinstance(answer, str)
        return scope, {**fields, "request_id": answer}, answer if kept else ""
    chosen = Headers(scope=scope).get("x-request-id")
    if chosen is None and path != _MESSAGES and "request_id" in fields:
        chosen = given if isinstance(given, str) else ""
    elif chosen is None:
        chosen = request
        scope = {**scope, "headers": [*scope["headers"], (b"x-request-id", request.encode())]}
    return scope, dict(fields), f"{PREFIXES.get(path, '')}{chosen}" if chosen else ""
