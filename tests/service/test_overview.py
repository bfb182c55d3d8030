"""Counts of what happened lately, against counting by hand."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from monitors.benign import BenignTable
from service.overview import MINUTES, Span, benign_counts, counts, coverage_of, edges_of, scores_of
from service.store import Store
from tests.service.places import StorePlace
from tests.service.test_decisions import decision
from tests.service.test_events import event

NOW = datetime(2026, 11, 25, 12, 34, 56, tzinfo=UTC)


@pytest.fixture
def store(place: StorePlace) -> Iterator[Store]:
    """A store on each database, that never forgets."""
    with place.open() as opened:
        yield opened


def at(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


@pytest.mark.parametrize("minutes", MINUTES)
def test_counts_are_those_by_hand(store: Store, minutes: int, monkeypatch) -> None:
    kept = store.events()
    monkeypatch.setattr(kept._clock, "earliest", lambda: NOW)
    records = store.decisions()
    monkeypatch.setattr(records._clock, "earliest", lambda: NOW)
    draw, span = random.Random(0), Span(minutes, NOW)
    times = [NOW - timedelta(seconds=draw.uniform(0, 90_000)) for _ in range(300)]
    kept.add([event(i, at=at(t), monitor=f"m{i % 3}") for i, t in enumerate(times)])
    records.add(
        [
            decision(i, at=at(t), policies=("a@1", "b@2") if i % 2 else ())
            for i, t in enumerate(times)
        ]
    )
    shown = store.overview().show(span)
    assert len(shown["times"]) == minutes // span.step
    for place, start in enumerate(shown["times"]):
        end = start + 60 * span.step
        within = [i for i, t in enumerate(times) if start <= int(t.timestamp()) < end]
        assert shown["requests"][place] == len(within)
        assert shown["policies"]["a"][place] == shown["policies"]["b"][place]
        assert shown["policies"]["none"][place] == sum(i % 2 == 0 for i in within)
        by_hand = [sum(i % 3 == k for i in within) for k in range(3)]
        assert [shown["events"][f"m{k} (enforce)"][place] for k in range(3)] == by_hand


def test_nothing_happened(store: Store) -> None:
    shown = store.overview().show(Span(60, NOW))
    assert (shown["requests"], shown["policies"], shown["events"]) == ([], {}, {})


def verdict(score: float | None, **fields: object) -> dict[str, object]:
    plain = {"policy": "guard@1", "mode": "enforce", "threshold": 0.5, "fired": False}
    return plain | {"score": score, "coverage": 1.0} | fields


def record(**verdicts: dict[str, object]) -> dict[str, object]:
    return {"choices": [{"verdicts": {k.replace("__", "/"): v for k, v in verdicts.items()}}]}


def test_scores_are_by_policy_and_mode() -> None:
    records = [
        record(harm=verdict(0.2), lie=verdict(9.0)),
        record(harm=verdict(0.7, fired=True, coverage=0.5)),
        record(guard__harm=verdict(0.3, mode="shadow", threshold=None)),
        record(harm=verdict(None)),
        record(harm=verdict(8.0)) | {"probe": "known-bad"},
    ]
    enforced, shadow = scores_of(records, "harm")
    assert (enforced.values, enforced.thresholds, enforced.fired) == ((0.2, 0.7), (0.5,), 1)
    assert (enforced.policy, enforced.coverage) == ("guard", 0.5)
    assert (shadow.values, shadow.thresholds) == ((0.3,), ())
    assert coverage_of(records)["guard@1", "harm", "enforce"] == 0.5


def test_bins_hold_every_score_and_every_benign_one() -> None:
    benign = np.random.default_rng(0).normal(size=700)
    table = BenignTable.of(benign)
    edges = edges_of((2.0, 9.0), (5.0,), table)
    assert sum(counts(edges, (2.0, 9.0))) == 2 and sum(benign_counts(edges, table)) == 700
    by_hand = np.histogram(benign, edges)[0]
    # The table keeps some order statistics and rounds its counts up between them.
    assert np.abs(np.array(benign_counts(edges, table)) - by_hand).max() <= 700 / 200 + 1
    assert list(edges_of((), (), None)) == [] and counts(edges_of((), (), None), ()) == []
