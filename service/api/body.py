"""Request bodies: read up to a limit, and handed on as if unread."""

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from service.api.errors import HttpError


class ClientGoneError(Exception):
    """The client went away before its request was whole."""


async def read_body(headers: Headers, receive: Receive, limit: int) -> bytes:
    """Return a request's body.

    Raises:
        HttpError: 413, it is larger than ``limit`` bytes.
        ClientGoneError: The client went away.
    """
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large(limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise too_large(limit)
        if not message.get("more_body", False):
            return b"".join(parts)


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives ``body`` first and then what the client still sends."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again


def with_body_length(scope: Scope, length: int) -> Scope:
    """Return the scope with the length of another body."""
    kept = [
        (name, value)
        for name, value in scope["headers"]
        if name not in (b"content-length", b"transfer-encoding")
    ]
    return {**scope, "headers": [*kept, (b"content-length", str(length).encode())]}


def too_large(limit: int) -> HttpError:
    """Return the refusal of a body of more than ``limit`` bytes."""
    return HttpError(413, "body_too_large", f"the body is larger than {limit} bytes")
