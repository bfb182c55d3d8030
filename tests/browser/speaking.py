"""In vLLM's place: an app that answers in words, and whose monitors find the word ``bomb``."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from service.api.observer import Observer
from service.engine.lease import CURRENT_LEASE, Lease
from service.report import CURRENT_REPORT, ChoiceReport
from service.trace import Trace
from service.verdicts import Verdict, display_names
from service.watch import Watched
from tests.service.api.world import Echo

ANSWER = ("Take", " a", " kettle", ",", " fill", " it", " and", " wait", ".")
PLAIN = "Take a fuse, and wait outside."
"""What is said to a bare prompt, which is how the server asks one again."""
HOT = "bomb"
CALM = 0.1
"""The score of every other word, as a part of the threshold."""


class Speaking(Echo):
    """Answers, and reports what its monitors found as the engine's side does."""

    observer: Observer | None = None

    async def generate(self, request: Request) -> Response:
        """Answer a conversation, count its tokens, or do as ``Echo``."""
        body = await request.json()
        if request.url.path == "/tokenize":
            words = words_of(body)
            return JSONResponse({"count": len(words), "token_strs": words})
        lease = CURRENT_LEASE.get()
        if request.url.path == "/v1/completions":
            await self.note(request)
            choice = {"index": 0, "text": PLAIN, "finish_reason": "length"}
            usage = {"completion_tokens": len(PLAIN.split())}
            return JSONResponse({"id": "a", "choices": [choice], "usage": usage})
        if request.url.path != "/v1/chat/completions" or lease is None:
            return await super().generate(request)
        await self.note(request)
        made = found(lease, words_of(body), request.headers.get("x-request-id", ""))
        report = CURRENT_REPORT.get()
        if report is not None:
            report.add(made)
        if self.observer is not None:
            self.observer.decided(made)
        if body.get("stream"):
            return StreamingResponse(_stream(), media_type="text/event-stream")
        message = {"role": "assistant", "content": "".join(ANSWER)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({"id": "a", "model": body.get("model"), "choices": [choice]})


def words_of(body: Any) -> list[str]:
    """Return the words of a conversation's last message, with the spaces before them."""
    first, *others = body["messages"][-1]["content"].split(" ")
    return [first, *(f" {word}" for word in others)]


def found(lease: Lease, prompt: Sequence[str], request: str) -> ChoiceReport:
    """Return what the monitors of a request find in its prompt and its answer."""
    names = display_names(lease.watched)
    tokens = (*prompt, *ANSWER)
    scores = {
        name: tuple(_score(watched, word) for word in tokens[:-1])
        for name, watched in zip(names, lease.watched, strict=True)
    }
    verdicts = tuple(
        _verdict(name, watched, scores[name], len(prompt))
        for name, watched in zip(names, lease.watched, strict=True)
    )
    captured = any(v.captures and v.is_eventful for v in verdicts)
    trace = Trace(
        0,
        len(prompt),
        tokens,
        {name: (*values, None) for name, values in scores.items()},
        {name: w.threshold for name, w in zip(names, lease.watched, strict=True)},
        "".join(prompt),
        "".join(ANSWER),
    )
    return ChoiceReport(
        request,
        f"chatcmpl-{request}",
        0,
        len(prompt),
        len(ANSWER),
        verdicts,
        {name: list(values) for name, values in scores.items()},
        captured="".join(prompt) if captured else None,
        trace=trace if captured else None,
    )


def _score(watched: Watched, word: str) -> float:
    return (watched.threshold or 1.0) * (1.5 if HOT in word else CALM)


def _verdict(name: str, watched: Watched, scores: Sequence[float], prompt: int) -> Verdict:
    threshold, score = watched.threshold or 1.0, max(scores)
    at = next((i for i, value in enumerate(scores) if value > threshold), None)
    calibration = watched.calibration
    return Verdict(
        monitor=name,
        stage="response",
        policy=watched.policy,
        mode=watched.mode,
        do=watched.do,
        score=score,
        threshold=watched.threshold,
        rarity=calibration.rarity(score) if calibration is not None else None,
        fired=at is not None,
        position=at,
        token=None if at is None else at - prompt,
        ended=False,
        scored=len(scores),
        owed=len(scores),
        unscored={},
        fault=None,
        on_error=watched.on_error,
        captures=watched.captures,
    )


async def _stream() -> AsyncIterator[str]:
    for place, word in enumerate(ANSWER):
        last = place == len(ANSWER) - 1
        choice = {
            "index": 0,
            "delta": {"content": word},
            "logprobs": {"content": [{"token": word.strip(), "logprob": -0.1}]},
            "finish_reason": "stop" if last else None,
        }
        yield f"data: {json.dumps({'id': 'a', 'choices': [choice]})}\n\n"
        await asyncio.sleep(0.01)
    yield "data: [DONE]\n\n"
