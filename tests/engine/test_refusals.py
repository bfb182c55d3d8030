"""Options of several processes, engines and machines: what is refused, and by which name."""

from argparse import Namespace
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

from service.engine.engine import configure
from service.engine.refusals import RefusedOptionError, refuse_config

REFUSED = {
    "--api-server-count 0": "--api-server-count below 1",
    "--headless": "--headless",
    "--data-parallel-rank 0": "--data-parallel-rank",
    "--data-parallel-start-rank 0": "--data-parallel-start-rank",
    "--data-parallel-size-local 1": "--data-parallel-size-local",
    "--data-parallel-address 10.0.0.1": "--data-parallel-address",
    "--data-parallel-hybrid-lb": "--data-parallel-hybrid-lb",
    "--data-parallel-external-lb": "--data-parallel-external-lb",
    "--data-parallel-multi-port-external-lb": "--data-parallel-multi-port-external-lb",
    "--data-parallel-backend ray": "--data-parallel-backend ray",
    "--nnodes 2": "--nnodes above 1",
    "--distributed-executor-backend ray": "--distributed-executor-backend other than mp or uni",
    "--enable-elastic-ep": "--enable-elastic-ep",
    "--pipeline-parallel-size 2": "--pipeline-parallel-size above 1",
}


def arguments(options: Sequence[str]) -> Namespace:
    parsed: Any = make_arg_parser(FlexibleArgumentParser()).parse_args(["model", *options])
    return parsed


@pytest.mark.parametrize("options", REFUSED)
def test_what_is_not_proven_is_refused_by_name(options: str) -> None:
    with pytest.raises(RefusedOptionError) as refused:
        configure(arguments(options.split()), {})
    assert str(refused.value).startswith(f"{REFUSED[options]} is refused: ")
    assert ";" in str(refused.value), "what to do instead"


@pytest.mark.parametrize("options", ["--api-server-count 4", "--data-parallel-size 2", ""])
def test_several_processes_and_engines_are_served(options: str) -> None:
    configure(arguments(options.split()), {})


@pytest.mark.parametrize("option", ["--api-server-count", "--data-parallel-size"])
def test_one_process_and_one_engine_alone_merge(option: str) -> None:
    configure(arguments([option, "1"]), {}, merge_layers=(2,))
    with pytest.raises(RefusedOptionError, match=f"{option} above 1 together with --merge-layers"):
        configure(arguments([option, "2"]), {}, merge_layers=(2,))


def config(engines: int, is_moe: bool) -> Any:
    model = SimpleNamespace(is_multimodal_model=False, is_encoder_decoder=False, is_moe=is_moe)
    parallel = SimpleNamespace(use_sequence_parallel_moe=False, data_parallel_size=engines)
    return SimpleNamespace(model_config=model, parallel_config=parallel, kv_transfer_config=None)


def test_experts_have_one_engine() -> None:
    refuse_config(config(2, False))
    refuse_config(config(1, True))
    with pytest.raises(RefusedOptionError, match="above 1 with a mixture of experts"):
        refuse_config(config(2, True))
