"""The word-level tokenizer: `▁word` and bare punctuation, so that streams too space naturally."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

BOS, PAD, UNK, SYSTEM, USER, ASSISTANT, END = SPECIALS = (
    "<s>",
    "<pad>",
    "<unk>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)
PUNCTUATION = (".", ",", "?", "!", ":")
MULTIPLE = 64

CHAT_TEMPLATE = (
    "{{- '<s>' -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('the demo model knows the roles system, user and assistant') -}}"
    "{%- endif -%}"
    "{%- if message['content'] is string -%}{%- set text = message['content'] -%}"
    "{%- else -%}{%- set text = message['content'] | map(attribute='text') | join(' ') -%}"
    "{%- endif -%}"
    "{{- '<|' + message['role'] + '|>' + text | trim + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)

CONTRACTIONS = (
    ("can't", "cannot"),
    ("won't", "will not"),
    ("n't", " not"),
    ("'re", " are"),
    ("'m", " am"),
    ("'ll", " will"),
    ("'ve", " have"),
)


def _normalizer() -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = [
        normalizers.NFKC(),
        normalizers.Lowercase(),
        normalizers.Replace(Regex("[’‘`]"), "'"),
    ]
    steps += [normalizers.Replace(short, long) for short, long in CONTRACTIONS]
    steps += [
        normalizers.Replace(Regex(r"(?<=\b(what|who|here|it|at|ow))'s\b"), " is"),
        normalizers.Replace(Regex(r"'s\b"), ""),
        normalizers.Replace(";", ","),
        normalizers.Replace(Regex(r"[^\w\s.,?!:]|_"), " "),
        normalizers.Replace(Regex(r"(?<=[.,?!:])[.,?!:\s]*[.,?!:]"), ""),
        normalizers.Replace(Regex(r"(?<!\w)(?=\w)"), "▁"),
        normalizers.Replace(Regex(r"\s+"), ""),
    ]
    return normalizers.Sequence(steps)


def build(words: list[str]) -> Tokenizer:
    """A tokenizer over the given words, padded with unused entries to a multiple of 64."""
    entries = [*SPECIALS, *PUNCTUATION, *("▁" + word for word in sorted(set(words)))]
    entries += [f"<unused{i}>" for i in range(-len(entries) % MULTIPLE)]
    tokenizer = Tokenizer(
        models.WordLevel({entry: i for i, entry in enumerate(entries)}, unk_token=UNK)
    )
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁\w+|[.,?!:]"), behavior="isolated")
    # `<|assistant|>` is not `special`, so that a stream keeps it as context and the first word
    # after it takes no space; the decoder then drops it.
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in SPECIALS if t != ASSISTANT]
    )
    tokenizer.add_tokens([AddedToken(ASSISTANT, special=False, normalized=False)])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Fuse(),
            decoders.Replace(Regex(r"<\|assistant\|>▁?"), ""),
            decoders.Replace(Regex(r"^▁"), ""),
            decoders.Replace("▁", " "),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, entries.index(BOS))]
    )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, length: int) -> None:
    """Write the files that AutoTokenizer and vLLM read."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": length,
        "clean_up_tokenization_spaces": False,
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": PAD,
        "unk_token": UNK,
        "chat_template": CHAT_TEMPLATE,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
