"""Greedy answers of a checkpoint to many conversations at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

Messages = list[dict[str, str]]


class Talker:
    """A loaded checkpoint that answers."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.padding_side = "left"
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def render(self, conversations: Sequence[Messages]) -> list[list[int]]:
        """Prompt ids of each conversation, up to the assistant mark."""
        return [self._ids(conversation) for conversation in conversations]

    def _ids(self, conversation: Messages) -> list[int]:
        text = self.tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=False
        )
        return self.tokenizer(str(text), add_special_tokens=False).input_ids

    def answers(
        self, conversations: Sequence[Messages], new: int = 48, batch: int = 64
    ) -> list[str]:
        """The greedy answer to each conversation; neighbours in length share a batch."""
        return self.complete(self.render(conversations), new, batch)

    def text(self, ids: Sequence[int]) -> str:
        """Generated tokens as text."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    @torch.no_grad()
    def complete(self, prompts: Sequence[list[int]], new: int = 48, batch: int = 64) -> list[str]:
        """The greedy continuation of each prompt."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        out = [""] * len(prompts)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            padded = self.tokenizer.pad(
                {"input_ids": [prompts[i] for i in rows]}, return_tensors="pt"
            )
            generate: Any = self.model.generate  # pyright: ignore[reportAttributeAccessIssue] -- its mixin's protocol is untyped
            ids = generate(**padded, max_new_tokens=new, do_sample=False)
            for i, text in zip(
                rows,
                self.tokenizer.batch_decode(
                    ids[:, padded["input_ids"].shape[1] :], skip_special_tokens=True
                ),
                strict=True,
            ):
                out[i] = text
        return out
