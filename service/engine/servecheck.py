"""Boot checks end to end: a write at every site changes an answer, and KV is reused as it may be.

Block keys live in the engine's own process and sites in compiled graphs, where nothing can be
asked. So a real prompt is served: twice unsteered, which must agree and reuse, then under a known
row at each site, which must answer differently and not reuse. KV that survives from here is keyed
by the row's content and serves nobody else.
"""

from dataclasses import dataclass

import torch
from vllm.inputs import TokensPrompt
from vllm.sampling_params import SamplingParams

from forward.clauses import TokenClause, regions
from forward.columns import Column, Read
from forward.hookpoints import HookPoint
from forward.program import Program, RowContent, SiteContent
from service.engine.engine import BootError, PolicyEngine
from service.engine.generate import StampedGenerate
from service.engine.lease import Lease
from service.engine.slots import Slot

OFFSET_NORM = 1e3
"""Far beyond rounding in any dtype, and finite in float16."""
EDIT_SCALES = (1.0, 1e4, 1e8, 1e12)
"""Of an edit's read, until it shows: its amount is that of what the projection is given, which is
next to nothing where weights are random and not trained."""


@dataclass(frozen=True, slots=True)
class Served:
    """One token, its log-probability, and how much of the prompt came from the cache."""

    token: int
    logprob: float
    cached: int

    @property
    def answer(self) -> tuple[int, float]:
        """What must change when something is written."""
        return self.token, self.logprob


async def check_serving(engine: PolicyEngine) -> None:
    """Serve a prompt of two blocks on every engine, unsteered and under a write at every site.

    Raises:
        BootError: A write does not reach the answer, unsteered requests do not share KV, or a
            steered one reads theirs.
    """
    if not engine.capacities:
        return
    for rank in range(engine.n_engines):
        faults = await _faults(engine, rank)
        if faults:
            raise BootError(f"engine {rank}: {'; '.join(faults)}")


async def _faults(engine: PolicyEngine, rank: int) -> list[str]:
    length, block = prompt_length(engine)
    first = await serve(engine, None, length, 0, rank)
    again = await serve(engine, None, length, 1, rank)
    faults: list[str] = []
    if first.cached or again.cached < block:
        faults.append(
            f"unsteered, {first.cached} then {again.cached} tokens were cached, expected 0 and "
            f"{block} or more"
        )
    for number, point in enumerate(sorted(engine.capacities), start=2):
        for scale in EDIT_SCALES if point.is_edit else (1.0,):
            slot = await engine.slots.place(_known_program(engine, point, scale))
            try:
                steered = await serve(engine, slot, length, number, rank)
            finally:
                engine.slots.retire(slot)
            if steered.cached:
                faults.append(f"{point}: a steered request read {steered.cached} unsteered tokens")
            if steered.answer not in (first.answer, again.answer):
                break
        else:
            faults.append(f"{point}: a write does not reach the answer")
    return faults


def prompt_length(engine: PolicyEngine) -> tuple[int, int]:
    """Return the length of the prompt, and how much of it must be reused.

    Raises:
        BootError: The model's length does not hold it.
    """
    config = engine.client.vllm_config
    block = config.cache_config.block_size if config.cache_config.enable_prefix_caching else 0
    length = 2 * block + 1 if block else 4
    if length + 1 > config.model_config.max_model_len:
        raise BootError(
            f"prefix caching cannot be checked: two blocks of {block} tokens do not fit "
            f"--max-model-len {config.model_config.max_model_len}; use a smaller --block-size or "
            "--no-enable-prefix-caching"
        )
    return length, block


def _known_program(engine: PolicyEngine, point: HookPoint, scale: float) -> Program:
    generator = torch.Generator().manual_seed(20)
    direction = torch.randn(engine.shape.d_model, generator=generator)
    write = OFFSET_NORM * direction / direction.norm()
    site = SiteContent(write)
    if point.is_edit:
        read = Read(scale * torch.randn(engine.shape.d_mlp, generator=generator))
        site = SiteContent(columns=((Column(write, read, linear=1.0), 1.0),))
    content = RowContent({point: site})
    cut = regions([TokenClause("all")])
    return Program(cut, tuple(content for _ in cut))


async def serve(
    engine: PolicyEngine, slot: Slot | None, length: int, number: int, rank: int = 0
) -> Served:
    """Serve one token after ``length`` known ones on one engine; ``number`` names the request.

    Raises:
        BootError: There is no answer.
    """
    lease = Lease(engine.slots, None, slot, 1.0, (), "")
    generate = StampedGenerate(engine.plain_generate, lambda: lease)
    prompt = TokensPrompt(prompt_token_ids=[1 + i % 2 for i in range(length)])
    params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=0)
    served: Served | None = None
    name = f"boot-check-{rank}-{number}"
    async for output in generate(prompt, params, name, data_parallel_rank=rank):
        [choice] = output.outputs
        [token], [logprobs] = choice.token_ids, choice.logprobs or [{}]
        served = Served(token, logprobs[token].logprob, output.num_cached_tokens or 0)
    if served is None:
        raise BootError("the engine gave no answer to the boot check's prompt")
    return served
