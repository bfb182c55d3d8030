"""Prompt rendering: messages or text to token ids, the way the server's routes do it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Message = Mapping[str, str]
"""``{"role": "system" | "user" | "assistant", "content": ...}``."""


class PromptError(ValueError):
    """A prompt that cannot be rendered."""


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    @property
    def bos_token(self) -> Any:
        """The token that starts a text, or None."""
        ...

    @property
    def chat_template(self) -> Any:
        """The template of conversations, or None."""
        ...

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any:
        """Return an encoding with ``input_ids``."""
        ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Render a conversation."""
        ...


def render_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = True
) -> list[int]:
    """Return the ids of a conversation under the tokenizer's chat template.

    The template writes whatever special tokens there are, so none are added: one BOS, not two.

    Args:
        tokenizer: A Hugging Face tokenizer.
        messages: The conversation.
        add_generation_prompt: End where the assistant's answer begins.

    Raises:
        PromptError: No messages, or the tokenizer has no chat template.
    """
    if not messages:
        raise PromptError("no messages: a conversation needs at least one")
    if not tokenizer.chat_template:
        raise PromptError("the tokenizer has no chat template; give plain text instead of messages")
    text: str = tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
    )
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def render_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of plain text with the tokenizer's special tokens.

    Text that already starts with the BOS token gets no second one.

    Raises:
        PromptError: The text has no tokens.
    """
    has_bos = bool(tokenizer.bos_token) and text.startswith(str(tokenizer.bos_token))
    ids = list(tokenizer(text, add_special_tokens=not has_bos).input_ids)
    if not ids:
        raise PromptError("the text has no tokens")
    return ids


def render(tokenizer: Tokenizer, prompt: str | Sequence[Message]) -> list[int]:
    """Return the ids of plain text or of a conversation that the assistant is to answer."""
    if isinstance(prompt, str):
        return render_text(tokenizer, prompt)
    return render_chat(tokenizer, prompt)
