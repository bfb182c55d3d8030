"""The dashboard of the served demo in a browser: alerts followed to their tokens, rights, pages."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Seat, browser
from tests.browser.pictures import FOLDER, take
from tests.browser.scenes import POLICY, ask, busy, observe, said
from tests.browser.test_access import check
from tests.browser.test_live import WITHIN_SECONDS
from tests.served import ADMIN_KEY, Served

pytestmark = pytest.mark.prove

__all__ = ["browser"]

N_ALERTS = 40
PAGES = (
    "",
    "events",
    "monitors",
    "policies",
    "edits",
    "canaries",
    "requests",
    "playground",
    "audit",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo as `make serve` starts it, with a policy that keeps what its alerts are about."""
    with Served(tmp_path_factory.mktemp("served")) as served:
        observe(served)
        yield served


@pytest.fixture
def seat(browser: Browser, server: Served) -> Iterator[Seat]:
    """Somebody who looks at the demo."""
    context = browser.new_context()
    yield Seat(context, server.url, ADMIN_KEY)
    context.close()


def test_an_alert_is_in_the_feed_and_its_page_shows_the_tokens(
    server: Served, seat: Seat, figures: dict[str, Any]
) -> None:
    """From the answer's end to the row; then the page's hottest token against the answer's own."""
    page, waits, agree = seat.open("events"), list[float](), 0
    expect(page.locator("#live")).to_have_text("live")
    for messages in said("harmful", N_ALERTS):
        before = listed(server)["last"]
        answer = ask(server, messages, POLICY)
        ended = time.monotonic()
        if not answer["trimtab"]["verdicts"]["harm"]["fired"]:
            continue
        page.wait_for_function(
            "(n) => Number(document.querySelector('.feed tr[data-event]')?.dataset.event ?? 0) > n",
            arg=before,
        )
        waits.append(time.monotonic() - ended)
        agree += tokens_agree(server, seat, answer)
        page = seat.open("events")
        expect(page.locator("#live")).to_have_text("live")
    figures["alerts followed"] = len(waits)
    figures["seconds from answer to feed"] = {
        "median": round(statistics.median(waits), 3),
        "most": round(max(waits), 3),
    }
    figures["event pages whose tokens are those of the answer's scores"] = agree
    assert len(waits) >= N_ALERTS / 2 and max(waits) < WITHIN_SECONDS
    assert agree == len(waits) and seat.complaints == []


def listed(server: Served, **query: Any) -> dict[str, Any]:
    """Return the newest events."""
    return server.http.get("/trimtab/v1/events", params=query, headers=server.admin).json()


def tokens_agree(server: Served, seat: Seat, answer: dict[str, Any]) -> bool:
    """Whether an event's page has the answer's own scores, hottest where the highest is."""
    events = listed(server, monitor="harm", policy=POLICY)["events"]
    number = next(event["id"] for event in events if event["request"] == answer["id"])
    page = seat.open(f"events/{number}")
    shown = page.locator(".token").evaluate_all(
        "(all) => all.map((one) => ({ position: Number(one.dataset.position), "
        "score: one.dataset.score === undefined ? null : Number(one.dataset.score), "
        "heat: one.style.getPropertyValue('--heat'), fired: one.classList.contains('fired') }))"
    )
    scored = [one for one in shown if one["score"] is not None]
    told = answer["trimtab"]["scores"]["harm"]
    same = [one["score"] for one in scored] == pytest.approx(told, abs=1e-4)  # kept to 1e-5
    hottest = max(scored, key=lambda one: one["score"])
    fired = [one["position"] for one in shown if one["fired"]]
    at = answer["trimtab"]["verdicts"]["harm"]["position"]
    return same and hottest["heat"] == "100%" and fired == [at]


def test_a_monitor_switched_in_the_page_is_switched(server: Served, seat: Seat) -> None:
    """The next request runs under it; the demo's own are switched no less."""
    page = seat.open(f"policies/{POLICY}")
    page.locator('[data-field="monitors.harm.mode"][data-mode=shadow]').click()
    expect(page.locator(".callout")).to_contain_text("is active")
    messages = next(said("harmful", 1))
    assert ask(server, messages, POLICY)["trimtab"]["verdicts"]["harm"]["mode"] == "shadow"
    page.locator('[data-field="monitors.harm.mode"][data-mode=enforce]').click()
    back = page.locator('[data-field="monitors.harm.mode"][aria-pressed=true]')
    expect(back).to_have_text("enforce")
    assert ask(server, messages, POLICY)["trimtab"]["verdicts"]["harm"]["mode"] == "enforce"
    page = seat.open("policies/guard")
    page.locator('[data-field="monitors.harm.mode"][data-mode=shadow]').click()
    expect(page.locator(".callout")).to_contain_text("Revision 2 is active")
    page.get_by_role("button", name="Roll back to 1").click()
    expect(page.locator(".callout")).to_contain_text("Revision 1 is what is active again")


def test_pages_of_a_busy_server(
    server: Served, seat: Seat, browser: Browser, figures: dict[str, Any]
) -> None:
    """Each opens without complaint and without a serious problem; pictures are taken of some."""
    busy(server)
    for path in PAGES:
        page = seat.open(path)
        check(page, path)
    assert seat.complaints == []
    figures["pictures"] = [file.name for file in take(browser, server, FOLDER)]
