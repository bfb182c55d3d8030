"""Decision records: one a request, found by its name, never mixed with another's."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from service.database import StoreError
from service.decisions import (
    Decision,
    DecisionAmbiguousError,
    DecisionLog,
    DecisionNotFoundError,
    DecisionStore,
    WantedDecisions,
)
from service.records import now
from service.settings import EventRetention
from service.store import Store
from tests.service.places import StorePlace


def decision(number: int, **fields: object) -> Decision:
    """Return a record of now."""
    made = Decision(
        request=f"{number:032x}",
        answer=f"chatcmpl-{number:032x}",
        at=now(),
        key=None,
        policies=("guard@3",),
        record={"number": number, "digest": "d" * 64},
    )
    return replace(made, **fields)


@pytest.fixture
def store(place: StorePlace) -> Iterator[Store]:
    """A store on each database."""
    with place.open() as opened:
        yield opened


def numbers(records: DecisionStore, **wanted: object) -> list[int]:
    return [found["number"] for found in records.page(WantedDecisions(**wanted))]


def test_a_record_is_found_by_our_name_and_by_its_clients(store: Store) -> None:
    records = store.decisions()
    records.add([decision(0), decision(1)])
    found = records.one(f"{1:032x}")
    assert found == records.one(f"chatcmpl-{1:032x}")
    assert (found["number"], found["id"], found["answer"]) == (1, 2, f"chatcmpl-{1:032x}")


def test_what_is_not_there_is_said(store: Store) -> None:
    with pytest.raises(DecisionNotFoundError, match="x-trimtab-request"):
        store.decisions().one("chatcmpl-0")


def test_requests_of_one_name_are_never_mixed(store: Store) -> None:
    records = store.decisions()
    same = "chatcmpl-mine"
    records.add([decision(0, answer=same)])
    assert records.one(same)["number"] == 0
    records.add([decision(1, answer=same)])
    assert [records.one(f"{i:032x}")["number"] for i in (0, 1)] == [0, 1]
    with pytest.raises(DecisionAmbiguousError, match=f"{1:032x}, {0:032x}"):
        records.one(same)


def test_a_client_cannot_take_our_name_of_anothers_request(store: Store) -> None:
    records = store.decisions()
    records.add([decision(0), decision(1, answer=f"{0:032x}")])
    assert records.one(f"{0:032x}")["number"] == 0


def test_a_name_is_kept_as_far_as_every_store_can(store: Store) -> None:
    records = store.decisions()
    name = "chatcmpl-\0" + "é" * 500
    records.add([decision(0, answer=name)])
    assert records.one(name)["number"] == 0


def test_a_batch_that_is_given_again_is_written_once(store: Store) -> None:
    records = store.decisions()
    records.add([decision(0), decision(1)])
    records.add([decision(0), decision(1), decision(2)])
    records.add([decision(1)])
    assert numbers(records) == [2, 1, 0]


def test_pages_go_back_in_time(store: Store) -> None:
    records = store.decisions()
    records.add([decision(i) for i in range(5)])
    first = records.page(WantedDecisions(limit=2))
    assert [found["number"] for found in first] == [4, 3]
    assert numbers(records, before=first[-1]["id"], limit=2) == [2, 1]
    assert numbers(records, before=1) == []


def test_records_are_chosen_by_policy_and_key(store: Store) -> None:
    records = store.decisions()
    records.add(
        [
            decision(0, policies=("guard@3", "formal@1"), key="abc"),
            decision(1, policies=("guardian@3",)),
            decision(2, policies=("guard@31",), key="abd"),
            decision(3, policies=()),
        ]
    )
    assert numbers(records, policy="guard") == [2, 0]
    assert numbers(records, policy="guard@3") == [0]
    assert numbers(records, policy="formal") == [0]
    assert numbers(records, policy="gu%") == numbers(records, policy="ard") == []
    assert numbers(records, key="abc") == [0]


def test_retention_by_count_and_by_age(store: Store) -> None:
    records = store.decisions(EventRetention(count=3, days=1))
    records.add([decision(i) for i in range(5)])
    assert numbers(records) == [4, 3, 2]
    records.add([decision(9, at="2020-01-01T00:00:00.000+00:00")])
    assert numbers(records) == [4, 3]


def test_a_clock_that_jumps_ahead_makes_nothing_old(store: Store, monkeypatch) -> None:
    records = store.decisions(EventRetention(days=1))
    records.add([decision(0)])

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(UTC) + timedelta(days=400)

    monkeypatch.setattr("service.clock.datetime", Later)
    records.add([decision(1)])
    assert numbers(records) == [1, 0]


async def test_a_log_keeps_so_many_and_counts_what_it_drops(store: Store, monkeypatch) -> None:
    monkeypatch.setattr("service.batch_log.RETRY_SECONDS", 0.05)
    records, heard = store.decisions(), list[int]()
    whole, gone = records.add, [True]

    def add(batch: Sequence[Decision]) -> None:
        if gone[0]:
            raise StoreError("gone")
        whole(batch)

    monkeypatch.setattr(records, "add", add)
    log = DecisionLog(records, lambda: heard.append(1), max_waiting=3)
    for i in range(5):
        log.put([decision(i)])
        await asyncio.sleep(0.03)
    assert log.dropped == len(heard) == 2
    gone[0] = False
    await asyncio.sleep(0.3)
    await log.close()
    assert numbers(records) == [2, 1, 0]
    assert log.dropped == 2
