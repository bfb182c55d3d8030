"""The last words of a stream that was begun and will not be finished: its route's own error.

Without them its client sees a connection that broke, and cannot tell that from an answer that is
whole.
"""

import re
from typing import Any

from service.api.sse import written

CODE = "engine_unavailable"
_NUMBER = re.compile(rb'"sequence_number":\s*(\d+)')


def last_words(path: str, message: str, last: bytes) -> bytes:
    """Return the events that end a stream; ``last`` is what it said last."""
    if path == "/v1/messages":
        error = {"type": "api_error", "message": message}
        return written("error", {"type": "error", "error": error})
    if path == "/v1/responses":
        numbers = _NUMBER.findall(last)
        told: dict[str, Any] = {"code": CODE, "message": message, "param": None}
        number = int(numbers[-1]) + 1 if numbers else 0
        return written("error", {"type": "error", **told, "sequence_number": number})
    error = {"message": message, "type": "server_error", "param": None, "code": CODE}
    return written(None, {"error": error}) + b"data: [DONE]\n\n"
