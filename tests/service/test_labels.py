"""Labels of events, and the items for a calibration that come of them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitors.items import read_items
from service.audit import AuditLog
from service.digest import canonical_json
from service.events import EventNotFoundError, Wanted
from service.settings import EventRetention
from service.store import Store
from service.trace import MOST_TOKENS, Trace, window
from tests.service.places import StorePlace
from tests.service.test_events import event

TRACE = Trace(
    0, 2, ("hi", " you", " there"), {"harm": (0.1, 2.0, None)}, {"harm": 1.0}, "hi you", ""
)


@pytest.fixture
def store(place: StorePlace) -> Iterator[Store]:
    """A store on each database."""
    with place.open() as opened:
        yield opened


def traced(number: int, prompt: str, answer: str = "", **fields: object):
    trace = canonical_json(TRACE.shown() | {"prompt": prompt, "answer": answer})
    return event(number, trace=trace, **fields)


def labels(store: Store) -> list[bool | None]:
    return [found["label"] for found in store.events().page(Wanted()).events]


def test_a_label_is_kept_changed_and_taken_back(store: Store) -> None:
    events = store.events()
    events.add([event(0), event(1)])
    events.label(2, True, "ann")
    assert labels(store) == [None, True]
    assert events.one(2)["labelled_by"] == "ann" and events.one(1)["labelled_at"] is None
    events.label(2, False, "bob")
    assert labels(store) == [None, False] and events.one(2)["labelled_by"] == "bob"
    events.label(2, None, "bob")
    assert labels(store) == [None, None]
    rows: AuditLog = store.audit()
    told = [(row.actor, row.target, row.before, row.after) for row in rows.entries(None, 3)]
    assert told == [
        ("bob", "Event/2", {"label": False}, {"label": None}),
        ("bob", "Event/2", {"label": True}, {"label": False}),
        ("ann", "Event/2", {"label": None}, {"label": True}),
    ]


def test_what_is_not_there_gets_no_label(store: Store) -> None:
    with pytest.raises(EventNotFoundError, match="no event 7"):
        store.events().label(7, True, "ann")
    with pytest.raises(EventNotFoundError):
        store.events().one(7)
    assert not store.audit().entries(None, 1)


def test_a_label_goes_with_its_event(store: Store) -> None:
    events = store.events(EventRetention(count=1))
    events.add([traced(0, "old")])
    events.label(1, True, "ann")
    events.add([event(1)])
    assert labels(store) == [None] and events.items("harm") == ()


def test_a_trace_is_shown_of_one_event_and_not_in_lists(store: Store) -> None:
    store.events().add([event(0, trace=canonical_json(TRACE.shown())), event(1)])
    assert store.events().one(1)["trace"] == json.loads(canonical_json(TRACE.shown()))
    assert store.events().one(2)["trace"] is None
    assert all("trace" not in found for found in store.events().page(Wanted()).events)


def test_labelled_events_are_items_that_calibration_reads(store: Store, tmp_path: Path) -> None:
    """Of one monitor, labelled, with a captured text."""
    events = store.events()
    events.add([traced(0, "<s>bad", "so"), traced(1, "fine"), traced(2, "unsaid"), event(3)])
    events.add([traced(4, "other", monitor="lie")])
    for number, label in ((1, True), (2, False), (4, True), (5, True)):
        events.label(number, label, "ann")
    file = tmp_path / "items.jsonl"
    file.write_text("".join(f"{json.dumps(item)}\n" for item in events.items("harm")))
    found = [(item.prompt, item.answer, item.label) for item in read_items(file)]
    assert found == [("<s>bad", "so", 1), ("fine", None, 0)]
    for label, text in ((True, "<s>bad"), (False, "fine")):
        file.write_text("".join(f"{json.dumps(one)}\n" for one in events.items("harm", label)))
        assert [item.prompt for item in read_items(file, int(label))] == [text]


@pytest.mark.parametrize(
    ("centre", "stop", "kept"),
    [
        (5, 20, (0, 20)),
        (5, 10_000, (0, MOST_TOKENS)),
        (9_000, 10_000, (9_065 - MOST_TOKENS, 9_065)),
        (9_990, 10_000, (10_000 - MOST_TOKENS, 10_000)),
        (0, 0, (0, 0)),
    ],
)
def test_a_window_holds_the_event_and_no_more_than_it_may(centre, stop, kept) -> None:
    assert window(centre, stop) == kept
