"""The feed: what happens is there at once, and a reader that was away misses nothing unsaid."""

import json
import time

from playwright.sync_api import Page, expect

from service.settings import EventRetention
from tests.browser.conftest import Sit
from tests.browser.site import Site
from tests.browser.test_full import CATEGORIES, TASK_MS, longest
from tests.service.api.world import server_of
from tests.service.test_events import event

WITHIN_SECONDS = 2.0


def shown(page: Page) -> list[int]:
    """Return the numbers of the events in the feed, newest first."""
    return page.locator(".feed tbody tr:not([hidden])").evaluate_all(
        "(rows) => rows.map((row) => Number(row.dataset.event))"
    )


def newest(page: Page) -> int:
    """Return the number of the newest event in the feed; 0 if there is none."""
    found = page.locator(".feed tr[data-event]:not([hidden])")
    return int(found.first.get_attribute("data-event") or 0) if found.count() else 0


def live(page: Page) -> None:
    """Wait until the stream is open."""
    expect(page.locator("#live")).to_have_text("live")


def test_an_alert_is_in_the_feed_within_two_seconds(sit: Sit, site: Site) -> None:
    seat = sit()
    page = seat.open("events")
    live(page)
    expect(page.locator("main")).to_contain_text("No such event yet")
    asked = time.monotonic()
    assert site.ask("where is the bomb", policy="watchful").status_code == 200
    page.wait_for_selector(".feed tr[data-event]")
    assert time.monotonic() - asked < WITHIN_SECONDS
    expect(page.locator(".feed tbody")).to_contain_text("watchful@1")
    page.locator(".feed tbody a").last.focus()
    page.locator(".feed tbody tr", has_text="harm").first.locator("a").click()
    expect(page.locator(".token.fired")).to_contain_text("bomb")
    assert seat.complaints == []


def test_what_another_process_writes_is_in_the_feed_too(sit: Sit, site: Site) -> None:
    """It wakes nobody here: it is looked for."""
    page = sit().open("events")
    live(page)
    written = time.monotonic()
    site.world.store.events().add([event(0, monitor="elsewhere")])
    page.wait_for_selector(".feed tr[data-event] >> text=elsewhere")
    assert time.monotonic() - written < WITHIN_SECONDS


def test_a_reader_that_comes_back_gets_what_it_missed(sit: Sit, site: Site) -> None:
    seat = sit()
    page = seat.open("events")
    live(page)
    before = shown(page)
    seat.context.set_offline(True)
    page.evaluate("window.stop()")  # an open stream outlives a network that is gone
    site.world.store.events().add([event(i, monitor="missed") for i in range(20)])
    seat.context.set_offline(False)
    page.wait_for_function(
        "(n) => document.querySelectorAll('.feed tr[data-event]:not([hidden])').length >= n",
        arg=min(50, len(before) + 20),
    )
    numbers = shown(page)
    assert numbers == sorted(set(numbers), reverse=True), "each once, newest first"
    assert len(set(numbers) - set(before)) == 20


def test_and_is_told_how_many_retention_took(sit: Sit, site: Site) -> None:
    seat = sit()
    page = seat.open("events")
    live(page)
    seat.context.set_offline(True)
    page.evaluate("window.stop()")
    kept = site.world.store.events(EventRetention(count=5))
    kept.add([event(i, monitor="flood") for i in range(30)])
    seat.context.set_offline(False)
    expect(page.locator("main")).to_contain_text("25 events were taken by retention")


def test_events_that_come_fast_are_drawn_without_a_long_task(sit: Sit, site: Site) -> None:
    seat = sit()
    page, browser = seat.open("events"), seat.context.browser
    live(page)
    log = server_of(site.world).events

    async def put() -> None:
        log.put([event(i, monitor="burst") for i in range(500)])

    assert browser is not None
    browser.start_tracing(page=page, categories=CATEGORIES)
    site.call(put())
    page.wait_for_selector(".feed tbody tr:nth-child(50) >> text=burst")
    page.wait_for_function(
        "(n) => Number(document.querySelector('.feed tr[data-event]').dataset.event) === n",
        arg=site.get("events?limit=1")["last"],
    )
    assert longest(json.loads(browser.stop_tracing())["traceEvents"]) < TASK_MS
