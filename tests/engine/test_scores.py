"""Scores leave a worker by the channel of the process that asked, and by no other."""

from collections.abc import Sequence

import torch

from service.engine.channel import ScoreEntry
from service.engine.scores import ScoreTap
from service.engine.stamp import STAMP_KEY, Stamp

N_TOKENS, N_COLUMNS = 9, 4


def test_each_process_gets_the_scores_of_its_own_requests() -> None:
    tap = ScoreTap(torch.device("cpu"))
    got: dict[int, list[ScoreEntry]] = {0: [], 1: []}
    for process, kept in got.items():
        tap.open(kept.extend, process)
    sent = {
        "a": Stamp("first", columns=(2, 0), process=1),
        "0_b": Stamp("second", columns=(1,), n=2, process=0),
        "1_b": Stamp("second", columns=(1,), n=2, process=0),
        "c": Stamp("third", columns=(3,), process=1),
        "d": Stamp("nobody waits for it", columns=(3,), process=7),
        "e": Stamp("unwatched", process=1),
    }
    for name, stamp in sent.items():
        tap.watch(name, Stamp.unpack({STAMP_KEY: stamp.pack()}))
    scores = torch.arange(N_TOKENS * N_COLUMNS, dtype=torch.float32).reshape(N_TOKENS, N_COLUMNS)
    tokens, positions = torch.arange(N_TOKENS) + 100, torch.arange(N_TOKENS) + 50
    counts = {"a": 2, "0_b": 1, "e": 2, "d": 1, "1_b": 1, "c": 2}
    tap.take((scores, tokens, positions), counts, list(counts))
    assert told(got[0]) == [("second", 0, 52, [102]), ("second", 1, 56, [106])]
    assert told(got[1]) == [("first", 0, 50, [100, 101]), ("third", 0, 57, [107, 108])]
    assert got[1][0].scores.tolist() == scores[0:2, [2, 0]].tolist()
    assert got[0][1].scores.tolist() == scores[6:7, [1]].tolist()


def test_a_process_that_comes_again_takes_the_place_of_its_former_channel() -> None:
    tap, former, later = ScoreTap(torch.device("cpu")), list[ScoreEntry](), list[ScoreEntry]()
    tap.open(former.extend, 1)
    tap.open(later.extend, 1)
    tap.watch("a", Stamp("first", columns=(0,), process=1))
    step = (torch.zeros(1, N_COLUMNS), torch.zeros(1, dtype=torch.int64), torch.zeros(1).long())
    tap.take(step, {"a": 1}, ["a"])
    assert not former and len(later) == 1


def told(entries: Sequence[ScoreEntry]) -> list[tuple[str, int, int, list[int]]]:
    return [(e.request, e.child, e.start, e.tokens.tolist()) for e in entries]
