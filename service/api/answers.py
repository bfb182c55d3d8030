"""What is done to an inference answer on its way out.

It gets headers, the ``trimtab`` object if that was asked for, and, where a verdict ended it, its
route's way to say so. What monitors found is read when it goes out: before, it is not known.
"""

import json
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Send

from service.api.broken import last_words
from service.api.endings import Events, MessagesRoute, Object, route_of
from service.api.server import IsReady
from service.api.sse import EventStream
from service.engine.lease import Lease
from service.report import RequestReport
from service.selection import Selection

Describe = Callable[[], dict[str, Any]]


def described(lease: Lease, selection: Selection, report: RequestReport) -> dict[str, Any]:
    """Return the ``trimtab`` object of a request."""
    return {
        "policy": list(lease.policies),
        "digest": lease.digest,
        "strength": selection.strength if selection.chosen is not None else None,
        **report.shown(),
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

    ``status`` is that of the answer once it started; ``is_whole`` says that it was sent to its end,
    ``is_abandoned`` that its client had left before: vLLM then answers nobody, and well.
    """

    def __init__(
        self,
        send: Send,
        lease: Lease,
        is_ready: IsReady,
        report: RequestReport,
        path: str,
        describe: Describe | None,
    ) -> None:
        """Wrap ``send``.

        Args:
            send: Where messages go.
            lease: What the request runs under.
            is_ready: Whether the engine lives.
            report: What monitors say, filled while the answer is made.
            path: Of the route.
            describe: Gives the ``trimtab`` object at the end, if it was asked for.
        """
        self._send, self._lease, self._describe = send, lease, describe
        self._is_ready, self._report = is_ready, report
        self._route = route_of(path, report)
        self._held_start: Message | None = None
        self._json: list[bytes] = []
        self._stream: EventStream | None = None
        self._path, self._is_stream, self._last = path, False, b""
        self.status: int | None = None
        self.is_whole = self.is_abandoned = False

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
        kind = Headers(raw=headers).get("content-type", "")
        if self.status < 400:
            named = MutableHeaders(raw=headers)
            named["x-trimtab-policy"] = ", ".join(self._lease.policies) or "none"
            named["x-trimtab-digest"] = self._lease.digest
            if not kind.startswith("text/event-stream"):
                named["x-trimtab-verdict"] = self._report.header()
        self._is_stream = self.status == 200 and kind.startswith("text/event-stream")
        if self.status == 200 and kind.startswith("application/json") and self._changes_json():
            self._held_start = message
            return
        if self._is_stream and self._changes_stream():
            finish = self._with_object if self._describe is not None else None
            self._stream = EventStream(self._change, finish)
            del MutableHeaders(raw=headers)["content-length"]
        await self._send(message)

    def listening(self, receive: Receive) -> Receive:
        """Return a ``receive`` that notes whether the client leaves before the end."""

        async def heard() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not self.is_whole:
                self.is_abandoned = True
            return message

        return heard

    async def break_off(self, reason: str) -> None:
        """End a stream that was begun and will not be finished with an error that says why."""
        if self._is_stream and not self.is_whole:
            words = last_words(self._path, reason, self._last)
            await self._send({"type": "http.response.body", "body": words, "more_body": False})

    def _changes_json(self) -> bool:
        """Whether a JSON answer is changed: by now all of it is made."""
        return self._describe is not None or bool(self._report.endings)

    def _changes_stream(self) -> bool:
        """Whether a stream may be: what monitors will say is not known yet."""
        return self._describe is not None or bool(self._lease.watched)

    def _change(self, name: str | None, event: Object) -> Events | None:
        if not self._report.endings:
            if isinstance(self._route, MessagesRoute):
                self._route.note(event)
            return None
        return self._route.events(name, event)

    def _with_object(self, event: Object) -> Object:
        return added_to(event, self._describe()) if self._describe is not None else event

    def _status(self, given: int) -> int:
        """An engine that died under the request is not the request's fault: try again, says 503."""
        return 503 if given == 500 and not self._is_ready() else given

    async def _body(self, message: Message) -> None:
        body, more = bytes(message.get("body", b"")), bool(message.get("more_body", False))
        self._last = body or self._last
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
        if isinstance(parsed, dict):
            if self._report.endings:
                parsed = self._route.answer(parsed)
            body = json.dumps(self._with_object(parsed), separators=(",", ":")).encode()
            MutableHeaders(raw=start["headers"])["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
