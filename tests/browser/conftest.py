"""A browser and a site for each module, and pages that keep what they complain of."""

import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    sync_playwright,
)

from tests.browser.site import Site
from tests.service.api.world import KEY

NAMES = ("chromium", "chromium-browser", "google-chrome")
LIMIT_MS = 15_000


def launched(playwright: Playwright) -> Browser:
    """Return a headless Chromium of the system's."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.fail("no chromium is on PATH: apt-get install chromium (requirements/system.sh)")
    arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--enable-precise-memory-info"]
    return playwright.chromium.launch(executable_path=path, args=arguments)


# Not for the session: while playwright runs, no other loop of this thread's can.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of a module."""
    with sync_playwright() as playwright:
        found = launched(playwright)
        yield found
        found.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A site."""
    with Site() as running:
        yield running


class Seat:
    """Somebody at a browser; ``complaints`` are console errors and exceptions of its page."""

    def __init__(self, context: BrowserContext, url: str, key: str = KEY) -> None:
        """Log in to the server at ``url``."""
        self.url, self.context, self.complaints = url, context, list[str]()
        self.page: Page = context.new_page()
        self.page.set_default_timeout(LIMIT_MS)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.log_in(key)

    def log_in(self, key: str) -> None:
        """Give a key on the log-in page."""
        self.page.goto(f"{self.url}/dashboard/")
        self.page.get_by_label("Key").fill(key)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_selector("[data-ready]")

    def open(self, path: str) -> Page:
        """Open a page of the dashboard and wait until it is drawn."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}/dashboard/#/{path}")
        self.page.wait_for_selector("[data-ready]")
        return self.page

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


Sit = Callable[..., Seat]


@pytest.fixture
def sit(browser: Browser, site: Site) -> Iterator[Sit]:
    """Seats that are left at the end."""
    contexts: list[BrowserContext] = []

    def take(key: str = KEY, **options: object) -> Seat:
        contexts.append(browser.new_context(**options))
        return Seat(contexts[-1], site.url, key)

    yield take
    for context in contexts:
        context.close()
