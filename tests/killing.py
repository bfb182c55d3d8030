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

KINDS = ("group", "solo", "key", "job", "events", "decisions", "artifact")
"""What is acknowledged in words of its own."""
MOST_WORDS = 40
"""A process is killed after a random number of words, so that a slow machine hears as many."""
LAST_SECONDS = 0.1
"""And after a random part of this."""
START_SECONDS = 120.0
PIECES = 1000
"""More than a process does: no two do a piece of one number."""
EARLY = 0.15
"""The share of processes that are killed while they start."""
EARLY_SECONDS = 1.0


@dataclass
class Killing:
    """Rounds on one store."""

    place: StorePlace
    seed: int
    told: Told = field(default_factory=Told)
    auditor: Auditor = field(default_factory=Auditor)
    rounds: int = 0
    before_start: int = 0

    def round(self, strike: Callable[[], None] | None = None) -> None:
        """Have a process work, kill it, and hold the store against all that was told so far.

        Args:
            strike: Called while the process works.
        """
        self.rounds += 1
        moments = random.Random(self.seed * 1000 + self.rounds)
        with tempfile.TemporaryDirectory() as folder:
            journal = Path(folder) / "journal"
            process = self._start(journal)
            is_early = strike is None and moments.random() < EARLY
            words = 0 if is_early else moments.randrange(1 if strike is None else 10, MOST_WORDS)
            if strike is not None:
                _await_words(journal, words // 2)
                strike()
            _await_words(journal, words)
            time.sleep(moments.uniform(0, EARLY_SECONDS if is_early else LAST_SECONDS))
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
        where = (self.place.url, str(self.place.artifacts), str(journal))
        place = Place(*where, seed, self.rounds * PIECES)
        process = context.Process(target=work, args=(place,))
        process.start()
        return process


def _await_words(journal: Path, count: int) -> None:
    """Wait until a process has said so many words."""
    limit = time.monotonic() + START_SECONDS
    while count and (not journal.exists() or journal.read_bytes().count(b"\n") < count):
        assert time.monotonic() < limit, "it says no more"
        time.sleep(0.005)


def _assert_whole(store: Store) -> None:
    """Every file of an artifact is known, or is what a killed process was writing."""
    known = {found.path.name for found in store.all_artifacts()}
    files = {path.name for path in store.artifacts_folder.glob("*.safetensors")}
    assert known <= files
