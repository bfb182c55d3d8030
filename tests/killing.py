"""Rounds of work that end by ``kill -9``, and what is found after each."""

import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from service.store import Store
from tests.enduring import Place, work
from tests.outlived import Auditor, Told, check, check_all_artifacts, integrity
from tests.service.places import StorePlace

LONGEST_SECONDS = 1.0
"""How long a process works at most, from its first word on."""
START_SECONDS = 60.0
EARLY = 0.2
"""The share of processes that are killed while they start."""


@dataclass
class Killing:
    """Rounds on one store."""

    place: StorePlace
    seed: int
    told: Told = field(default_factory=Told)
    auditor: Auditor = field(default_factory=Auditor)
    rounds: int = 0
    before_start: int = 0

    def round(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Have a process work, kill it, and hold the store against all that was told so far.

        Args:
            meanwhile: Called at about half of the process's time.
        """
        self.rounds += 1
        moments = random.Random(self.seed * 1000 + self.rounds)
        with tempfile.TemporaryDirectory() as folder:
            journal = Path(folder) / "journal"
            process = self._start(journal)
            if moments.random() > EARLY:
                _await_word(journal)
            seconds = moments.uniform(0, LONGEST_SECONDS)
            time.sleep(seconds / 2)
            meanwhile()
            time.sleep(seconds / 2)
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            assert process.exitcode == -signal.SIGKILL, "it ended by itself"
            self.before_start += not self.told.read(journal)
        self.check()

    def check(self) -> None:
        """Hold the store against all that was told so far."""
        with self.place.open() as store:
            check(store, self.told, self.auditor)

    def end(self) -> None:
        """Check what is too much for every round."""
        self.check()
        with self.place.open() as store:
            check_all_artifacts(store, self.told)
            assert not list(integrity(store))
            _assert_whole(store)

    def figures(self) -> dict[str, object]:
        """Return what was done and found."""
        return {
            "rounds": self.rounds,
            "killed_before_their_first_word": self.before_start,
            "acknowledged": dict(sorted(self.told.done.items())),
            "begun_and_cut_short": dict(sorted(self.told.cut_short.items())),
            "generation": self.told.generation,
            "audit_rows_verified": self.auditor.seq,
        }

    def _start(self, journal: Path) -> BaseProcess:
        # A server that has imported all of it forks each process: a round takes a second.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.enduring"])
        seed = self.seed * 1000 + self.rounds
        place = Place(self.place.url, str(self.place.artifacts), str(journal), seed)
        process = context.Process(target=work, args=(place,))
        process.start()
        return process


def _await_word(journal: Path) -> None:
    """Wait until a process says its first word."""
    limit = time.monotonic() + START_SECONDS
    while not (journal.exists() and journal.stat().st_size):
        assert time.monotonic() < limit, "it never began"
        time.sleep(0.01)


def _assert_whole(store: Store) -> None:
    """Every file of an artifact is known, or is what a killed process was writing."""
    known = {found.path.name for found in store.all_artifacts()}
    files = {path.name for path in store.artifacts_folder.glob("*.safetensors")}
    assert known <= files
