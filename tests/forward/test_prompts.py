import pytest

from forward.checkpoint import load_tokenizer
from forward.prompts import PromptError, render, render_chat, render_text
from tests.models import BOS, EOS, build_tokenizer

USER, ASSISTANT = 3, 4
CHAT = [{"role": "user", "content": "w7 w8"}]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_a_conversation_ends_where_the_answer_begins_with_one_bos(tokenizer):
    assert render_chat(tokenizer, CHAT) == [BOS, USER, 7, 8, EOS, ASSISTANT]
    assert render(tokenizer, CHAT) == render_chat(tokenizer, CHAT)


def test_a_finished_conversation_has_no_open_answer(tokenizer):
    messages = [*CHAT, {"role": "assistant", "content": "w9"}]
    assert render_chat(tokenizer, messages, add_generation_prompt=False) == [
        BOS, USER, 7, 8, EOS, ASSISTANT, 9, EOS,
    ]  # fmt: skip


def test_plain_text_has_one_bos_written_or_not(tokenizer):
    assert render_text(tokenizer, "w7 w8") == [BOS, 7, 8]
    assert render_text(tokenizer, "<s> w7 w8") == [BOS, 7, 8]
    assert render(tokenizer, "w7 w8") == [BOS, 7, 8]


def test_what_cannot_be_rendered_is_refused(tokenizer):
    with pytest.raises(PromptError, match="no messages"):
        render_chat(tokenizer, [])
    bare = build_tokenizer()
    bare.chat_template = None
    with pytest.raises(PromptError, match="no chat template"):
        render_chat(bare, CHAT)
    bare.bos_token = None
    bare._tokenizer.post_processor = None
    with pytest.raises(PromptError, match="no tokens"):
        render_text(bare, "")


def test_a_saved_tokenizer_renders_the_same(tokenizer, checkpoint):
    loaded = load_tokenizer(checkpoint("llama"))
    assert render_chat(loaded, CHAT) == render_chat(tokenizer, CHAT)
