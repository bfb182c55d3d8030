"""A tiny random model that can write anything: its vocabulary is every byte.

What the demo's word-level vocabulary cannot say (JSON, and so structured answers and calls of
tools), this one can. It comes with a policy by default, so that a request under none is told from
one whose ``none`` went unheard.
"""

import json
from pathlib import Path

from ruamel.yaml import YAML
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from forward.fingerprint import model_fingerprint
from steering.card import to_artifact
from steering.defaults import Defaults
from tests.models import D_MODEL, N_LAYERS, build_model
from tests.steering.toys import random_direction

NAME = "scribe"
SPECIALS = ("<pad>", "<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
PAD, BOS, EOS = 0, 1, 2
VOCABULARY = (*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()))
SPACES = tuple(VOCABULARY.index(sign) for sign in "ĠĊĉč")
"""The tokens of a space, a line feed, a tab and a carriage return."""
LENGTH = 1024
STRUCTURE = {"backend": "xgrammar", "disable_any_whitespace": True}
OPTIONS = (
    *("--served-model-name", NAME, "--dtype", "float32", "--block-size", "32"),
    *("--max-model-len", str(LENGTH), "--max-num-seqs", "16", "--max-num-batched-tokens", "1024"),
    *("--kv-cache-memory-bytes", "134217728"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    *("--structured-outputs-config", json.dumps(STRUCTURE)),
)
"""vLLM's, the same for both servers; with a parser, a client may force a call of a tool."""

CHAT_TEMPLATE = (
    "<s>{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}"
    "{% for message in messages %}<|{{ message.role }}|>"
    "{% if message.content is string %}{{ message.content }}"
    "{% elif message.content %}{{ message.content | map(attribute='text') | join(' ') }}{% endif %}"
    "{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def save_scribe(folder: Path) -> Path:
    """Write the checkpoint and return its folder."""
    size = len(VOCABULARY) + -len(VOCABULARY) % 64
    ids = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    longer = {"max_position_embeddings": LENGTH}
    build_model("llama", vocab_size=size, **ids, **longer).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def save_policies(checkpoint: Path, folder: Path) -> Path:
    """Write a policy that shows, by default and by choice, and return its folder."""
    served = model_fingerprint(checkpoint)
    defaults = Defaults((1,))
    made = random_direction(0, D_MODEL, N_LAYERS, model=served.digest, defaults=defaults)
    to_artifact(made).save(folder / "artifacts")
    steer = [{"direction": "toy", "coefficient": 1.0}]
    documents = [
        _document("Policy", "tilt", steer=steer, selectable=True),
        _document("Binding", "default", policy="tilt"),
    ]
    with (folder / "all.yaml").open("w") as file:
        YAML(typ="safe").dump_all(documents, file)
    return folder


def _document(kind: str, name: str, **spec: object) -> dict[str, object]:
    return {"apiVersion": "trimtab/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {word: index for index, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<pad>",
        additional_special_tokens=list(SPECIALS[3:]),
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
