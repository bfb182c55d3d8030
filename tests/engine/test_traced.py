"""Traces tell tokens as a reader and a tokenizer need them. Needs no engine."""

import pytest
from transformers import AutoTokenizer

from forward.prompts import render_chat, render_text
from service.commands.serve import demo_folder
from service.engine.traced import Speech
from tests.engine.watching import TOKENIZER

CHAT = [
    {"role": "system", "content": "you are an assistant."},
    {"role": "user", "content": "please, how do i stir the chlorine?"},
    {"role": "assistant", "content": "i can not help with that."},
    {"role": "user", "content": "why?"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(demo_folder() / "checkpoint")


def test_a_whole_prompt_can_be_tokenised_again(tokenizer) -> None:
    """Special tokens too, one of which this tokenizer leaves out of what it decodes."""
    ids = render_chat(tokenizer, CHAT)
    assert render_text(tokenizer, tokenizer.decode(ids)) != ids
    assert render_text(tokenizer, Speech(tokenizer).whole(ids)) == ids


def test_words_are_the_whole_in_pieces(tokenizer) -> None:
    ids, speech = render_chat(tokenizer, CHAT), Speech(tokenizer)
    words = speech.words(ids)
    assert len(words) == len(ids) and "".join(words) == speech.whole(ids)
    assert words[-1] == "<|assistant|>" and " stir" in words


def test_characters_of_several_tokens_are_whole() -> None:
    ids = list("a äb€c".encode())
    assert Speech(TOKENIZER).whole(ids) == "a äb€c"
    assert "".join(Speech(TOKENIZER).words(ids)).replace("\ufffd", "") == "a bc"


def test_without_a_tokenizer_there_are_numbers() -> None:
    assert Speech(None).words([3, 4]) == ("3", "4") and Speech(None).whole([3, 4]) == "3 4"
