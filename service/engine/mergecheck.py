"""Boot check of merging, by serving: what is merged reaches the answers, and no KV outlives it.

Whether a compiled graph reads a weight from where it is written, no one can be asked. So a known
change is merged into each layer in turn and must change the answer; then all are taken out again.
"""

import torch

from editing.delta import Factors, LowRankDelta
from service.engine.engine import BootError, PolicyEngine
from service.engine.merge_control import MergeError, Target, WeightsUnknownError
from service.engine.servecheck import prompt_length, serve

SEED = 21
NORM = 1e3
"""Far beyond rounding in any dtype; spread over a matrix its entries stay finite in float16."""


async def check_merging(engine: PolicyEngine) -> None:
    """Merge a known change into every layer that may be merged into, and take it out again.

    Raises:
        BootError: It does not reach the answer, or KV from before is read after, or the bytes
            are not restored.
    """
    merger, faults = engine.merger, list[str]()
    if not merger.targets:
        return
    length, _ = prompt_length(engine)
    number = len(engine.capacities) + 2  # after the requests of the serving check
    try:
        await merger.merge([])
        plain = await serve(engine, None, length, number)
        for layer, target in merger.targets.items():
            number += 1
            await merger.merge([_known_change(layer, target)])
            merged = await serve(engine, None, length, number)
            if merged.answer == plain.answer:
                faults.append(f"layer {layer}: what is merged does not reach the answer")
            if merged.cached:
                faults.append(f"layer {layer}: {merged.cached} tokens were cached before a merge")
        await merger.merge([])
    except (MergeError, WeightsUnknownError) as error:
        raise BootError(f"merging does not work here: {error}") from error
    if faults:
        raise BootError("; ".join(faults))


def _known_change(layer: int, target: Target) -> LowRankDelta:
    generator = torch.Generator().manual_seed(SEED)
    u = torch.randn(target.d_out, 1, generator=generator)
    v = torch.randn(1, target.d_in, generator=generator)
    return LowRankDelta({layer: Factors.make(NORM * u / u.norm(), v)})
