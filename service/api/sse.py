"""A stream of server-sent events whose last JSON event is added to: one event is held back."""

import json
from collections.abc import Callable
from typing import Any

Object = dict[str, Any]
_END = b"\n\n"
_DONE = b"[DONE]"


class LastEvent:
    """Passes events on; the last one before ``[DONE]`` or the end is changed first.

    Comments, which keep a connection alive, are never held back.
    """

    def __init__(self, extra: Object, change: Callable[[Object, Object], Object]) -> None:
        """Change the last event by ``change(event, extra)``."""
        self._extra, self._change = extra, change
        self._pending = b""
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes as they come and return those that can go out."""
        *events, self._pending = (self._pending + chunk).split(_END)
        return b"".join(self._event(event + _END) for event in events)

    def end(self) -> bytes:
        """Return what is left: the held event, changed, and an event that was cut off."""
        return self._finished() + self._pending

    def _event(self, event: bytes) -> bytes:
        data = _data(event)
        if data is None:
            return event
        if data == _DONE:
            return self._finished() + event
        out, self._held = self._held, event
        return out

    def _finished(self) -> bytes:
        event, self._held = self._held, b""
        data = _data(event)
        if data is None:
            return event
        parsed = _object(data)
        if parsed is None:
            return event
        changed = json.dumps(self._change(parsed, self._extra), separators=(",", ":")).encode()
        others = [line for line in event.splitlines() if line and not line.startswith(b"data:")]
        return b"\n".join([*others, b"data: " + changed]) + _END


def _data(event: bytes) -> bytes | None:
    """Return the data of an event; None if it has none."""
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def _object(data: bytes) -> Object | None:
    try:
        parsed: object = json.loads(data)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None
