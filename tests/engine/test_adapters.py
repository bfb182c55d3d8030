"""LoRA adapters: which options are refused, and that no monitor is fit for one."""

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import pytest
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.utils.argparse_utils import FlexibleArgumentParser

from monitors.benign import BenignTable
from monitors.calibration import Calibration
from service.engine.adapters import refuse_prompt_logprobs
from service.engine.engine import configure
from service.engine.generate import StampedGenerate
from service.engine.refusals import RefusedOptionError
from tests.engine.watching import PROMPT, REFUSAL, Hang, P, Rows, Step, Tokens, bench, watched
from tests.service.monitored import CONDITIONS

LORA = ("--enable-lora", "--lora-modules", "a=/a", "b=/b")
ADAPTER = LoRARequest("poet", 1, "/adapters/poet")
ANSWER = list(b"a song")


def arguments(*options: str) -> Namespace:
    parsed: Any = make_arg_parser(FlexibleArgumentParser()).parse_args(list(options))
    return parsed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (LORA[1:], "without --enable-lora is refused"),
        ((*LORA, "--max-cpu-loras", "1"), "below the number of adapters"),
        ((*LORA, "text=/c"), "kind of message content"),
        ((*LORA, "--fully-sharded-loras"), "sharded"),
        ((*LORA, "--lora-target-modules", "q_proj"), "--lora-target-modules"),
        ((*LORA, "--default-mm-loras", '{"image": "/d"}'), "--default-mm-loras"),
        ((*LORA, "--enable-tower-connector-lora"), "--enable-tower-connector-lora"),
    ],
)
def test_what_is_not_proven_with_adapters_is_refused(options: tuple[str, ...], says: str) -> None:
    configure(arguments(*LORA), {})
    with pytest.raises(RefusedOptionError, match=says):
        configure(arguments(*options), {})


@pytest.mark.parametrize(
    "name", ["VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_LORA_ENABLE_DUAL_STREAM"]
)
def test_what_the_environment_asks_for(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(RefusedOptionError, match=name):
        configure(arguments(*LORA), {})


def test_a_gpu_compiles_no_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda self: False)
    configure(arguments(*LORA, "--enforce-eager"), {})
    configure(arguments(), {})
    with pytest.raises(RefusedOptionError, match="give --enforce-eager"):
        configure(arguments(*LORA), {})


@pytest.mark.parametrize(
    ("given", "places", "held"),
    [
        ((), 3, 3),
        (("--max-loras", "2"), 3, 3),
        (("--max-loras", "8"), 8, 8),
        (("--max-cpu-loras", "2"), 3, 3),
        (("--max-cpu-loras", "9"), 3, 9),
    ],
)
def test_every_adapter_has_a_place_and_one_is_empty(
    given: tuple[str, ...], places: int, held: int
) -> None:
    """On CPUs tokens without an adapter read the last place (tests/seams/ shows it)."""
    args = arguments(*LORA, *given)
    configure(args, {})
    assert (args.max_loras, args.max_cpu_loras) == (places, held)


def test_without_adapters_nothing_is_set() -> None:
    args = arguments("--enable-lora")
    configure(args, {})
    assert (args.max_loras, args.max_cpu_loras) == (1, None)


def steps() -> Iterator[Step]:
    """Yield an honest engine's steps; every score is far below the threshold."""
    yield Rows(0, PROMPT, [0.0] * P)
    for place, token in enumerate(ANSWER):
        yield Tokens([token], "length" if place == len(ANSWER) - 1 else None)
        yield Rows(P + place, [token], [0.0])


def calibrated(**use: Any) -> Any:
    """Return a use whose calibration holds for the base."""
    made = watched(**use)
    table = BenignTable.of([float(i) for i in range(99)])
    binding = CONDITIONS.binding(made.plan.digest, "")
    return watched(calibration=Calibration("harm", binding, table, table), **use)


@pytest.mark.parametrize(
    ("use", "action"),
    [
        ({"do": "refuse"}, "refuse"),
        ({"do": "stop"}, "stop"),
        ({"do": "steer", "gates": True}, "refuse"),
        ({"do": "alert", "gates": True}, "refuse"),
        ({"do": "alert"}, "refuse"),
        ({"do": "refuse", "on_error": "pass"}, "pass"),
        ({"do": "steer", "gates": True, "on_error": "pass"}, "pass"),
        ({"do": "refuse", "mode": "shadow"}, "none"),
    ],
    ids=str,
)
async def test_no_monitor_is_fit_for_an_adapter(use: dict[str, Any], action: str) -> None:
    """What blocks releases nothing; what passes or is in shadow goes on, and the fault is told."""
    told: list[tuple[str | None, str]] = []
    for adapter in (ADAPTER, None):
        blocks = adapter is not None and action in ("refuse", "stop")
        made = bench(steps, calibrated(**use))
        params = SamplingParams(output_kind=RequestOutputKind.DELTA, max_tokens=100)
        outputs = await made.run(params, lora_request=adapter)
        tokens = [token for output in outputs for token in output.outputs[0].token_ids]
        text = "".join(output.outputs[0].text for output in outputs)
        [choice] = made.sink.choices
        [verdict] = choice.verdicts
        told.append((verdict.fault, verdict.action))
        if blocks:
            assert (tokens, text) == ([], "" if use["do"] == "stop" else REFUSAL)
            assert outputs[-1].outputs[0].finish_reason == "content_filter"
        else:
            assert tokens == ANSWER and verdict.coverage == 1
            assert (verdict.rarity is None) == (adapter is not None)
    assert told == [("adapter", action), (None, "none")]


async def test_an_unfit_monitor_still_fires() -> None:
    """Let through with a fault, it acts above the threshold that it has."""
    first, second = ANSWER[:1], ANSWER[1:2]
    high = [Rows(0, PROMPT, [0.0] * P), Tokens(first), Rows(P, first, [0.9]), Tokens(second)]
    made = bench([*high, Hang()], watched(on_error="pass"))
    params = SamplingParams(output_kind=RequestOutputKind.DELTA, max_tokens=100)
    outputs = await made.run(params, lora_request=ADAPTER)
    assert outputs[-1].outputs[0].finish_reason == "content_filter"
    [verdict] = made.sink.choices[0].verdicts
    assert (verdict.fired, verdict.fault, verdict.action) == (True, "adapter", "refuse")


def test_a_prompts_logprobs_are_refused_where_adapters_are_served() -> None:
    made = bench([])
    generate = StampedGenerate(
        made.engine.generate, lambda: made.lease, check=refuse_prompt_logprobs
    )
    with pytest.raises(VLLMValidationError, match="without --enable-lora"):
        generate("x", SamplingParams(prompt_logprobs=0), "r")
    assert generate("x", SamplingParams(logprobs=5), "r")
