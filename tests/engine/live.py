"""A real vLLM engine, with policies or plain, driven from synchronous tests."""

import asyncio
import itertools
import os
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM

from forward.hookpoints import HookPoint
from forward.program import Program
from forward.site import Capacity
from service.engine import mergecheck, servecheck
from service.engine.engine import PolicyEngine, configure
from service.engine.lease import CURRENT_LEASE, Lease
from service.engine.slots import Slot

T = TypeVar("T")

SMALL = (
    *("--dtype", "float32", "--block-size", "32", "--max-model-len", "512"),
    *("--max-num-seqs", "64", "--kv-cache-memory-bytes", "134217728"),
    *("--max-logprobs", "-1", "--logprobs-mode", "raw_logits"),
    "--disable-log-stats",
)
EAGER = ("--enforce-eager",)


@dataclass(frozen=True)
class Ask:
    """One request: token ids, an operator's and a client's slot, an adapter, an engine."""

    ids: Sequence[int]
    operator: Slot | None = None
    client: Slot | None = None
    strength: float = 1.0
    max_tokens: int = 8
    params: Mapping[str, Any] = field(default_factory=dict)
    adapter: LoRARequest | None = None
    rank: int | None = None


@dataclass(frozen=True)
class Answer:
    """What came back: tokens of each choice, cached prompt tokens, raw logits where asked."""

    choices: tuple[tuple[int, ...], ...]
    cached: int
    prompt_logits: torch.Tensor | None
    """(tokens - 1, vocabulary): the prediction after each prompt token but the last."""
    logits: torch.Tensor | None
    """(generated, vocabulary): the prediction that gave each token of the first choice."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens of the only choice."""
        return self.choices[0]


class LiveEngine:
    """An engine and the event loop it lives on. Without capacities it is plain vLLM."""

    def __init__(
        self,
        checkpoint: Path,
        capacities: Mapping[HookPoint, Capacity] | None = None,
        options: Sequence[str] = (),
        gates: int = 0,
        merge_layers: Sequence[int] = (),
    ) -> None:
        """Start the engine and run its boot checks."""
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._ids = itertools.count()
        # Two ranks on one memory node: vLLM cannot place their threads by itself.
        two_ranks = "--tensor-parallel-size" in options
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "0|1" if two_ranks else "auto"
        parser = make_arg_parser(FlexibleArgumentParser())
        args = parser.parse_args([*SMALL, *options])
        args.model = str(checkpoint)
        if capacities is not None:
            configure(args, capacities, gates, merge_layers)
        self.engine: PolicyEngine | None = None
        self.client: AsyncLLM = self.run(self._start(args, capacities))

    async def _start(self, args: Any, capacities: Mapping[HookPoint, Capacity] | None) -> AsyncLLM:
        client = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(args))
        if capacities is not None:
            self.engine = PolicyEngine(client, capacities)
            await self.engine.boot_check()
            await servecheck.check_serving(self.engine)
            await mergecheck.check_merging(self.engine)
            slots = self.engine.slots
            self.engine.install(lambda: Lease(slots, None, None, 0.0, (), ""))
        return client

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the engine's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @property
    def policies(self) -> PolicyEngine:
        """The engine with policies."""
        if self.engine is None:
            raise AssertionError("this engine is plain vLLM")
        return self.engine

    def place(self, program: Program) -> Slot:
        """Activate a program."""
        return self.run(self.policies.slots.place(program))

    def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """Submit requests together and return their answers in order."""

        async def together() -> list[Answer]:
            return list(await asyncio.gather(*(self.ask_one(ask) for ask in asks)))

        return self.run(together())

    async def ask_one(self, ask: Ask, on_token: Callable[[int], None] | None = None) -> Answer:
        """Serve one request; ``on_token`` hears how many tokens there are after each output."""
        if self.engine is not None:
            slots = self.engine.slots
            CURRENT_LEASE.set(Lease(slots, ask.operator, ask.client, ask.strength, (), ""))
        params = SamplingParams(
            **{
                "temperature": 0.0,
                "ignore_eos": True,
                "max_tokens": ask.max_tokens,
                "output_kind": RequestOutputKind.CUMULATIVE,
                **ask.params,
            }
        )
        prompt = TokensPrompt(prompt_token_ids=list(ask.ids))
        last: Any = None
        choices: dict[int, tuple[int, ...]] = {}
        name, adapter = f"test-{next(self._ids)}", ask.adapter
        where: dict[str, Any] = {"lora_request": adapter, "data_parallel_rank": ask.rank}
        async for output in self.client.generate(prompt, params, name, **where):
            last = output
            choices |= {choice.index: tuple(choice.token_ids) for choice in output.outputs}
            if on_token is not None:
                on_token(len(output.outputs[0].token_ids))
        first = last.outputs[0]
        return Answer(
            tuple(choices[index] for index in sorted(choices)),
            last.num_cached_tokens or 0,
            _vectors(last.prompt_logprobs[1:]) if last.prompt_logprobs else None,
            _vectors(first.logprobs) if first.logprobs else None,
        )

    def close(self) -> None:
        """Stop the engine."""
        self._loop.call_soon_threadsafe(self.client.shutdown)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def __enter__(self) -> Self:
        """Return the engine."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the engine."""
        self.close()


def _vectors(logprobs: Sequence[Mapping[int, Any]]) -> torch.Tensor:
    """Return vLLM's dictionaries over the whole vocabulary as rows of a tensor."""
    rows = torch.empty(len(logprobs), max(len(row) for row in logprobs))
    for index, row in enumerate(logprobs):
        for token, value in row.items():
            rows[index, token] = value.logprob
    return rows
