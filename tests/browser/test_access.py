"""No serious accessibility problem on any page, light, dark and narrow; nothing wider than it."""

import hashlib
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import Sit
from tests.browser.site import Site
from tests.browser.test_pages import HARMFUL, PAGES

AXE = Path(__file__).parent / "vendor" / "axe" / "axe.min.js"
SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
NARROW = {"width": 360, "height": 740}
SERIOUS = ("serious", "critical")


@pytest.fixture(autouse=True, scope="module")
def asked(site: Site) -> None:
    """Something to show."""
    for policy in ("watchful", "discreet"):
        assert site.ask(HARMFUL, policy=policy).status_code == 200


def test_axe_is_what_its_makers_published() -> None:
    assert hashlib.sha256(AXE.read_bytes()).hexdigest() == SHA256


def problems(page: Page, *rules: str) -> list[str]:
    """Return what axe finds serious, with where it is; of all rules unless some are named."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE.read_text())
    only = {"runOnly": list(rules)} if rules else {}
    found = page.evaluate("(options) => axe.run(options)", {"resultTypes": ["violations"]} | only)
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:120] for node in one['nodes'][:3]]}"
        for one in found["violations"]
        if one["impact"] in SERIOUS
    ]


def check(page: Page, path: str) -> None:
    """Look at a page light, dark and narrow."""
    assert problems(page) == [], path
    page.emulate_media(color_scheme="dark")
    assert problems(page, "color-contrast") == [], f"{path}, dark"
    page.set_viewport_size(NARROW)
    wide, room = page.evaluate(
        "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= room, f"{path} is {wide} wide in {room}"
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 800})


def test_axe_finds_what_is_wrong(sit: Sit) -> None:
    """Else the tests below could not fail."""
    page = sit().page
    page.evaluate("() => document.querySelector('main').append(document.createElement('input'))")
    assert any(problem.startswith("label:") for problem in problems(page))


def test_no_page_has_a_serious_problem(sit: Sit) -> None:
    seat = sit()
    for path in PAGES:
        check(seat.open(path), path)
    seat.page.get_by_role("button", name="Log out").click()
    seat.page.get_by_role("button", name="Log in").wait_for()
    check(seat.page, "login")


def test_nothing_moves_while_a_page_is_filled(sit: Sit) -> None:
    """Layout shift as browsers count it; what follows a key or a click does not count."""
    seat = sit()
    for path in ("", "events", "monitors/harm"):
        seat.page.add_init_script(
            "window.shift = 0; new PerformanceObserver((list) => list.getEntries().forEach("
            "(one) => { window.shift += one.hadRecentInput ? 0 : one.value; }))"
            ".observe({ type: 'layout-shift', buffered: true });"
        )
        page = seat.open(path)
        page.wait_for_timeout(700)
        assert page.evaluate("window.shift") < 0.1, path
