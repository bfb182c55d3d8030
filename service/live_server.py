"""A running server as its clients meet it: completions of token ids, and what they ran under."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import httpx

from service.errors import ServiceError
from service.selection import HEADER
from service.settings import is_loopback

TIMEOUT_SECONDS = 600.0
"""A request may wait behind whatever else the server is doing."""

Likely = Mapping[int, float]
"""Log-probabilities by token id: of the token that is there, and of the likeliest."""


class LiveError(ServiceError):
    """A server that does not answer, refuses, or answers what cannot be measured."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a request ran under.

    Attributes:
        policies: ``name@revision`` of the operator's policies, then of the chosen one.
        digest: Identity of their content and of the strength.
    """

    policies: tuple[str, ...]
    digest: str

    def __str__(self) -> str:
        """Return the policies as the answer's header has them."""
        return ", ".join(self.policies) or "none"


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer.

    Attributes:
        text: What was said.
        ended: Why it ended: ``stop``, ``length``, ``content_filter``.
        prompt: What was likely at each token of the prompt but the first; empty if not asked for.
        ran: What it ran under.
    """

    text: str
    ended: str
    prompt: tuple[Likely, ...]
    ran: Ran


class LiveServer:
    """Asks a server for completions; close it, or use it as a context. Threads may share it."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Keep where the server is, and the key that inference needs there, if it does.

        Raises:
            LiveError: It is no URL.
        """
        self._url = url.rstrip("/")
        try:
            self._client = httpx.Client(
                base_url=self._url,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=TIMEOUT_SECONDS,
                # A loopback server is never behind a proxy, and the key is not for one.
                trust_env=not is_loopback(httpx.URL(url).host),
            )
        except httpx.InvalidURL as error:
            raise LiveError(f"'{url}' is not a URL: {error}") from error

    def model(self) -> tuple[str, str]:
        """Return the served model's name and where its checkpoint is, as the server has it.

        Raises:
            LiveError: The server does not say.
        """
        listed = self._ask("GET", "/v1/models").json()
        try:
            first = listed["data"][0]
            return str(first["id"]), str(first["root"])
        except (KeyError, IndexError, TypeError) as error:
            raise LiveError(f"{self._url} lists no model: {_IS_IT}") from error

    def tokens(self, prompt: str | Sequence[Mapping[str, str]], model: str) -> list[int]:
        """Return the ids that the server makes of a text or of a conversation.

        Raises:
            LiveError: The server refuses.
        """
        given = {"prompt": prompt} if isinstance(prompt, str) else {"messages": list(prompt)}
        answer = self._ask("POST", "/tokenize", {"model": model, **given}).json()
        try:
            return [int(token) for token in answer["tokens"]]
        except (KeyError, TypeError) as error:
            raise LiveError(f"{self._url} does not tokenise: {_IS_IT}") from error

    def complete(self, fields: Mapping[str, Any]) -> Completion:
        """Return the first choice of a completion.

        Args:
            fields: The body of ``/v1/completions``; not streamed.

        Raises:
            LiveError: The server refuses, or does not say what it ran under.
        """
        answer = self._ask("POST", "/v1/completions", fields)
        under = answer.headers.get(HEADER)
        if under is None:
            raise LiveError(f"an answer of {self._url} has no header {HEADER}: {_IS_IT}")
        labels = tuple(name for name in under.split(", ") if name != "none")
        ran = Ran(labels, answer.headers.get("x-trimtab-digest", ""))
        try:
            choice = answer.json()["choices"][0]
            told: list[Any] = choice.get("prompt_logprobs") or [None]  # nothing precedes the first
            likely = tuple(_likely(entries) for entries in told[1:])
            return Completion(choice["text"], str(choice["finish_reason"]), likely, ran)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise LiveError(f"an answer of {self._url} is no completion: {error!r}") from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        try:
            answer = self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise LiveError(
                f"no answer from {self._url} ({reason}): start a server with 'trimtab serve', or "
                "give its --url"
            ) from error
        if not answer.is_success:
            raise LiveError(f"{self._url} refused ({answer.status_code}): {_message(answer)}")
        return answer


_IS_IT = "is it a Trimtab server?"


def _likely(entries: Mapping[str, Mapping[str, Any]]) -> Likely:
    return {int(token): float(entry["logprob"]) for token, entry in entries.items()}


def _message(answer: httpx.Response) -> str:
    """Return an error's words: in OpenAI's shape, or else the body itself."""
    try:
        body = answer.json()
    except ValueError:
        return answer.text[:200]
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return str(message or body)
