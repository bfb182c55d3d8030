"""The dashboard over a full store and over a long stream.

It is that of the test world, whose events come as fast as is wanted.
"""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import Seat, browser
from tests.browser.site import Site
from tests.browser.test_full import EVENTS, PAINT_MS, TASK_MS, WATCH, fill, loaded
from tests.browser.test_live import newest
from tests.service.api.world import KEY, server_of
from tests.service.test_events import event

pytestmark = pytest.mark.prove

__all__ = ["browser"]

N_LOADS = 10
STREAM_SECONDS, STREAM_PAUSE = 30 * 60, 0.05
WARM_SECONDS = 5 * 60
GROWTH_BYTES = 2 << 20


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The test world with a full store."""
    with Site() as running:
        fill(running)
        yield running


def test_pages_with_a_full_store(browser: Browser, site: Site, figures: dict[str, Any]) -> None:
    """First paint and longest task over some loads of each page."""
    seat = Seat(browser.new_context(), site.url, KEY)
    seat.page.add_init_script(WATCH)
    figures["events in the store"] = EVENTS
    for name, path in (("overview", ""), ("events", "events"), ("an event", "events/9901")):
        found = [loaded(seat, path) for _ in range(N_LOADS)]
        paints = [one["paint_ms"] for one in found]
        tasks = [one["task_processor_ms"] for one in found]
        clock = [one["task_ms"] for one in found]
        figures[f"{name}: first paint, ms"] = {
            "median": round(statistics.median(paints)),
            "most": round(max(paints)),
        }
        figures[f"{name}: longest task, ms"] = {
            "by the processor, most": round(max(tasks)),
            "by the clock, median": round(statistics.median(clock)),
            "by the clock, most": round(max(clock)),
        }
        assert statistics.median(paints) < PAINT_MS and max(tasks) < TASK_MS


def test_memory_is_flat_while_events_stream(
    browser: Browser, site: Site, figures: dict[str, Any]
) -> None:
    """Thirty minutes at about twenty events a second, after five of warming up."""
    seat = Seat(browser.new_context(), site.url, KEY)
    page, log = seat.open("events"), server_of(site.world).events
    session = seat.context.new_cdp_session(page)

    def heap() -> int:
        session.send("HeapProfiler.collectGarbage")
        return session.send("Runtime.getHeapUsage")["usedSize"]

    async def put(number: int) -> None:
        log.put([event(number, monitor="stream")])

    started, number, warm = time.monotonic(), 0, 0
    while (passed := time.monotonic() - started) < STREAM_SECONDS:
        site.call(put(number))
        number += 1
        time.sleep(STREAM_PAUSE)
        warm = heap() if not warm and passed > WARM_SECONDS else warm
    grown = heap() - warm
    figures["streamed"] = {
        "minutes": round((time.monotonic() - started) / 60, 1),
        "events": number,
        "heap after five minutes, bytes": warm,
        "heap grown since, bytes": grown,
    }
    assert newest(page) >= number and grown < GROWTH_BYTES and seat.complaints == []
