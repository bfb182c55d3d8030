"""Cache identity: what a KV block's key says of the rows that its tokens used.

A block's key gets, beside what vLLM puts there, the runs of non-zero (row content, strength) over
its tokens, relative to the block's start. The hash of the parent block carries everything before
it. So equal treatment is shared whatever the prompt's length, a block that no row touches has
vLLM's own key, and no other block is ever reused. A tenant's first block names the tenant too, so
that nobody learns from the cache what another tenant asked.
"""

from collections.abc import Callable, Iterator
from typing import Any

from vllm.v1.core import block_pool, kv_cache_utils
from vllm.v1.request import Request

from service.engine.stamp import Span, Stamp

ExtraKeys = tuple[tuple[Any, ...] | None, int]
KeyFunction = Callable[[Request, int, int, int], ExtraKeys]

TAG = "trimtab"
TENANT = "trimtab-tenant"


def install() -> None:
    """Make vLLM's block hashers add our key; call in the engine's process before they are built."""
    plain = kv_cache_utils.generate_block_hash_extra_keys
    if getattr(plain, "is_trimtab", False):
        return
    keyed = with_rows(plain)
    kv_cache_utils.generate_block_hash_extra_keys = keyed
    setattr(block_pool, plain.__name__, keyed)  # it imported the name, and looks it up there


def with_rows(plain: KeyFunction) -> KeyFunction:
    """Wrap vLLM's function of the same name; same arguments, same result, one more key."""

    def generate_block_hash_extra_keys(
        request: Request, start_token_idx: int, end_token_idx: int, start_mm_idx: int
    ) -> ExtraKeys:
        keys, next_mm_idx = plain(request, start_token_idx, end_token_idx, start_mm_idx)
        params = request.sampling_params
        stamp = Stamp.unpack(params.extra_args if params else None)
        if stamp.tenant and not start_token_idx:  # the first block's hash is in all after it
            keys = (keys or ()) + ((TENANT, stamp.tenant),)
        runs = block_runs(stamp, request.num_prompt_tokens, start_token_idx, end_token_idx)
        if runs:
            keys = (keys or ()) + ((TAG, runs),)
        return keys, next_mm_idx

    generate_block_hash_extra_keys.is_trimtab = True  # type: ignore[attr-defined]
    return generate_block_hash_extra_keys


def block_runs(stamp: Stamp, prompt_length: int, start: int, end: int) -> str:
    """Return the runs of treatment over tokens [start, end); '' if no token is touched.

    Each run is ``offset:treatment`` from where it holds; a treatment is the sorted non-zero
    (content, strength) of the two sources: they add up, so their order is nothing to KV.
    """
    runs: list[str] = []
    previous = ""
    for position in cuts(stamp, prompt_length, start, end):
        treatment = treatment_at(stamp, prompt_length, position)
        if treatment != previous:
            runs.append(f"{position - start}:{treatment}")
            previous = treatment
    return ";".join(runs)


def cuts(stamp: Stamp, prompt_length: int, start: int, end: int) -> Iterator[int]:
    """Yield the positions in [start, end) where a region may begin, ascending."""
    edges = {start, prompt_length - 1, prompt_length}
    for span in stamp.spans:
        edges |= {prompt_length + begin for begin in span.rows.starts}
    yield from sorted(edge for edge in edges if start <= edge < end)


def treatment_at(stamp: Stamp, prompt_length: int, position: int) -> str:
    """Return what is done to the token at an absolute position, '' for nothing."""
    parts = sorted(
        f"{key}*{span.rows.strength!r}"
        for span in stamp.spans
        if (key := _key_at(span, prompt_length, position)) and span.rows.strength
    )
    return "+".join(parts)


def _key_at(span: Span, prompt_length: int, position: int) -> str:
    generated = position - prompt_length
    if generated < 0:
        return span.keys[int(generated == -1)]
    return span.keys[1 + sum(generated >= start for start in span.rows.starts)]
