"""Boot check of cache identity, end to end: the engine reuses a prompt's KV only where it may.

Block keys live in the engine's own process, where nothing can be asked. So a real prompt is served
three times: twice unsteered, which must reuse, then under a known row, which must not. A KV block
that survives from here is keyed by the row's content and serves nobody else.
"""

import torch
from vllm.inputs import TokensPrompt
from vllm.sampling_params import SamplingParams

from forward.clauses import TokenClause, regions
from forward.hookpoints import HookPoint
from forward.program import Program, RowContent, SiteContent
from service.engine.engine import BootError, PolicyEngine
from service.engine.generate import StampedGenerate
from service.engine.lease import Lease
from service.engine.slots import Slot


async def check_block_keys(engine: PolicyEngine) -> None:
    """Serve a prompt of two blocks thrice and look at what was cached.

    Raises:
        BootError: Unsteered requests do not share KV, or a steered one reads theirs.
    """
    config = engine.client.vllm_config
    block = config.cache_config.block_size
    length = 2 * block + 1
    if not config.cache_config.enable_prefix_caching or not engine.capacities:
        return
    if length + 1 > config.model_config.max_model_len:
        raise BootError(
            f"prefix caching cannot be checked: two blocks of {block} tokens do not fit "
            f"--max-model-len {config.model_config.max_model_len}; use a smaller --block-size or "
            "--no-enable-prefix-caching"
        )
    slot = await engine.slots.place(_known_program(engine))
    try:
        plain, again, steered = [
            await _cached_tokens(engine, held, length) for held in (None, None, slot)
        ]
    finally:
        engine.slots.retire(slot)
    if plain or again < block or steered:
        raise BootError(
            f"KV reuse is not what block keys demand: {plain} cached tokens on first sight "
            f"(expected 0), {again} unsteered (expected {block} or more), {steered} steered "
            "(expected 0)"
        )


def _known_program(engine: PolicyEngine) -> Program:
    point: HookPoint = min(engine.capacities)
    offset = torch.full((engine.shape.d_model,), 1e-3)
    cut = regions([TokenClause("all")])
    return Program(cut, tuple(RowContent({point: SiteContent(offset)}) for _ in cut))


async def _cached_tokens(engine: PolicyEngine, slot: Slot | None, length: int) -> int:
    lease = Lease(engine.slots, None, slot, 1.0, (), "")
    generate = StampedGenerate(engine.plain_generate, lambda: lease)
    prompt = TokensPrompt(prompt_token_ids=[1 + i % 2 for i in range(length)])
    params = SamplingParams(max_tokens=1, temperature=0.0)
    cached = 0
    async for output in generate(prompt, params, f"boot-check-{id(slot)}-{length}"):
        cached = output.num_cached_tokens or 0
    return cached
