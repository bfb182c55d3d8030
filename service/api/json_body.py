"""JSON from clients: no deeper than everything that reads it after us can follow."""

import json

from service.api.errors import HttpError

MAX_DEPTH = 128


def load_json(body: bytes) -> object:
    """Return the value of a JSON text.

    Raises:
        ValueError: It is no JSON.
        HttpError: 400, it is nested deeper than ``MAX_DEPTH``.
    """
    try:
        value: object = json.loads(body)
    except RecursionError as error:
        raise _too_deep() from error
    # So few brackets cannot nest too deeply: most bodies need no walk.
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_deep(value):
        raise _too_deep()
    return value


def _is_deep(value: object) -> bool:
    left: list[tuple[object, int]] = [(value, 1)]
    while left:
        part, depth = left.pop()
        if depth > MAX_DEPTH:
            return True
        items = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        left.extend((item, depth + 1) for item in items if isinstance(item, (dict, list)))
    return False


def _too_deep() -> HttpError:
    message = f"the body is nested deeper than {MAX_DEPTH} levels"
    return HttpError(400, "invalid_json", message)
