"""With 10,000 events in the store: the first paint is soon, and no task holds the page up."""

from typing import Any

from playwright.sync_api import Page

from service.digest import canonical_json
from tests.browser.conftest import Seat, Sit
from tests.browser.site import Site
from tests.service.test_events import event
from tests.service.test_labels import TRACE

EVENTS = 10_000
PAINT_MS = 1000
TASK_MS = 100
LOADS = 3
LONGEST = "() => Math.max(0, ...window.tasks)"
WATCH = """
window.tasks = [];
new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((e) => e.duration)))
  .observe({ type: "longtask", buffered: true });
"""


def fill(site: Site, count: int = EVENTS) -> None:
    """Write events with traces of as many tokens as are kept."""
    tokens = [f" word{i}" for i in range(512)]
    scores = {"harm": [i / 512 for i in range(512)]}
    trace = canonical_json(TRACE.shown() | {"tokens": tokens, "scores": scores})
    store = site.world.store.events()
    for start in range(0, count, 1000):
        traces = {0: trace}
        store.add([event(i, trace=traces.get(i % 100)) for i in range(start, start + 1000)])


def loaded(seat: Seat, path: str) -> dict[str, Any]:
    """Return first paint and longest task of a page that is opened afresh, in milliseconds."""
    page: Page = seat.open(path)
    page.wait_for_timeout(1000)
    paint = page.evaluate(
        "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    )
    return {"paint_ms": paint, "longest_task_ms": page.evaluate(LONGEST)}


def best(seat: Seat, path: str) -> dict[str, Any]:
    """Return the best of some loads: others may keep the machine busy, and none makes it faster."""
    found = [loaded(seat, path) for _ in range(LOADS)]
    return {name: min(one[name] for one in found) for name in found[0]}


def test_pages_are_there_soon_and_never_hang(sit: Sit, site: Site) -> None:
    fill(site)
    assert len(site.get("events?limit=1000")["events"]) == 1000
    seat = sit()
    seat.page.add_init_script(WATCH)
    found = {path: best(seat, path) for path in ("", "events", "events/9901")}
    assert all(one["paint_ms"] < PAINT_MS for one in found.values()), found
    assert all(one["longest_task_ms"] < TASK_MS for one in found.values()), found


def test_older_events_are_a_click_away(sit: Sit, site: Site) -> None:
    page = sit().open("events")
    oldest = page.locator(".feed tr[data-event]").last.get_attribute("data-event")
    page.get_by_role("button", name="Older").click()
    page.wait_for_selector(f'.feed tr[data-event="{int(oldest or 0) - 1}"]')
