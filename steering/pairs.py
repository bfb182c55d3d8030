"""Contrast pairs: two prompts that differ in what a direction is to capture."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from forward.capture import capture, capture_at
from forward.digest import values_digest
from forward.hookpoints import HookPoint
from forward.prompts import Message, PromptError, Tokenizer, render, render_chat

Prompt = str | tuple[Message, ...]
"""Plain text, or a conversation."""

TokenName = Literal["last_prompt", "mean_prompt", "last_generated", "mean_generated"]
"""Which residual stands for a prompt: that of its last token, the mean over all its tokens, or
the same over the assistant's answer, which is then the conversation's last message. The last
generated token is the last one that is not special (the end-of-turn marker is not counted)."""


class PairsError(ValueError):
    """Contrast pairs that cannot be used."""


@dataclass(frozen=True, slots=True)
class ContrastPair:
    """A prompt that shows what is wanted, and its counterpart that does not."""

    positive: Prompt
    negative: Prompt


def read_pairs(path: Path) -> list[ContrastPair]:
    """Read a JSON-lines file of ``{"positive": messages | text, "negative": ...}``.

    Raises:
        PairsError: The file is missing or empty, or a line has another form; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PairsError(f"cannot read pairs from {path}: {error}") from error
    pairs = [_pair(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    if not pairs:
        raise PairsError(f"{path} holds no pairs; write one JSON object a line")
    return pairs


def pairs_digest(pairs: Iterable[ContrastPair]) -> str:
    """Return the identity of pairs, 64 hex digits."""
    return values_digest(
        *(json.dumps([_plain(p.positive), _plain(p.negative)], sort_keys=True) for p in pairs)
    )


def activations(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    points: Sequence[HookPoint],
    token: TokenName,
) -> dict[HookPoint, Tensor]:
    """Return one residual a prompt, (prompts, d_model) float64 at each hook point.

    Raises:
        PairsError: A prompt cannot be rendered or has no token at this position.
    """
    try:
        if token in ("last_prompt", "mean_prompt"):
            ids = [render(tokenizer, prompt) for prompt in prompts]
            found = capture_at(model, ids, points, token)
        else:
            rows = [_generated(model, tokenizer, prompt, points, token) for prompt in prompts]
            found = {point: torch.stack([row[point] for row in rows]) for point in points}
    except PromptError as error:
        raise PairsError(str(error)) from error
    return {point: residual.to("cpu", torch.float64) for point, residual in found.items()}


def _generated(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompt: Prompt,
    points: Sequence[HookPoint],
    token: TokenName,
) -> dict[HookPoint, Tensor]:
    ids, start = _with_answer(tokenizer, prompt)
    found = capture(model, ids, points)
    if token == "last_generated":
        return {point: residual[-1] for point, residual in found.items()}
    return {point: residual[start:].float().mean(0) for point, residual in found.items()}


def _with_answer(tokenizer: Tokenizer, prompt: Prompt) -> tuple[list[int], int]:
    """Return the ids of a conversation up to its last answer's last word, and where that starts."""
    if isinstance(prompt, str) or prompt[-1]["role"] != "assistant":
        raise PairsError(
            "a position in generated tokens needs conversations that end with the assistant's "
            "answer; use last_prompt or mean_prompt for others"
        )
    head = render_chat(tokenizer, prompt[:-1])
    ids = render_chat(tokenizer, prompt, add_generation_prompt=False)
    special: set[int] = set(getattr(tokenizer, "all_special_ids", ()))
    while len(ids) > len(head) and ids[-1] in special:
        ids.pop()
    if ids[: len(head)] != head or len(ids) == len(head):
        raise PairsError(
            "the chat template does not write an answer straight after its prompt, so the answer's "
            "tokens cannot be told; use last_prompt or mean_prompt"
        )
    return ids, len(head)


def _pair(line: str, where: str) -> ContrastPair:
    try:
        parsed: object = json.loads(line)
    except ValueError as error:
        raise PairsError(f"{where} is not JSON: {error}") from error
    if not isinstance(parsed, dict) or set(parsed) != {"positive", "negative"}:
        raise PairsError(f'{where} needs exactly the keys "positive" and "negative"')
    return ContrastPair(_prompt(parsed["positive"], where), _prompt(parsed["negative"], where))


def _prompt(value: object, where: str) -> Prompt:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and all(_is_message(item) for item in value):
        return tuple(value)
    raise PairsError(
        f'{where}: a prompt is text or a list of messages {{"role": ..., "content": ...}}'
    )


def _is_message(value: object) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"role", "content"}
        and all(isinstance(text, str) for text in value.values())
    )


def _plain(prompt: Prompt) -> object:
    return prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
