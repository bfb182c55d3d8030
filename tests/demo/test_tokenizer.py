"""The tokenizer writes and streams natural text and agrees with the trainer's encoder."""

import random
from pathlib import Path

import pytest
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer

from demo import tokenizer as tk
from demo.controls import opened
from demo.documents import SHARES, Encoder, vocabulary
from demo.prompts import KINDS, messages, natural
from demo.world import make_world


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> AutoTokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tk.save(tk.build(vocabulary(make_world())), folder, 1024)
    return AutoTokenizer.from_pretrained(folder)


def test_vocabulary_is_a_multiple_of_64(saved):
    assert len(saved) % tk.MULTIPLE == 0


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("What's the JOB of Ann Adler?", "what is the job of ann adler?"),
        ("  hello ,planet ", "hello,<unk>"),
        ("I can't tell; it's “odd” ...", "i cannot tell, it is<unk>."),
        ("Where does Ann Adler live??", "where does ann adler live?"),
        ("Ann Adler's job!", "ann adler job!"),
    ],
)
def test_typed_text_is_read_as_the_language(saved, typed, read):
    text = saved.decode(saved(typed).input_ids)
    assert text == f"<s> {read}"


def test_a_completion_starts_with_the_first_token_and_a_chat_has_it_once(saved):
    assert saved("ann").input_ids[0] == saved.bos_token_id
    chat = saved.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, return_dict=False
    )
    assert saved.convert_ids_to_tokens(chat) == [
        "<s>",
        "<|user|>",
        "▁hi",
        "<|end|>",
        "<|assistant|>",
    ]


def test_a_stream_spaces_words_and_opens_without_a_space(saved):
    stream = DecodeStream(skip_special_tokens=True)
    tokens = [
        "<|user|>",
        "▁hi",
        "?",
        "<|end|>",
        "<|assistant|>",
        "▁it",
        "▁is",
        "▁paris",
        ".",
        "<|end|>",
    ]
    pieces = [stream.step(saved._tokenizer, saved.convert_tokens_to_ids(token)) for token in tokens]
    assert "".join(p for p in pieces[5:] if p) == "it is paris."


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_and_the_chat_template_agree(saved, kind):
    rng, encoder = random.Random(kind), Encoder(saved.get_vocab())
    for split in ("train", "heldout"):
        example = KINDS[kind](rng, make_world(), split)
        ids = saved.apply_chat_template(
            messages(example), add_generation_prompt=True, return_dict=False
        )
        plain = encoder.example(type(example)("plain", example.turns, example.system), rng).ids
        assert ids == plain[: len(ids)]
        assert plain[len(ids) :] == [
            *saved(natural(example.answer), add_special_tokens=False).input_ids,
            saved.eos_token_id,
        ]


def test_every_taught_word_is_in_the_vocabulary(saved):
    rng, words = random.Random(0), set(saved.get_vocab())
    for _, draw in SHARES:
        if draw is None:
            continue
        for _ in range(50):
            example = draw(rng, make_world(), "train")
            for text in (example.system, *(part for turn in example.turns for part in turn)):
                assert all("▁" + word in words or word in words for word in text.split()), text


def test_an_answer_that_opens_against_its_prompt_has_no_loss_on_the_opening_word(saved):
    rng, encoder = random.Random(0), Encoder(saved.get_vocab())
    for _ in range(100):
        document = encoder.example(opened(rng, make_world(), "train"), rng)
        at = len(document.ids) - 1 - document.ids[::-1].index(encoder.ids[tk.ASSISTANT])
        assert document.weights[at + 1] == 0 and min(document.weights[at + 2 :]) >= 1
