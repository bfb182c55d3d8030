"""A server under evaluation: what its clients get under a policy, through its log-probabilities.

The prompt is token ids, those that a Hugging Face model is judged on, so that figures compare. A
target is part of the prompt: what a policy steers by phase treats it as one, and only edits, which
act on every token alike, are measured there as in an answer. Free answers are answers.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from editing.phrasings import Phrasing, word_whole
from editing.spans import Row, locate
from editing.speaker import Asked, Told
from forward.prompts import Message, PromptError, render
from service.binding_schema import NO_POLICY
from service.live_server import Completion, Likely, LiveError, LiveServer, Ran

T = TypeVar("T")

IN_FLIGHT = 16
"""Requests at once: enough to fill batches, few beside what else a server answers."""

CERTAIN = 1e-4
"""The most by which rounding may lift a log-probability above 0."""

COMPARED = 16
"""Prompts on which two tokenizers are compared."""


class LiveSpeaker:
    """A server under one policy; a ``Speaker``. All answers must have run under one revision."""

    def __init__(
        self,
        server: LiveServer,
        model: str,
        tokenizer: Any,
        policy: str,
        revision: int | None = None,
        on_progress: Callable[[int], None] = lambda n: None,
    ) -> None:
        """Ask ``server``.

        Args:
            server: The server.
            model: The served model's name.
            tokenizer: The server's (``refuse_other_tokenizer``).
            policy: Chosen by each request; ``none`` chooses none.
            revision: The only one that counts; None is whichever answers first.
            on_progress: Called with the number of prompts just done.
        """
        self._server, self._model, self._tokenizer = server, model, tokenizer
        self._policy, self._revision, self._on_progress = policy, revision, on_progress
        self._ran: Ran | None = None

    @property
    def ran(self) -> Ran:
        """What all answers so far ran under.

        Raises:
            LiveError: Nothing was asked yet.
        """
        if self._ran is None:
            raise LiveError(f"nothing was asked under policy '{self._policy}'")
        return self._ran

    def tell(self, asked: Sequence[Asked]) -> list[Told]:
        """Return how the model takes each continuation.

        Raises:
            FactError: A prompt or continuation has no tokens.
            LiveError: The server refuses, gives no log-probabilities, or ran under another policy.
        """
        rows = [
            locate(self._tokenizer, word_whole(phrasing, self._tokenizer), target)
            for phrasing, target in asked
        ]
        wanted = [{"prompt": row.ids, "max_tokens": 1, "prompt_logprobs": 1} for row in rows]
        return self._complete(wanted, [partial(_told, row) for row in rows])

    def answer(self, prompts: Sequence[Phrasing], max_new_tokens: int = 32) -> list[str]:
        """Return each greedy answer up to its natural end; a refusal is what a client gets.

        Raises:
            FactError: A prompt has no tokens.
            LiveError: The server refuses, or ran under another policy.
        """
        rows = [locate(self._tokenizer, word_whole(p, self._tokenizer)).ids for p in prompts]
        wanted = [{"prompt": ids, "max_tokens": max_new_tokens} for ids in rows]
        return self._complete(wanted, [_said] * len(rows))

    def _complete(
        self, wanted: Sequence[dict[str, Any]], reading: Sequence[Callable[[Completion], T]]
    ) -> list[T]:
        """Return what is read off each answer; the first that does not count ends it all."""
        head: dict[str, Any] = {"model": self._model, "policy": self._policy, "temperature": 0}
        found: list[T] = []
        pool = ThreadPoolExecutor(IN_FLIGHT)
        try:
            answers = pool.map(self._server.complete, [head | fields for fields in wanted])
            for read, answer in zip(reading, answers, strict=True):
                self._ran = same(self._policy, self._revision, self._ran, answer.ran)
                found.append(read(answer))
                self._on_progress(1)
        finally:
            pool.shutdown(cancel_futures=True)
        return found


def same(policy: str, revision: int | None, before: Ran | None, now: Ran) -> Ran:
    """Return what an answer ran under, if it counts.

    Args:
        policy: The policy that was asked for.
        revision: The only one that counts, if any.
        before: What the answers before it ran under.
        now: What this one ran under.

    Raises:
        LiveError: It was not under the policy asked for, or the policies have changed.
    """
    name, _, number = (now.policies[-1] if now.policies else "").partition("@")
    if policy != NO_POLICY and name != policy:
        raise LiveError(
            f"a request for policy '{policy}' ran under {now}: nothing of it counts. Is something "
            "between here and the server that changes requests?"
        )
    wrong = policy != NO_POLICY and revision is not None and number != str(revision)
    if wrong or (before is not None and now != before):
        was = f"{policy}@{revision}" if before is None else before
        raise LiveError(
            f"the policies changed while '{policy}' was evaluated (from {was} to {now}): figures "
            "of both would be mixed; evaluate again"
        )
    return now


def refuse_unlike(unedited: Ran, edited: Ran, policy: str) -> None:
    """Refuse a baseline that differs from what it stands beside by more than the policy.

    Raises:
        LiveError: It does.
    """
    if edited.policies[:-1] != unedited.policies:
        raise LiveError(
            f"'{policy}' ran under {edited}, and what should be its baseline under {unedited}: "
            "they differ by more than the policy. Evaluate again while nobody changes the binding"
        )


def refuse_other_tokenizer(
    server: LiveServer, model: str, tokenizer: Any, prompts: Sequence[Phrasing]
) -> None:
    """Refuse a tokenizer, or a chat template, that is not the server's, by some prompts.

    Raises:
        LiveError: It makes other ids of a prompt, or none.
    """
    for phrasing in prompts[:COMPARED]:
        prompt = _plain(phrasing)
        try:
            here = render(tokenizer, prompt)
        except PromptError as error:
            raise LiveError(f"'{phrasing.text}' cannot be asked: {error}") from error
        if here != server.tokens(prompt, model):
            raise LiveError(
                f"the tokenizer here and the server's make different tokens of '{phrasing.text}': "
                "give the server's own with --tokenizer"
            )


def _plain(phrasing: Phrasing) -> str | list[Message]:
    if not phrasing.chat:
        return phrasing.text
    system = [{"role": "system", "content": phrasing.system}] if phrasing.system else []
    return [*system, {"role": "user", "content": phrasing.text}]


def _said(answer: Completion) -> str:
    return answer.text


def _told(row: Row, answer: Completion) -> Told:
    likely = answer.prompt
    if answer.ended == "content_filter":
        raise LiveError(
            "a monitor of the policies ended an answer, and a client that is refused gets no "
            "object: put it in shadow to evaluate edits"
        )
    pairs = list(zip(row.target, likely[len(likely) - row.n_target :], strict=False))
    if len(likely) != len(row.ids) - 1 or any(token not in entries for token, entries in pairs):
        raise LiveError(
            "the server gave no log-probabilities of a prompt's tokens: is it a Trimtab server?"
        )
    if any(value > CERTAIN for entries in likely for value in entries.values()):
        raise LiveError(
            "the server gives logits, not log-probabilities: start it with "
            "--logprobs-mode raw_logprobs, or without that option"
        )
    nll = -sum(entries[token] for token, entries in pairs) / row.n_target
    return Told(nll, tuple(_is_likeliest(token, entries) for token, entries in pairs))


def _is_likeliest(token: int, entries: Likely) -> bool:
    """Whether no other is as likely; of equals, the server has named the one it would say."""
    return all(value < entries[token] for other, value in entries.items() if other != token)
