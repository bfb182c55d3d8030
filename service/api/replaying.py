"""Asks a captured prompt again under no policy: what the model says when nothing steers it.

Neither the default binding nor a mandatory policy applies, which no client can ask for: an operator
may, of a prompt that a policy captured. The answer is greedy, so that asking again gives it again.
"""

import asyncio
import uuid

import httpx

from service.api.decided import Deciding
from service.api.errors import HttpError
from service.api.requests import Asked
from service.api.server import Server
from service.callers import Caller
from service.engine.lease import CURRENT_LEASE
from service.probes import PROBING
from service.replays import Unsteered
from service.report import CURRENT_REPORT, RequestReport
from service.selection import Selection

ROUTE = "/v1/completions"
MOST_TOKENS = 128
"""Tokens of an answer that is asked for again."""


class Replayer:
    """Replays prompts through a server's own handlers and engine."""

    def __init__(self, server: Server) -> None:
        """Ask ``server``."""
        self._server = server

    async def ask(self, prompt: str, caller: Caller) -> Unsteered:
        """Return the answer to a prompt, tokenised as it is.

        Raises:
            HttpError: 503, requests are not served, or there was no answer.
        """
        if reasons := self._server.unready():
            raise HttpError(503, "engine_unavailable", "; ".join(reasons))
        # A task has a context of its own: what is set for this request ends with it.
        return await asyncio.create_task(self._asked(prompt, caller))

    async def _asked(self, prompt: str, caller: Caller) -> Unsteered:
        name, report, server = uuid.uuid4().hex, RequestReport(), self._server
        body: dict[str, object] = {
            "model": server.served_names[0],
            "prompt": prompt,
            "add_special_tokens": False,
            "temperature": 0,
            "max_tokens": MOST_TOKENS,
        }
        PROBING.set(True)
        CURRENT_REPORT.set(report)
        async with server.door.visit():
            catalog = server.governor.catalog
            selection = Selection((), None, 1.0, catalog.bindings.default)
            # A tenant's prompt is not left in a cache where others find it.
            lease = server.governor.unsteered(name)
            deciding = Deciding(
                name,
                f"cmpl-{name}",
                ROUTE,
                caller,
                Asked(body, selection, False),
                lease,
                catalog.generation,
                server.governor.merged,
            )
            CURRENT_LEASE.set(lease)
            with lease.held():
                answer = await self._answer(body, name)
        outcome = "served" if answer.status_code == 200 else "failed"
        record = deciding.decision(report, answer.status_code, outcome, deciding.seconds())
        server.decisions.put([record])
        return _unsteered(answer)

    async def _answer(self, body: dict[str, object], name: str) -> httpx.Response:
        try:
            return await self._server.inside.post(ROUTE, body, name)
        except (TimeoutError, httpx.HTTPError) as error:
            raise _failed(str(error) or "it took too long") from error


def _unsteered(answer: httpx.Response) -> Unsteered:
    if answer.status_code != 200:
        raise _failed(f"the model's route answered {answer.status_code}")
    found = answer.json()
    [choice] = found["choices"]
    generated = found["usage"]["completion_tokens"]
    return Unsteered(choice["text"], generated, choice["finish_reason"])


def _failed(why: str) -> HttpError:
    return HttpError(503, "replay_failed", f"the prompt was asked again in vain: {why}; try again")
