"""The wrapper of ``EngineClient.generate``, where every generating route ends.

It gives each engine request a stamp, whatever the client put in its place, and holds the rows
until the last token. A request without a lease runs under the default binding. What monitors
watch goes through ``service.engine.watched``.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from service.engine.door import Door
from service.engine.lease import CURRENT_LEASE, Lease
from service.engine.stamp import STAMP_KEY, Stamp, StampError
from service.engine.watched import WatchedRequest, Watching
from service.report import CURRENT_REPORT, RequestReport
from service.verdicts import is_enforcing

SUBMISSION_SECONDS = 1.0
"""Far more than it takes to submit a request to the engine."""

Generate = Callable[..., AsyncGenerator[RequestOutput, None]]
Check = Callable[[SamplingParams], None]


class StampedGenerate:
    """Callable in the place of ``EngineClient.generate``, same arguments and results."""

    def __init__(
        self,
        inner: Generate,
        default_lease: Callable[[], Lease],
        watching: Watching | None = None,
        door: Door | None = None,
        check: Check | None = None,
        process: int = 0,
    ) -> None:
        """Wrap ``inner``; ``default_lease`` is what the default binding gives right now.

        Without ``watching`` a request under monitors is refused; ``door`` is one that others shut;
        ``check`` raises for a request that this engine does not bear; ``process`` is the number of
        this API process.
        """
        self._inner, self._default_lease, self._watching = inner, default_lease, watching
        self._door, self._check = door or Door(), check
        self._process = process
        self._ending: set[asyncio.Task[None]] = set()

    def __call__(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **kwargs: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """Choose the lease now, in the caller's context, and return the stream.

        Raises:
            TypeError: The prompt is a stream: it would grow, and a token's phase with it.
            StampError: The request has monitors that cannot watch it.
        """
        if self._check is not None:
            self._check(sampling_params)
        if isinstance(prompt, AsyncGenerator):
            raise TypeError("a prompt that grows while it is served has no fixed length: refused")
        lease = CURRENT_LEASE.get() or self._default_lease()
        adapter = kwargs.get("lora_request")
        if adapter is not None:
            lease = lease.under_adapter(adapter.lora_name)
        stamp = replace(lease.stamp(sampling_params.n), process=self._process)
        report = CURRENT_REPORT.get() or RequestReport()
        # Numbered now: reports number requests as they are made.
        number = report.next_prompt()
        if adapter is not None:
            report.adapters.add(adapter.lora_name)
        watched = self._watch(lease, stamp, sampling_params, request_id, report, number)
        stamped = stamped_params(sampling_params, lease, stamp)
        note = partial(_note, report, number, sampling_params)
        return self._run(lease, watched, note, prompt, stamped, request_id, kwargs)

    def _watch(
        self,
        lease: Lease,
        stamp: Stamp,
        params: SamplingParams,
        request_id: str,
        report: RequestReport,
        number: int,
    ) -> WatchedRequest | None:
        """Return the watch over a request."""
        if not lease.watched:
            return None
        if self._watching is None:
            raise StampError("a request has monitors, but no scores reach this process: refused")
        return WatchedRequest(self._watching, lease, stamp, params, request_id, report, number)

    async def _run(
        self,
        lease: Lease,
        watched: WatchedRequest | None,
        note: Callable[[RequestOutput], None],
        prompt: Any,
        params: SamplingParams,
        request_id: str,
        kwargs: dict[str, Any],
    ) -> AsyncGenerator[RequestOutput, None]:
        with ExitStack() as holding:
            if watched is not None:
                watched.open()
                holding.callback(watched.drop)
            holding.enter_context(lease.held())
            async with self._door.passage():
                stream = self._inner(prompt, params, request_id, **kwargs)
                first = asyncio.ensure_future(anext(stream, None))
                try:
                    # Shielded: vLLM aborts what it has submitted, but not a submission cut short.
                    output = await asyncio.shield(first)
                except (asyncio.CancelledError, GeneratorExit):
                    self._end_later(first, stream, holding.pop_all())
                    raise
                run = _passed(output, stream) if watched is None else watched.run(output, stream)
                async with aclosing(stream), aclosing(run) as outputs:
                    async for output in outputs:
                        note(output)
                        yield output

    def _end_later(
        self,
        first: asyncio.Future[RequestOutput | None],
        stream: AsyncGenerator[RequestOutput, None],
        holding: ExitStack,
    ) -> None:
        """Abort a request once it is submitted whole; its rows are held until then.

        Its first output may be its whole answer, far off, so what is surely submitted is aborted.
        """

        async def end() -> None:
            with holding:
                await asyncio.wait([first], timeout=SUBMISSION_SECONDS)
                first.cancel()
                await asyncio.wait([first])
                if not first.cancelled():
                    first.exception()  # looked at: whoever asked is gone
                await stream.aclose()

        ending = asyncio.create_task(end())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


def _note(
    report: RequestReport, number: int, params: SamplingParams, output: RequestOutput
) -> None:
    """Keep why choices ended and how many tokens there are; ``params`` are the client's own."""
    if output.prompt_token_ids is not None:
        report.prompts[number] = len(output.prompt_token_ids)
    for piece in output.outputs:
        choice = number * params.n + piece.index
        if piece.finish_reason is not None:
            report.finishes[choice] = piece.finish_reason
        is_delta = params.output_kind == RequestOutputKind.DELTA
        before = report.generated.get(choice, 0) if is_delta else 0
        report.generated[choice] = before + len(piece.token_ids)


async def _passed(
    output: RequestOutput | None, stream: AsyncGenerator[RequestOutput, None]
) -> AsyncGenerator[RequestOutput, None]:
    while output is not None:
        yield output
        output = await anext(stream, None)


def stamped_params(params: SamplingParams, lease: Lease, stamp: Stamp) -> SamplingParams:
    """Return a copy of ``params`` with our stamp (beam search shares one object among requests).

    What enforcing monitors watch is given by deltas, whatever the client asked for; what monitors
    or gates must see whole is not read from the prefix cache.
    """
    stamped = params.clone()
    stamped.extra_args = {**(params.extra_args or {}), STAMP_KEY: stamp.pack()}
    if any(is_enforcing(watched) for watched in lease.watched):
        stamped.output_kind = RequestOutputKind.DELTA
    if lease.reads_all:
        stamped.skip_reading_prefix_cache = True
    return stamped
