"""The wrapper of ``EngineClient.generate``, where every generating route ends.

It gives each engine request a stamp, whatever the client put in its place, and holds the rows
until the last token. A request without a lease runs under the default binding.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from typing import Any

from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams

from service.engine.lease import CURRENT_LEASE, Lease
from service.engine.stamp import STAMP_KEY

Generate = Callable[..., AsyncGenerator[RequestOutput, None]]


class StampedGenerate:
    """Callable in the place of ``EngineClient.generate``, same arguments and results."""

    def __init__(self, inner: Generate, default_lease: Callable[[], Lease]) -> None:
        """Wrap ``inner``; ``default_lease`` is what the default binding gives right now."""
        self._inner, self._default_lease = inner, default_lease
        self._ending: set[asyncio.Task[None]] = set()

    def __call__(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **kwargs: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """Choose the lease now, in the caller's context, and return the stream.

        Raises:
            TypeError: The prompt is a stream: it would grow, and a token's phase with it.
        """
        if isinstance(prompt, AsyncGenerator):
            raise TypeError("a prompt that grows while it is served has no fixed length: refused")
        lease = CURRENT_LEASE.get() or self._default_lease()
        return self._run(lease, prompt, sampling_params, request_id, kwargs)

    async def _run(
        self,
        lease: Lease,
        prompt: Any,
        params: SamplingParams,
        request_id: str,
        kwargs: dict[str, Any],
    ) -> AsyncGenerator[RequestOutput, None]:
        with ExitStack() as holding:
            holding.enter_context(lease.held())
            stamped = stamped_params(params, lease)
            stream = self._inner(prompt, stamped, request_id, **kwargs)
            first = asyncio.ensure_future(anext(stream, None))
            try:
                # Shielded: vLLM aborts what it has submitted, but not a submission cut short.
                output = await asyncio.shield(first)
            except (asyncio.CancelledError, GeneratorExit):
                self._end_later(first, stream, holding.pop_all())
                raise
            try:
                while output is not None:
                    yield output
                    output = await anext(stream, None)
            finally:
                await stream.aclose()

    def _end_later(
        self,
        first: asyncio.Future[RequestOutput | None],
        stream: AsyncGenerator[RequestOutput, None],
        holding: ExitStack,
    ) -> None:
        """Abort a request once it is submitted whole; its rows are held until then."""

        async def end() -> None:
            with holding:
                await asyncio.wait([first])
                first.exception()  # looked at: whoever asked is gone
                await stream.aclose()

        ending = asyncio.create_task(end())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


def stamped_params(params: SamplingParams, lease: Lease) -> SamplingParams:
    """Return a copy of ``params`` with our stamp (beam search shares one object among requests)."""
    stamped = params.clone()
    stamped.extra_args = {**(params.extra_args or {}), STAMP_KEY: lease.stamp().pack()}
    return stamped
