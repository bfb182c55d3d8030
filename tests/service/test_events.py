"""Events: kept in order, for a while, and never lost without a word."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from service.database import StoreError
from service.events import Event, EventLog, EventStore, Wanted
from service.records import now
from service.settings import EventRetention, SettingsError
from service.store import Store
from tests.service.places import StorePlace

EVENT = Event(
    at="2026-01-01T00:00:00.000+00:00",
    request="cmpl-1",
    choice=0,
    policy="guard@3",
    monitor="harm",
    mode="enforce",
    do="refuse",
    action="refuse",
    fired=True,
    score=1.5,
    threshold=0.5,
    rarity=2.0,
    position=7,
    token=2,
    coverage=1.0,
    fault=None,
)


def event(number: int = 0, **fields: object) -> Event:
    """Return an event of now; its choice is its number."""
    return replace(EVENT, choice=number, **({"at": now()} | fields))


@pytest.fixture
def store(place: StorePlace) -> Iterator[Store]:
    """A store on each database."""
    with place.open() as opened:
        yield opened


def choices(events: EventStore, **wanted: object) -> list[int]:
    """Return the choices of the events that are asked for."""
    return [found["choice"] for found in events.page(Wanted(**wanted)).events]


def test_what_was_written_is_read_whole_and_in_order(store: Store) -> None:
    events = store.events()
    assert events.page(Wanted()).events == () and events.page(Wanted()).last == 0
    events.add([event(0), event(1, score=None, fault="nan", position=None)])
    events.add([event(2)])
    page = events.page(Wanted())
    assert [found["id"] for found in page.events] == [1, 2, 3]
    assert (page.last, page.lost) == (3, 0)
    found = dict(page.events[1])
    assert (found["score"], found["fault"], found["fired"]) == (None, "nan", True)
    assert found["text"] is None, "an event says nothing of what was said"


def test_pages_follow_one_another(store: Store) -> None:
    events = store.events()
    events.add([event(i) for i in range(7)])
    first = events.page(Wanted(after=0, limit=3))
    second = events.page(Wanted(after=first.last, limit=3))
    third = events.page(Wanted(after=second.last, limit=3))
    assert [len(p.events) for p in (first, second, third)] == [3, 3, 1]
    assert [p.last for p in (first, second, third)] == [3, 6, 7]
    assert events.page(Wanted(after=7)).events == ()
    assert choices(events, limit=2) == [5, 6], "without a start, the newest"


def test_events_are_chosen_by_monitor_policy_and_time(store: Store) -> None:
    events = store.events()
    events.add(
        [
            event(0, monitor="harm"),
            event(1, monitor="lie"),
            event(2, policy="guard@4"),
            event(3, policy="guardian@1"),
            event(4, at="2030-01-01T00:00:00.000+00:00"),
        ]
    )
    assert choices(events, monitor="lie") == [1]
    assert choices(events, policy="guard") == [0, 1, 2, 4]
    assert choices(events, policy="guard@4") == [2]
    assert choices(events, policy="guard%") == []
    assert choices(events, since="2029-01-01T00:00:00.000+00:00") == [4]


def test_a_filter_does_not_hold_a_reader_back(store: Store) -> None:
    events = store.events()
    events.add([event(i, monitor="lie") for i in range(5)])
    assert events.page(Wanted(after=0, monitor="harm")).last == 5


def test_retention_by_count_and_by_age_says_what_it_took(store: Store) -> None:
    events = store.events(EventRetention(count=3, days=1))
    events.add([event(i) for i in range(5)])
    assert choices(events) == [2, 3, 4]
    assert events.page(Wanted(after=1)).lost == 1
    assert events.page(Wanted(after=0)).lost == 2
    assert events.page(Wanted(after=2)).lost == 0
    events.add([event(9, at="2020-01-01T00:00:00.000+00:00")])
    events.add([event(10)])
    assert choices(events) == [4, 10]


def test_the_newest_stays_so_that_numbers_go_on(store: Store) -> None:
    events = store.events(EventRetention(count=10, days=1))
    old = "2020-01-01T00:00:00.000+00:00"
    events.add([event(0, at=old), event(1, at=old)])
    assert choices(events) == [1]
    assert events.page(Wanted(after=0)).lost == 1
    events.add([event(2)])
    assert [found["id"] for found in events.page(Wanted()).events] == [3]


@pytest.mark.parametrize("wrong", [{"count": 0}, {"days": 0.0}])
def test_events_are_kept_for_a_while(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        EventRetention(**wrong)


async def test_a_log_writes_in_batches_off_the_loop(store: Store) -> None:
    log = EventLog(store.events())
    for i in range(1200):
        log.put([event(i)])
    await log.close()
    assert choices(log.store, after=0, limit=2000) == list(range(1200))
    assert log.dropped == 0


async def test_a_full_queue_counts_what_it_drops(store: Store) -> None:
    heard: list[int] = []
    log = EventLog(store.events(), lambda: heard.append(1), max_waiting=3)
    log.put([event(i) for i in range(5)])
    assert log.dropped == len(heard) == 2
    await log.close()
    assert choices(log.store) == [0, 1, 2]


async def test_a_store_that_fails_is_tried_again(store: Store, monkeypatch) -> None:
    monkeypatch.setattr("service.batch_log.RETRY_SECONDS", 0.05)
    events = store.events()
    whole, failures = events.add, [StoreError("locked"), StoreError("locked")]

    def add(batch: list[Event]) -> None:
        if failures:
            raise failures.pop()
        whole(batch)

    monkeypatch.setattr(events, "add", add)
    log = EventLog(events)
    log.put([event(0)])
    await asyncio.sleep(0.3)
    await log.close()
    assert choices(events) == [0]


async def test_who_waits_is_woken_by_what_is_written(store: Store) -> None:
    log = EventLog(store.events())
    waiting = asyncio.ensure_future(log.written(5))
    await asyncio.sleep(0)
    log.put([event(0)])
    await asyncio.wait_for(waiting, 2)
    assert choices(log.store) == [0]
    await log.close()
