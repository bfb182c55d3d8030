"""JSON from clients: no deeper than everything that reads it after us can follow."""

import json

from service.api.errors import HttpError

MAX_DEPTH = 128


def load_json(body: bytes) -> object:
    """Return the value of a JSON text.

    Raises:
        ValueError: It is no JSON.
        HttpError: 400, it is nested deeper than ``MAX_DEPTH``, or holds text that is none.
    """
    try:
        value: object = json.loads(body)
    except RecursionError as error:
        raise _too_deep() from error
    # So few brackets cannot nest too deeply: most bodies need no walk.
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_deep(value):
        raise _too_deep()
    if (not body.isascii() or b"\\" in body or b"\0" in body) and not _is_text(value):
        message = "the body holds half of a surrogate pair, which is no text"
        raise HttpError(400, "invalid_json", message)
    return value


def _is_text(value: object) -> bool:
    """Whether all text in a value can be written down: Python reads half of a pair as text."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


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
