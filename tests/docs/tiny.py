"""A tiny checkpoint that can read: random weights, and a tokenizer that knows a page's words."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.evidence import ROOT
from tests.models import SPECIALS, as_fast, build_model

VOCABULARY = 1024
PAGE = ROOT / "docs" / "tutorial-own-model.md"
OPTIONS = ("--enforce-eager", "--dtype float32", "--kv-cache-memory-bytes 100000000")


def own_model(folder: Path) -> tuple[Sequence[str], Mapping[str, str]]:
    """Return how the tutorial for one's own model is followed: options, and what is filled in."""
    model = save_reader("qwen2", folder / "model", PAGE.read_text())
    return OPTIONS, {"Qwen/Qwen2.5-0.5B-Instruct": str(model), "LAYER=12": "LAYER=2"}


def save_reader(family: str, folder: Path, words: str) -> Path:
    """Write a checkpoint whose tokenizer was trained on ``words``; no text is unknown to it."""
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": 1024}
    build_model(family, **sizes).save_pretrained(folder)
    _tokenizer(words).save_pretrained(folder)
    return folder


def _tokenizer(words: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([words], trainer)
    return as_fast(tokenizer)
