"""Pictures of the dashboard for the docs: ``python -m tests.browser.pictures`` serves the demo."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.conftest import Seat, launched
from tests.browser.scenes import LYING, POLICY, busy, observe, said
from tests.evidence import ROOT
from tests.served import ADMIN_KEY, Served

FOLDER = ROOT / "docs" / "pictures"
WIDE = {"width": 1280, "height": 860}
NARROW = {"width": 390, "height": 844}


@dataclass(frozen=True)
class Picture:
    """A page as it is shown; ``whole`` takes what lies below the window too."""

    name: str
    path: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    whole: bool = False


def pictures(event: int) -> tuple[Picture, ...]:
    """Return what is taken; ``event`` is what the heat map shows."""
    dark = {"color_scheme": "dark"}
    return (
        Picture("overview", ""),
        Picture("overview-dark", "", dark),
        Picture("overview-narrow", "", {"viewport": NARROW}),
        Picture("events", "events"),
        Picture("event", f"events/{event}"),
        Picture("event-dark", f"events/{event}", dark),
        Picture("monitor", "monitors/harm", whole=True),
        Picture("policy", f"policies/{POLICY}"),
        Picture("shadow-report", "canaries"),
        Picture("playground", "playground", whole=True),
    )


def told_of(server: Served, monitor: str) -> int:
    """Return the newest event of a monitor in the policy of the scenes."""
    query = {"monitor": monitor, "policy": POLICY, "limit": 1}
    found = server.http.get("/trimtab/v1/events", params=query, headers=server.admin).json()
    return found["events"][-1]["id"]


def take(browser: Browser, server: Served, folder: Path) -> list[Path]:
    """Take every picture and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    return [one(browser, server, folder, it) for it in pictures(told_of(server, "deception"))]


def one(browser: Browser, server: Served, folder: Path, picture: Picture) -> Path:
    """Take one picture."""
    context = browser.new_context(**{"viewport": WIDE, "device_scale_factor": 1} | picture.options)
    page = Seat(context, server.url, ADMIN_KEY).open(picture.path)
    if picture.name == "playground":
        play(page)
    page.wait_for_timeout(800)
    file = folder / f"{picture.name}.png"
    page.screenshot(path=file, full_page=picture.whole)
    context.close()
    return file


def play(page: Page) -> None:
    """Ask what makes a difference."""
    page.locator("[data-side=left] select").select_option(POLICY)
    page.locator("[data-side=right] select").select_option("formal")
    question = next(said(LYING, 1))[-1]["content"]
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask both").click()
    page.locator("[data-side=left] .token").first.wait_for()
    page.get_by_role("button", name="Ask both", disabled=False).wait_for()


def main() -> None:
    """Serve the demo, have it asked, and write every picture."""
    with tempfile.TemporaryDirectory() as folder, Served(Path(folder)) as server:
        observe(server)
        busy(server)
        with sync_playwright() as playwright:
            for file in take(launched(playwright), server, FOLDER):
                print(file.relative_to(ROOT))


if __name__ == "__main__":
    main()
