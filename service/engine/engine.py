"""The engine with policies: how vLLM must be configured, and what its client then gives."""

import os
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vllm.engine.protocol import EngineClient
from vllm.platforms import current_platform

from forward.allocation import Allocator
from forward.families import model_shape
from forward.hookpoints import HookPoint
from forward.site import Capacity
from service.engine.adapters import keep_adapters, refuse_prompt_logprobs
from service.engine.books import Books, OwnBooks
from service.engine.channel import MAX_MESSAGES, ScoreReceiver
from service.engine.door import Door
from service.engine.generate import Generate, StampedGenerate
from service.engine.lease import Lease
from service.engine.merge_control import Merger
from service.engine.refusals import refuse_arguments, refuse_config, refuse_merging
from service.engine.slots import Slots
from service.engine.tracks import Tracks
from service.engine.watched import Watching
from service.engine.wire import TableUpdate, table_digest


class BootError(RuntimeError):
    """The engine came up, but is not what policies need; it must not serve."""


def configure(
    args: Namespace,
    capacities: Mapping[HookPoint, Capacity],
    gates: int = 0,
    merge_layers: Sequence[int] = (),
) -> None:
    """Set on vLLM's arguments what policies need: worker, scheduler, and sites in the config.

    Sites, the number of gates and the layers that may be merged into enter vLLM's compile-cache
    key through ``additional_config``: a graph compiled for others, or for none, is never loaded.

    Raises:
        RefusedOptionError: The arguments ask for what is not proven.
    """
    refuse_arguments(args)
    refuse_merging(args, merge_layers)
    keep_adapters(args)
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    args.worker_cls = f"service.engine.worker.{platform()}PolicyWorker"
    args.scheduler_cls = f"service.engine.scheduler.{scheduling(args)}PolicyScheduler"
    sites = {str(p): [c.rows, c.reads, c.writes] for p, c in sorted(capacities.items())}
    trimtab = {"sites": sites, "gates": gates, "merge_layers": sorted(set(merge_layers))}
    args.additional_config = {**(args.additional_config or {}), "trimtab": trimtab}


def platform() -> str:
    """Return what the workers' classes of this platform begin with."""
    return "CPU" if current_platform.is_cpu() else "CUDA"


def scheduling(args: Any) -> str:
    """Return what the scheduler's class begins with, as vLLM resolves it.

    N-gram speculation has no asynchronous scheduler.
    """
    asynchronous = (
        platform() == "CUDA"
        and getattr(args, "async_scheduling", None) is not False
        and not getattr(args, "speculative_config", None)
    )
    return "Async" if asynchronous else ""


class PolicyEngine:
    """A running engine, or several that share the work: slots, and a ``generate`` that stamps."""

    def __init__(
        self,
        client: EngineClient,
        capacities: Mapping[HookPoint, Capacity],
        shared: Books | None = None,
        process: int = 0,
    ) -> None:
        """Wrap a client whose engine was started on ``configure``d arguments.

        Args:
            client: vLLM's client.
            capacities: The sites and their sizes.
            shared: The books of the tables, where another process owns them.
            process: The number of this API process.

        Raises:
            RefusedOptionError: vLLM's resolved configuration is not proven.
            BootError: The scheduler is not the one that the configuration needs.
        """
        config: Any = client.vllm_config
        refuse_config(config)
        scheduler = config.scheduler_config
        if bool(scheduler.async_scheduling) != ("Async" in str(scheduler.scheduler_cls)):
            raise BootError(
                f"vLLM resolved async_scheduling to {scheduler.async_scheduling}; the scheduler "
                f"is {scheduler.scheduler_cls}; give --async-scheduling or --no-async-scheduling"
            )
        self.client, self.capacities = client, dict(capacities)
        self.shape = model_shape(config.model_config.hf_text_config)
        trimtab = config.additional_config["trimtab"]
        gates = trimtab["gates"]
        self.door = Door()
        self._check = refuse_prompt_logprobs if config.lora_config is not None else None
        self.merger = Merger(client, self._call, self.door, trimtab["merge_layers"])
        allocator = Allocator(self.shape.d_model, capacities, gates, self.shape.d_mlp)
        self.books = OwnBooks(allocator, self._write)
        self.slots = Slots(shared or self.books)
        self.process, self.n_engines = process, config.parallel_config.data_parallel_size
        self.plain_generate: Generate = client.generate

    async def watch(self, tracks: Tracks) -> ScoreReceiver:
        """Have each engine's first rank send scores to ``tracks``; close what this returns.

        Raises:
            ChannelError: The channel cannot be opened.
            BootError: Not exactly one rank of an engine sends.
        """
        receiver = ScoreReceiver(tracks.deliver, tracks.lose)
        address = receiver.open()
        sends = await self._call("trimtab_open_channel", address, MAX_MESSAGES, self.process)
        if sum(sends) != self.n_engines:
            await receiver.close()
            raise BootError(f"{sum(sends)} ranks send scores, expected {self.n_engines}")
        return receiver

    def install(self, default_lease: Callable[[], Lease], watching: Watching | None = None) -> None:
        """Replace ``generate`` on the client, so that every route's requests are stamped."""
        stamped = StampedGenerate(
            self.plain_generate, default_lease, watching, self.door, self._check, self.process
        )
        self.client.generate = stamped  # type: ignore[method-assign]

    async def boot_check(self) -> None:
        """Check every rank.

        Raises:
            BootError: Names each fault by rank.
        """
        reports = await self._call("trimtab_boot_check")
        faults = [f"rank {i}: {f}" for i, r in enumerate(reports) for f in r["faults"]]
        expected = {str(point) for point in self.capacities}
        faults += [
            f"rank {i}: sites {r['sites']}, expected {sorted(expected)}"
            for i, r in enumerate(reports)
            if set(r["sites"]) != expected
        ]
        digests = await self._call("trimtab_digest")
        if set(digests) != {table_digest({}, {})}:
            faults.append(f"ranks do not start with empty tables: {sorted(set(digests))}")
        faults += await self.merger.start()
        if faults:
            raise BootError("; ".join(faults))

    async def _write(self, update: TableUpdate) -> Sequence[str]:
        rows, reads = (
            {str(index): key for index, key in table.items()}
            for table in (update.rows, update.reads)
        )
        return await self._call("trimtab_update", update.dump(), rows, reads)

    async def _call(self, method: str, *args: Any) -> list[Any]:
        """Return the answers of all ranks of all engines."""
        # No timeout: a late answer would be taken for that of the next call. A dead engine raises.
        if self.n_engines == 1:
            return await self.client.collective_rpc(method, timeout=None, args=args)
        # ``collective_rpc`` itself reaches every engine and gives the first one's answers alone.
        core: Any = self.client.engine_core  # type: ignore[attr-defined] -- of AsyncLLM
        answers = await core.call_utility_all_async("collective_rpc", method, None, args, None)
        return [answer for ranks in answers for answer in ranks]
