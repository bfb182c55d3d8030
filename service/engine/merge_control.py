"""Merging edits into the weights of all ranks: one set holds at a time, for every request.

The door is shut and the engine idle while weights change, so no answer has tokens of two sets.
What is written is told by each rank as the sha256 of the bytes that it read back. On any failure
the set before is written again, and the bytes must then be the bytes before; if not even that is
sure, the door stays closed: nothing is served on weights that nobody knows.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import torch
from vllm.engine.protocol import EngineClient

from editing.delta import EMPTY, Factors, LowRankDelta
from service.engine.door import Door
from service.engine.errors import MergeError, WeightsUnknownError
from service.engine.wire import dump_factors

Call = Callable[..., Awaitable[list[Any]]]
"""Calls a method of every rank's worker and returns their answers, by rank."""

Digests = Mapping[int, tuple[str, ...]]
"""By layer, the sha256 of each rank's bytes."""

WAIT_SECONDS = 300.0
"""How long answers under way may keep a merge waiting; new ones wait with it."""

_UNKNOWN = (
    "a merge failed and could not be taken back: nothing is served on weights that nobody knows; "
    "start the server again"
)


@dataclass(frozen=True, slots=True)
class Target:
    """A projection that may be merged into: W (d_out, d_in), and what it was loaded with."""

    d_out: int
    d_in: int
    golden: tuple[str, ...]
    """The sha256 of each rank's bytes."""


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge did: the bytes of all layers that may be merged into, before and after."""

    delta: str
    """Digest of the sum that holds now."""
    before: Digests
    after: Digests
    waited_seconds: float
    """Until the last answer under the set before was over."""
    written_seconds: float
    """From then on, until the bytes of all ranks were written and read back."""


class Merger:
    """What the weights hold beyond the model's own; ``engine.merger``."""

    def __init__(
        self, client: EngineClient, call: Call, door: Door, layers: Iterable[int] = ()
    ) -> None:
        """Merge into ``layers`` on ``client``'s ranks behind ``door``, after ``start``."""
        self._client, self._call, self._door = client, call, door
        self._layers = tuple(sorted(layers))
        self._lock = asyncio.Lock()
        self._held: Mapping[int, bytes] = {}
        self._known: Digests = {}
        self.targets: Mapping[int, Target] = {}

    async def start(self) -> list[str]:
        """Check the projections on every rank; return the faults found."""
        if not self._layers:
            return []
        reports = await self._call("trimtab_merge_report")
        faults = [f"rank {i}: {fault}" for i, r in enumerate(reports) for fault in r["faults"]]
        if not faults:
            self.targets = {layer: _target(layer, reports) for layer in self._layers}
            self._known = {layer: target.golden for layer, target in self.targets.items()}
            if await self.digests() != self._known:
                faults.append("the ranks' weights are not those that they keep golden copies of")
        return faults

    async def merge(
        self, deltas: Iterable[LowRankDelta], wait_seconds: float = WAIT_SECONDS
    ) -> MergeReport:
        """Hold exactly the sum of ``deltas``; none of them restores the model's own bytes.

        Raises:
            MergeError: They do not fit, or a rank refused; the weights are as they were.
            DoorError: Answers under way took longer than ``wait_seconds``; nothing was changed.
            WeightsUnknownError: The weights are not known any more; nothing is served.
        """
        async with self.merging(deltas, wait_seconds) as report:
            return report

    @asynccontextmanager
    async def merging(
        self, deltas: Iterable[LowRankDelta], wait_seconds: float = WAIT_SECONDS
    ) -> AsyncGenerator[MergeReport]:
        """As ``merge``; in the context they hold, but no request is served yet.

        An error in the context takes the merge back. So what else belongs to the change (a
        record, a snapshot that requests select from) is done in it.
        """
        given = list(deltas)
        for delta in given:
            self._check(delta)
        total = summed(given)
        began = time.monotonic()
        async with self._lock, self._door.shut(wait_seconds):
            await self._client.pause_generation(mode="wait", clear_cache=False)
            idle = time.monotonic()
            try:
                async with self._swapped(total) as (before, after):
                    done = time.monotonic()
                    yield MergeReport(total.digest, before, after, idle - began, done - idle)
            finally:
                if not self._door.is_closed:
                    await self._client.resume_generation()

    async def digests(self) -> Digests:
        """Return the sha256 of the bytes that every layer's projection holds on every rank."""
        by_rank = await self._call("trimtab_weight_digests")
        return {layer: tuple(rank[str(layer)] for rank in by_rank) for layer in self.targets}

    def _check(self, delta: LowRankDelta) -> None:
        """Refuse before anybody has to wait.

        Raises:
            MergeError: A layer is not to be merged into, or its factors do not fit it.
        """
        if outside := sorted(set(delta.layers) - set(self.targets)):
            asked = ",".join(map(str, sorted({*outside, *self.targets})))
            raise MergeError(
                f"layers {', '.join(map(str, outside))} cannot be merged into: no golden copy of "
                f"them is kept; start with --merge-layers {asked}, or serve the edit beside the "
                "weights"
            )
        for layer, factors in delta.layers.items():
            target = self.targets[layer]
            shape = (factors.u.shape[0], factors.v.shape[1])
            if shape != (target.d_out, target.d_in):
                raise MergeError(
                    f"the edit of layer {layer} changes a matrix of shape {shape}, the model's is "
                    f"{(target.d_out, target.d_in)}: solve it again on this model"
                )
            if not all(bool(torch.isfinite(t).all()) for t in (factors.u, factors.v)):
                raise MergeError(
                    f"the edit of layer {layer} holds values that are not finite: solve it again"
                )

    @asynccontextmanager
    async def _swapped(self, total: LowRankDelta) -> AsyncGenerator[tuple[Digests, Digests]]:
        """Hold ``total`` on every rank; an error here or in the context puts back what was held."""
        before, held = await self.digests(), self._held
        if before != self._known:
            changed = sorted(k for k in self.targets if before[k] != self._known[k])
            raise MergeError(
                f"the weights of layers {changed} were changed by something else since the last "
                "merge, so what would be restored is not what was served; start the server again"
            )
        wanted = {layer: _dump(factors) for layer, factors in total.layers.items()}
        try:
            after = await self._write(held, wanted)
            if not await self._client.reset_prefix_cache():
                raise MergeError(
                    "the prefix cache could not be emptied, and its KV is of the weights before; "
                    "nothing was merged: try again"
                )
            self._held, self._known = wanted, after
            yield before, after
        except BaseException:
            await self._put_back(wanted, held, before)
            raise

    async def _write(self, held: Mapping[int, bytes], wanted: Mapping[int, bytes]) -> Digests:
        """Write the layers whose factors differ; return the bytes of all, read back.

        Raises:
            MergeError: A rank refused, or did not do what it was told.
        """
        told: dict[int, tuple[str, ...]] = {}
        for layer in sorted(self.targets):
            if held.get(layer) != wanted.get(layer):
                told[layer] = await self._write_layer(layer, wanted.get(layer, b""))
        after = await self.digests()
        for layer, target in self.targets.items():
            expected = told.get(layer, self._known[layer]) if layer in wanted else target.golden
            if {after[layer], told.get(layer, expected)} != {expected}:
                raise MergeError(
                    f"layer {layer} holds bytes with digests {after[layer]}, expected {expected}: "
                    "the merge was taken back"
                )
        return after

    async def _write_layer(self, layer: int, blob: bytes) -> tuple[str, ...]:
        reports = await self._call("trimtab_merge", layer, blob)
        faults = [f"rank {i}: {r['fault']}" for i, r in enumerate(reports) if "fault" in r]
        if faults:
            raise MergeError(f"layer {layer} is not merged: {'; '.join(faults)}")
        given = hashlib.sha256(blob).hexdigest()
        if {report["factors"] for report in reports} != {given}:
            raise MergeError(f"layer {layer}: not every rank was given the same factors")
        return tuple(report["held"] for report in reports)

    async def _put_back(
        self, wanted: Mapping[int, bytes], held: Mapping[int, bytes], before: Digests
    ) -> None:
        """Hold what was held, and no KV of what was not.

        Raises:
            WeightsUnknownError: It cannot be made sure.
        """
        self._held, self._known, is_sure = held, before, False
        try:
            back = await self._write(wanted, held)
            is_sure = back == before and await self._client.reset_prefix_cache()
        finally:
            if not is_sure:
                self._door.close_for_good(_UNKNOWN)
                raise WeightsUnknownError(_UNKNOWN)


def summed(deltas: Iterable[LowRankDelta]) -> LowRankDelta:
    """Return the sum; in an order of its own, so that no history shows in the bytes."""
    return sum(sorted(deltas, key=lambda delta: delta.digest), EMPTY)


def _dump(factors: Factors) -> bytes:
    return dump_factors(factors.u, factors.v)


def _target(layer: int, reports: list[Any]) -> Target:
    by_rank = [report["layers"][str(layer)] for report in reports]
    golden = tuple(rank["golden"] for rank in by_rank)
    return Target(by_rank[0]["d_out"], by_rank[0]["d_in"], golden)
