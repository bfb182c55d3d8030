"""Engine options that policies are not proven with: refused at boot, by name.

One table; every error is made from it. An option leaves the table when a test proves it.
"""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import vllm.envs as envs
from vllm.platforms import current_platform

from service.engine.adapters import adapter_names, drops_adapters, names_content


class RefusedOptionError(ValueError):
    """An engine option that would break a rule, or is not proven."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is refused, why, and what to do instead."""

    what: str
    why: str
    instead: str
    is_asked: Callable[[Namespace], bool]

    def __str__(self) -> str:
        """Return the sentence that an operator reads."""
        return f"{self.what} is refused: {self.why}; {self.instead}"


def _more_than(name: str, limit: int) -> Callable[[Namespace], bool]:
    return lambda args: (getattr(args, name, None) or limit) > limit


def _is_set(name: str) -> Callable[[Namespace], bool]:
    return lambda args: bool(getattr(args, name, None))


def _is_given(name: str) -> Callable[[Namespace], bool]:
    """Rank 0 is given too, a flag that is off is not."""

    def is_given(args: Namespace) -> bool:
        value = getattr(args, name, None)
        return value is not None and value is not False

    return is_given


def _in_environment(name: str) -> Callable[[Namespace], bool]:
    return lambda args: bool(getattr(envs, name))


_LEAVE_OUT = "leave it out"
_ONE_SERVER = "this server starts its engines itself and checks every one of them"
_NO_RAY = "Ray's workers are not proven: which of them have died is not seen at once"
_TEXT_ONLY = "only text models are proven"
_UNCHANGED = "an adapter swapped under its name would read KV that another wrote"

ARGUMENT_REFUSALS = (
    Refusal(
        "--api-server-count below 1",
        "nobody would apply policies",
        _LEAVE_OUT,
        lambda args: (1 if args.api_server_count is None else args.api_server_count) < 1,
    ),
    Refusal("--headless", _ONE_SERVER, "run replicas", _is_set("headless")),
    *(
        Refusal(f"--{name}", _ONE_SERVER, "run replicas", _is_given(name.replace("-", "_")))
        for name in (
            *("data-parallel-rank", "data-parallel-start-rank", "data-parallel-size-local"),
            *("data-parallel-address", "data-parallel-hybrid-lb", "data-parallel-external-lb"),
            "data-parallel-multi-port-external-lb",
        )
    ),
    Refusal("--nnodes above 1", _ONE_SERVER, "run replicas", _more_than("nnodes", 1)),
    Refusal(
        "--data-parallel-backend ray",
        _NO_RAY,
        _LEAVE_OUT,
        lambda args: getattr(args, "data_parallel_backend", None) == "ray",
    ),
    Refusal(
        "--distributed-executor-backend other than mp or uni",
        _NO_RAY,
        "use mp",
        lambda args: getattr(args, "distributed_executor_backend", None) not in (None, "mp", "uni"),
    ),
    Refusal(
        "--enable-elastic-ep",
        "an engine that joins later would have empty tables",
        _LEAVE_OUT,
        _is_set("enable_elastic_ep"),
    ),
    Refusal(
        "--pipeline-parallel-size above 1",
        "a stage has the scores of its own layers alone, and only the last one's are sent",
        "use --tensor-parallel-size",
        _more_than("pipeline_parallel_size", 1),
    ),
    Refusal(
        "--decode-context-parallel-size above 1",
        "tokens are split over ranks",
        _LEAVE_OUT,
        _more_than("decode_context_parallel_size", 1),
    ),
    Refusal(
        "--prefill-context-parallel-size above 1",
        "tokens are split over ranks",
        _LEAVE_OUT,
        _more_than("prefill_context_parallel_size", 1),
    ),
    Refusal(
        "--tokenizer",
        "calibrations are bound to the checkpoint's own tokenizer",
        "put the tokenizer into the checkpoint's folder",
        _is_set("tokenizer"),
    ),
    Refusal(
        "--grpc", "gRPC requests do not pass the policy middleware", _LEAVE_OUT, _is_set("grpc")
    ),
    Refusal(
        "--grpc-port",
        "gRPC requests do not pass the policy middleware",
        _LEAVE_OUT,
        _is_set("grpc_port"),
    ),
    Refusal(
        "--enable-dbo", "a micro-batch would read another's rows", _LEAVE_OUT, _is_set("enable_dbo")
    ),
    Refusal(
        "--ubatch-size",
        "a micro-batch would read another's rows",
        _LEAVE_OUT,
        _more_than("ubatch_size", 1),
    ),
    Refusal(
        "--kv-sharing-fast-prefill",
        "layers skip prompt tokens",
        _LEAVE_OUT,
        _is_set("kv_sharing_fast_prefill"),
    ),
    Refusal(
        "--kv-transfer-config",
        "external KV connectors do not see block keys",
        "use vLLM's own prefix cache",
        _is_set("kv_transfer_config"),
    ),
    Refusal(
        "--enable-lora without --enforce-eager on a GPU",
        "compiled adapters are not proven (on CPUs vLLM compiles none)",
        "give --enforce-eager",
        lambda args: _is_set("enable_lora")(args) and not _runs_eager(args),
    ),
    Refusal(
        "--lora-modules without --enable-lora",
        "no adapter would be loaded",
        "give --enable-lora",
        lambda args: bool(adapter_names(args)) and not args.enable_lora,
    ),
    Refusal(
        "--max-cpu-loras below the number of adapters",
        f"one that was dropped is read again from its folder, and {_UNCHANGED}",
        _LEAVE_OUT,
        drops_adapters,
    ),
    Refusal(
        "an adapter named as a kind of message content (text, image, ...)",
        "vLLM uses it for every message that has such content, whatever model was asked for",
        "name it otherwise",
        names_content,
    ),
    Refusal(
        "--lora-target-modules",
        "what an adapter has for other modules would be left out without a word",
        _LEAVE_OUT,
        _is_set("lora_target_modules"),
    ),
    Refusal(
        "--fully-sharded-loras",
        "an edit's part beside sharded adapters is not proven",
        _LEAVE_OUT,
        _is_set("fully_sharded_loras"),
    ),
    Refusal("--default-mm-loras", _TEXT_ONLY, _LEAVE_OUT, _is_set("default_mm_loras")),
    Refusal(
        "--enable-tower-connector-lora",
        _TEXT_ONLY,
        _LEAVE_OUT,
        _is_set("enable_tower_connector_lora"),
    ),
    Refusal(
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
        _UNCHANGED,
        "unset it, and name the adapters at start with --lora-modules",
        _in_environment("VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
    ),
    Refusal(
        "VLLM_LORA_ENABLE_DUAL_STREAM",
        "adapters on a stream of their own are not proven",
        "unset it",
        _in_environment("VLLM_LORA_ENABLE_DUAL_STREAM"),
    ),
    Refusal(
        "--enable-prompt-embeds",
        "prompts without token ids are not proven",
        _LEAVE_OUT,
        _is_set("enable_prompt_embeds"),
    ),
    Refusal(
        "--enable-sleep-mode", "sleeping drops the tables", _LEAVE_OUT, _is_set("enable_sleep_mode")
    ),
    Refusal(
        "--worker-cls",
        "the worker is ours",
        _LEAVE_OUT,
        lambda args: getattr(args, "worker_cls", "auto") not in ("auto", None),
    ),
    Refusal("--scheduler-cls", "the scheduler is ours", _LEAVE_OUT, _is_set("scheduler_cls")),
    Refusal(
        "--worker-extension-cls",
        "code of others in the worker is not proven",
        _LEAVE_OUT,
        _is_set("worker_extension_cls"),
    ),
    Refusal(
        "--model-impl transformers",
        "its layers differ from those proven",
        "use auto or vllm",
        lambda args: getattr(args, "model_impl", "auto") == "transformers",
    ),
    Refusal(
        "--runner pooling",
        "pooling requests carry no policy",
        _LEAVE_OUT,
        lambda args: getattr(args, "runner", "auto") in ("pooling", "draft"),
    ),
    Refusal(
        "a speculative method other than ngram",
        "only n-gram speculation is proven",
        'use {"method": "ngram", ...}',
        lambda args: _speculates_otherwise(args),
    ),
    Refusal(
        "VLLM_USE_RUST_FRONTEND",
        "it bypasses the policy middleware",
        "unset it",
        _in_environment("VLLM_USE_RUST_FRONTEND"),
    ),
    Refusal(
        "VLLM_ALLOW_INSECURE_SERIALIZATION",
        "it lets pickles in",
        "unset it",
        _in_environment("VLLM_ALLOW_INSECURE_SERIALIZATION"),
    ),
    Refusal(
        "VLLM_DISABLE_REQUEST_ID_RANDOMIZATION",
        "two requests could be one to the engine",
        "unset it",
        _in_environment("VLLM_DISABLE_REQUEST_ID_RANDOMIZATION"),
    ),
    *(
        Refusal(
            f"--{name}",
            "the model is fetched and fingerprinted before vLLM sees it",
            "name a downloaded folder",
            _is_set(name.replace("-", "_")),
        )
        for name in ("revision", "code-revision", "hf-overrides")
    ),
    Refusal(
        "VLLM_SERVER_DEV_MODE",
        "it opens control routes",
        "unset it",
        _in_environment("VLLM_SERVER_DEV_MODE"),
    ),
    Refusal(
        "VLLM_USE_V2_MODEL_RUNNER=1",
        "only the V1 runner is proven",
        "unset it",
        _in_environment("VLLM_USE_V2_MODEL_RUNNER"),
    ),
)


def refuse_arguments(args: Namespace) -> None:
    """Refuse what the command line or the environment asks for.

    Raises:
        RefusedOptionError: Names every refused option.
    """
    asked = [str(refusal) for refusal in ARGUMENT_REFUSALS if refusal.is_asked(args)]
    if asked:
        raise RefusedOptionError("\n".join(asked))


def refuse_merging(args: Namespace, merge_layers: Sequence[int]) -> None:
    """Refuse to merge edits into weights where no door is before all requests.

    Raises:
        RefusedOptionError: Names what does not go together.
    """
    asked = [
        f"{option} above 1 together with --merge-layers is refused: while weights change no "
        "request may be answered, and the door that keeps them out is one process's, before one "
        "engine; serve edits beside the weights"
        for option, count in (
            ("--api-server-count", args.api_server_count),
            ("--data-parallel-size", args.data_parallel_size),
        )
        if merge_layers and (count or 1) > 1
    ]
    if asked:
        raise RefusedOptionError("\n".join(asked))


def refuse_config(config: Any) -> None:
    """Refuse what vLLM made of the options: what defaults and the model itself bring in.

    Raises:
        RefusedOptionError: Names every fault.
    """
    model = config.model_config
    facts: Mapping[str, bool] = {
        "a multimodal model is refused: only text models are proven": bool(
            model.is_multimodal_model
        ),
        "an encoder-decoder model is refused: only decoders are proven": bool(
            model.is_encoder_decoder
        ),
        "sequence parallelism is refused: tokens are split over ranks": bool(
            config.parallel_config.use_sequence_parallel_moe
        ),
        "--data-parallel-size above 1 with a mixture of experts is refused: its engines step "
        "together, and steps without requests are not proven": bool(
            config.parallel_config.data_parallel_size > 1 and model.is_moe
        ),
        "an external KV connector is refused: it does not see block keys": (
            config.kv_transfer_config is not None
        ),
    }
    asked = [sentence for sentence, is_asked in facts.items() if is_asked]
    if asked:
        raise RefusedOptionError("\n".join(asked))


def _runs_eager(args: Namespace) -> bool:
    return current_platform.is_cpu() or bool(getattr(args, "enforce_eager", False))


def _speculates_otherwise(args: Namespace) -> bool:
    config = getattr(args, "speculative_config", None)
    return bool(config) and dict(config).get("method") != "ngram"
