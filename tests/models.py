"""Tiny random checkpoints of every supported family, which Hugging Face and vLLM both load.

Head size 32 and an even number of heads, so that tensor parallelism over two divides them. Norm
weights and biases are random too: at their defaults (ones and zeros) a swapped or skipped norm
would go unseen.
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

VOCABULARY = 256
N_LAYERS = 4
D_MODEL = 128
SPECIALS = ("<pad>", "<s>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>")
BOS, EOS = 1, 5

CHAT_TEMPLATE = (
    "<s>{% for message in messages %} <|{{ message.role }}|> {{ message.content }} <|end|>"
    "{% endfor %}{% if add_generation_prompt %} <|assistant|>{% endif %}"
)

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": 0,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
}
_SIZES: dict[str, Any] = {
    "hidden_size": D_MODEL,
    "intermediate_size": 192,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_GEMMA: dict[str, Any] = {
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 16,
    "tie_word_embeddings": True,
}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**_SIZES, "head_dim": 32}),
    "qwen2": ("Qwen2Config", _SIZES),
    "qwen3": ("Qwen3Config", {**_SIZES, "head_dim": 32}),
    "mistral": ("MistralConfig", {**_SIZES, "head_dim": 32, "sliding_window": None}),
    "gemma2": ("Gemma2Config", {**_SIZES, **_GEMMA}),
    "gemma3_text": ("Gemma3TextConfig", {**_SIZES, **_GEMMA}),
    "phi3": ("Phi3Config", {**_SIZES, "original_max_position_embeddings": 512}),
    "gpt2": (
        "GPT2Config",
        {"n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": 4, "n_positions": 512},
    ),
}


def build_model(family: str, seed: int = 0, **overrides: Any) -> Any:
    """Return a tiny random model in float32, the same for the same seed."""
    name, sizes = CONFIGS[family]
    config = getattr(transformers, name)(**{**_COMMON, **sizes, **overrides})
    config._attn_implementation = "eager"
    torch.manual_seed(1000 * seed + list(CONFIGS).index(family))
    model = getattr(transformers, _causal(name))(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def build_tokenizer() -> Any:
    """Return a word-level tokenizer: special tokens, then ``w6`` to ``w255``."""
    words = [*SPECIALS, *(f"w{index}" for index in range(len(SPECIALS), VOCABULARY))]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    return as_fast(tokenizer, additional_special_tokens=["<|user|>", "<|assistant|>"])


def as_fast(tokenizer: Tokenizer, **more: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer as models have it, with the names of ``SPECIALS`` and a chat template."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|end|>",
        unk_token="<unk>",
        pad_token="<pad>",
        **more,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_checkpoint(family: str, folder: Path, seed: int = 0, **overrides: Any) -> Path:
    """Write a tiny random checkpoint with its tokenizer into ``folder`` and return it."""
    build_model(family, seed, **overrides).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def prompt(length: int, seed: int = 0) -> list[int]:
    """Return random ids that start with BOS and hold no other special token."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(len(SPECIALS), VOCABULARY, (length - 1,), generator=generator)
    return [BOS, *words.tolist()]


def _causal(config_name: str) -> str:
    if config_name == "GPT2Config":
        return "GPT2LMHeadModel"
    return config_name.replace("TextConfig", "Config").replace("Config", "ForCausalLM")
