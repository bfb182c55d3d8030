"""What is added to an inference answer on its way out: headers, and the ``trimtab`` object."""

import json
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Send

from service.api.server import IsReady
from service.api.sse import LastEvent
from service.engine.lease import Lease
from service.selection import Selection


def described(lease: Lease, selection: Selection) -> dict[str, Any]:
    """Return the ``trimtab`` object of a request; without monitors nothing is scored."""
    return {
        "policy": list(lease.policies),
        "digest": lease.digest,
        "strength": selection.strength if selection.chosen is not None else None,
        "scores": {},
        "verdicts": {},
        "coverage": {},
    }


def added_to(answer: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON answer or a stream's last event with the object; errors stay as they are.

    The last event of a Responses stream holds the response: it gets the object too.
    """
    if answer.get("error") is not None and "choices" not in answer and "output" not in answer:
        return answer
    inner = answer.get("response")
    if isinstance(inner, dict):
        answer = {**answer, "response": {**inner, "trimtab": extra}}
    return {**answer, "trimtab": extra}


class InferenceAnswer:
    """A ``send`` that adds what belongs on the answer of one request.

    ``status`` is that of the answer once it started; ``is_whole`` says that it was sent to its end.
    """

    def __init__(
        self, send: Send, lease: Lease, extra: dict[str, Any] | None, is_ready: IsReady
    ) -> None:
        """Wrap ``send``; ``extra`` is the ``trimtab`` object if it was asked for."""
        self._send, self._lease, self._extra = send, lease, extra
        self._is_ready = is_ready
        self._held_start: Message | None = None
        self._json: list[bytes] = []
        self._stream: LastEvent | None = None
        self.status: int | None = None
        self.is_whole = False

    async def __call__(self, message: Message) -> None:
        """Pass one message on, changed where it must be."""
        if message["type"] == "http.response.start":
            await self._start(message)
        elif message["type"] == "http.response.body":
            await self._body(message)
        else:
            await self._send(message)

    async def _start(self, message: Message) -> None:
        self.status = self._status(int(message["status"]))
        headers = list(message.get("headers", ()))
        message = {**message, "status": self.status, "headers": headers}
        if self.status < 400:
            named = MutableHeaders(raw=headers)
            named["x-trimtab-policy"] = ", ".join(self._lease.policies) or "none"
            named["x-trimtab-digest"] = self._lease.digest
        if self._extra is None or self.status != 200:
            await self._send(message)
            return
        kind = Headers(raw=headers).get("content-type", "")
        if kind.startswith("application/json"):
            self._held_start = message
            return
        if kind.startswith("text/event-stream"):
            self._stream = LastEvent(self._extra, added_to)
            del MutableHeaders(raw=headers)["content-length"]
        await self._send(message)

    def _status(self, given: int) -> int:
        """An engine that died under the request is not the request's fault: try again, says 503."""
        return 503 if given == 500 and not self._is_ready() else given

    async def _body(self, message: Message) -> None:
        body, more = bytes(message.get("body", b"")), bool(message.get("more_body", False))
        if self._held_start is not None:
            self._json.append(body)
            if not more:
                await self._send_json(self._held_start)
        elif self._stream is not None:
            out = self._stream.feed(body) + (b"" if more else self._stream.end())
            if out or not more:
                await self._send({"type": "http.response.body", "body": out, "more_body": more})
        else:
            await self._send(message)
        self.is_whole = not more

    async def _send_json(self, start: Message) -> None:
        body = b"".join(self._json)
        parsed = json.loads(body)
        if isinstance(parsed, dict) and self._extra is not None:
            body = json.dumps(added_to(parsed, self._extra), separators=(",", ":")).encode()
            MutableHeaders(raw=start["headers"])["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
