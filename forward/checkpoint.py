"""Reading a checkpoint with Hugging Face: model and tokenizer, safetensors only, no remote code."""

from pathlib import Path
from typing import Any

import torch

from forward.families import family_of


def load_model(path: str | Path, dtype: torch.dtype = torch.float32) -> Any:
    """Return the causal language model of a checkpoint folder or hub name, ready to evaluate.

    Raises:
        UnsupportedModelError: The family is not supported.
        OSError: There is no such checkpoint, or it has no safetensors weights.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
    attention = {"attn_implementation": "eager"} if family_of(config).eager_attention else {}
    model = AutoModelForCausalLM.from_pretrained(
        str(path), dtype=dtype, use_safetensors=True, trust_remote_code=False, **attention
    )
    return model.eval()


def load_tokenizer(path: str | Path) -> Any:
    """Return the tokenizer of a checkpoint folder or hub name.

    Raises:
        OSError: There is no tokenizer.
    """
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
