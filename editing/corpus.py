"""Corpora: ordinary text, for second moments and for the perplexity canary."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from editing.contexts import sampled_texts
from editing.moments import CorpusError
from forward.digest import values_digest
from forward.prompts import PromptError, render_chat, render_text

LONGEST = 512
"""Tokens of a document that count."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Texts and their token ids.

    Attributes:
        texts: As they were read, to tell what they mention.
        documents: Token ids of each text, cut to ``LONGEST``.
        source: Where the texts come from, for people.
    """

    texts: tuple[str, ...]
    documents: tuple[tuple[int, ...], ...]
    source: str

    @property
    def digest(self) -> str:
        """Identity of the documents."""
        return values_digest(*self.documents)

    def without(self, mentioned: Sequence[str], tokens: int) -> list[list[int]]:
        """Return documents, from the last on, that mention none of these; up to so many tokens."""
        names = [name.casefold() for name in mentioned]
        found: list[list[int]] = []
        left = tokens
        for text, ids in zip(reversed(self.texts), reversed(self.documents), strict=True):
            if left <= 0:
                break
            if not any(name in text.casefold() for name in names):
                found.append(list(ids))
                left -= len(ids)
        return found


@dataclass(frozen=True, eq=False)
class Source:
    """A corpus that is made when it is needed.

    Attributes:
        digest: Its identity, known before.
        load: Makes it.
        is_written: Whether the model is to write it, which takes a while.
    """

    digest: str
    load: Callable[[], Corpus]
    is_written: bool = False


def file_source(path: Path, tokenizer: Any) -> Source:
    """Return a file's corpus, read now.

    Raises:
        CorpusError: The file is missing, empty or malformed.
    """
    return held(read_corpus(path, tokenizer))


def held(corpus: Corpus) -> Source:
    """Return a corpus that is at hand."""
    return Source(corpus.digest, lambda: corpus)


def sampled_source(
    model: nn.Module, tokenizer: Any, fingerprint: str, tokens: int, seed: int = 0
) -> Source:
    """Return a corpus that the model is to write; model, length and seed determine it."""
    digest = values_digest("sampled", fingerprint, tokens, seed)
    return Source(digest, lambda: sampled_corpus(model, tokenizer, tokens, seed), is_written=True)


def named_source(digest: str) -> Source:
    """Return a corpus that is only known by name: what was counted on it may still be kept."""

    def missing() -> Corpus:
        raise CorpusError(
            f"second moments are not kept for corpus {digest[:12] or '(none)'}: give the corpus "
            "that they are to be counted on"
        )

    return Source(digest, missing)


def read_corpus(path: Path, tokenizer: Any) -> Corpus:
    """Read a corpus: JSON lines (.jsonl) of texts or messages, or plain text, one document a line.

    Raises:
        CorpusError: The file is missing, empty or malformed.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot read a corpus from {path}: {error}") from error
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise CorpusError(f"{path} holds no texts; write one a line")
    rendered = [
        _ids(tokenizer, line, path.suffix == ".jsonl", f"{path}, line {n}")
        for n, line in enumerate(texts, 1)
    ]
    return Corpus(tuple(texts), tuple(tuple(ids[:LONGEST]) for ids in rendered), str(path.name))


def sampled_corpus(model: nn.Module, tokenizer: Any, tokens: int, seed: int = 0) -> Corpus:
    """Return a corpus that the model itself wrote: the same for the same model and seed.

    It has the model's own distribution of keys where no text is at hand; what the model rarely
    says of itself (conversations, for one) is missing.
    """
    length = 64
    texts = sampled_texts(model, tokenizer, -(-tokens // length), length, seed)
    kept = [text for text in texts if text.strip()]
    documents = tuple(tuple(render_text(tokenizer, text)[:LONGEST]) for text in kept)
    return Corpus(tuple(kept), documents, f"sampled from the model, seed {seed}")


def _ids(tokenizer: Any, line: str, is_json: bool, where: str) -> list[int]:
    try:
        value: Any = json.loads(line) if is_json else line
        if isinstance(value, dict):
            value = value.get("messages", value.get("text"))
        if isinstance(value, str) and value:
            return render_text(tokenizer, value)
        if isinstance(value, list) and all(isinstance(message, dict) for message in value):
            answered = value[-1].get("role") == "assistant"
            return render_chat(tokenizer, value, add_generation_prompt=not answered)
    except (ValueError, KeyError, IndexError, PromptError) as error:
        raise CorpusError(f"{where} cannot be rendered: {error}") from error
    raise CorpusError(f"{where} is no text: write a string, messages, or an object with either")
