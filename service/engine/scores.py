"""Scores on their way out of a worker: copied once a step, cut by request, handed to the channels.

Each API process has a channel of its own, and a request's scores go to the process that it is of.

On CPU the score buffer is host memory and is read at once. On CUDA a copy to pinned memory is put
in the stream behind the forward pass, before the next one can overwrite the buffer, and a thread
waits for it: the hot path never does.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.engine.channel import ScoreEntry
from service.engine.stamp import Stamp

Send = Callable[[Sequence[ScoreEntry]], None]
Columns = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Wanted:
    request: str
    child: int
    columns: Columns
    process: int


@dataclass(frozen=True, slots=True)
class _Copied:
    """One step's buffers on the host, and which of its tokens belong to whom."""

    scores: Tensor
    tokens: Tensor
    positions: Tensor
    parts: tuple[tuple[_Wanted, int, int], ...]

    def entries(self) -> dict[int, list[ScoreEntry]]:
        """Return what each process gets."""
        scores, tokens = self.scores.numpy(), self.tokens.numpy().astype(np.int32)
        positions = self.positions.numpy()
        # Requests under the same policies want the same columns: those are gathered once.
        picked: dict[Columns, NDArray[np.float32]] = {}
        for wanted, _, _ in self.parts:
            if wanted.columns not in picked:
                picked[wanted.columns] = scores[:, wanted.columns]
        found: dict[int, list[ScoreEntry]] = {}
        for wanted, begin, end in self.parts:
            scored = picked[wanted.columns][begin:end]
            start, fed = int(positions[begin]), tokens[begin:end]
            entry = ScoreEntry(wanted.request, wanted.child, start, fed, scored)
            found.setdefault(wanted.process, []).append(entry)
        return found


class ScoreTap:
    """The watched requests of one rank, and the way their scores go."""

    def __init__(self, device: torch.device) -> None:
        """Watch nobody; nothing leaves before ``open``."""
        self._wanted: dict[str, _Wanted] = {}
        self._sends: dict[int, Send] = {}
        self._is_host = device.type == "cpu"
        self._copies: SimpleQueue[tuple[_Copied, Any]] = SimpleQueue()

    def open(self, send: Send, process: int = 0) -> None:
        """Give the scores of a process's requests to ``send`` from now on."""
        is_first = not self._sends
        self._sends[process] = send
        if is_first and not self._is_host:
            threading.Thread(target=self._send_copies, daemon=True).start()

    def watch(self, request_id: str, stamp: Stamp) -> None:
        """Take up a request that has columns; vLLM names the choices of ``n`` by a prefix."""
        if stamp.columns:
            child = int(request_id.split("_", 1)[0]) if stamp.n > 1 else 0
            wanted = _Wanted(stamp.request, child, stamp.columns, stamp.process)
            self._wanted[request_id] = wanted

    def forget(self, request_id: str) -> None:
        """Let go of a request that ended."""
        self._wanted.pop(request_id, None)

    def take(
        self,
        step: tuple[Tensor, Tensor, Tensor],
        counts: Mapping[str, int],
        order: Sequence[str],
    ) -> None:
        """Send what a forward pass left of the watched requests.

        Args:
            step: The score buffer, the token ids and the positions; tokens first in each.
            counts: Tokens of each request in the step.
            order: The requests in the order of the batch.
        """
        if not self._wanted or not self._sends:
            return
        parts: list[tuple[_Wanted, int, int]] = []
        begin = 0
        for request_id in order:
            end = begin + counts[request_id]
            if (wanted := self._wanted.get(request_id)) is not None:
                parts.append((wanted, begin, end))
            begin = end
        if not parts:
            return
        scores, tokens, positions = (self._to_host(buffer[:begin]) for buffer in step)
        taken = _Copied(scores, tokens, positions, tuple(parts))
        if self._is_host:
            self._send(taken)
            return
        copied = torch.cuda.Event()
        copied.record()
        self._copies.put((taken, copied))

    def _to_host(self, buffer: Tensor) -> Tensor:
        if self._is_host:
            return buffer
        host = torch.empty_like(buffer, device="cpu", pin_memory=True)
        return host.copy_(buffer, non_blocking=True)

    def _send_copies(self) -> None:
        while True:
            step, copied = self._copies.get()
            copied.synchronize()
            self._send(step)

    def _send(self, step: _Copied) -> None:
        """Hand a step on; a process without a channel counts its scores as missing."""
        for process, entries in step.entries().items():
            if (send := self._sends.get(process)) is not None:
                send(entries)
