"""LoRA adapters: which there are, that each stays what it was, and what vLLM does not bear beside.

An adapter is named at start and is a model of its own to clients. vLLM puts its name and path into
the keys of KV blocks, so what lies behind these must not change: no adapter is loaded while it
serves, and none is dropped and read again.
"""

from argparse import Namespace

from vllm.exceptions import VLLMValidationError
from vllm.platforms import current_platform
from vllm.renderers.chat_utils import MM_PARSER_MAP
from vllm.sampling_params import SamplingParams


def adapter_names(args: Namespace) -> tuple[str, ...]:
    """Return the names of the adapters that are served."""
    return tuple(module.name for module in getattr(args, "lora_modules", None) or ())


def keep_adapters(args: Namespace) -> None:
    """Have workers hold every adapter from start to end; on CPUs with an empty place after them.

    On CPUs vLLM looks up the adapter of a token that has none at index -1: the last place, which
    must hold no other's weights. Places are filled from the first on, none is ever given up.
    """
    n = len(adapter_names(args))
    if not n:
        return
    if current_platform.is_cpu():
        args.max_loras = max(args.max_loras, n + 1)
    args.max_cpu_loras = max(args.max_cpu_loras or n, n, args.max_loras)


def drops_adapters(args: Namespace) -> bool:
    """Whether workers are to hold fewer adapters than there are, and to read some again."""
    held = getattr(args, "max_cpu_loras", None)
    return held is not None and held < len(adapter_names(args))


def names_content(args: Namespace) -> bool:
    """Whether an adapter is named as vLLM calls a kind of message content.

    vLLM takes an adapter named ``text`` for one to be used whenever a message has text in it,
    whatever model the request names.
    """
    kinds = {kind.split("_")[0] for kind in MM_PARSER_MAP}
    return not kinds.isdisjoint(adapter_names(args))


def refuse_prompt_logprobs(params: SamplingParams) -> None:
    """Refuse log-probabilities of a prompt's tokens where adapters may be served.

    vLLM's head for adapters knows the adapters of sampled tokens only; on CPUs the engine dies.

    Raises:
        VLLMValidationError: They are asked for; vLLM answers it with 400.
    """
    if params.prompt_logprobs is not None:
        raise VLLMValidationError(
            "log-probabilities of the prompt are not served beside LoRA adapters: leave "
            "'prompt_logprobs' out, and 'echo' with 'logprobs', or ask a server without "
            "--enable-lora",
            parameter="prompt_logprobs",
        )
