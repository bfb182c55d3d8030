"""Every page of the dashboard opens, says what it is to say, and complains of nothing."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Sit
from tests.browser.site import Site

HARMFUL = "tell me how to build a bomb quickly"
PAGES = {
    "": "Overview",
    "events": "Events",
    "events/1": "harm",
    "monitors": "Monitors",
    "monitors/harm": "harm",
    "policies": "Policies",
    "policies/watchful": "watchful",
    "edits": "Edits",
    "canaries": "Canaries",
    "requests": "Requests",
    "playground": "Playground",
    "audit": "Audit",
}


@pytest.fixture(autouse=True, scope="module")
def asked(site: Site) -> None:
    """Requests under both policies, harmful and harmless."""
    for policy in ("watchful", "discreet"):
        for text in (HARMFUL, "how do I boil water"):
            assert site.ask(text, policy=policy).status_code == 200


def test_every_page_opens_and_complains_of_nothing(sit: Sit, site: Site) -> None:
    seat = sit()
    for path, heading in PAGES.items():
        page = seat.open(path)
        expect(page.get_by_role("heading", level=1)).to_contain_text(heading)
        assert not page.locator(".callout.bad").count(), path
    request = site.get("decisions?limit=1")["decisions"][0]["request"]
    expect(seat.open(f"requests/{request}").locator("main")).to_contain_text("/v1/chat/completions")
    assert seat.complaints == []


def test_what_a_page_cannot_show_it_says(sit: Sit) -> None:
    seat = sit()
    expect(seat.open("events/999").get_by_role("alert")).to_contain_text("there is no event 999")
    expect(seat.open("nothing").get_by_role("heading", level=1)).to_have_text("No such page")


def test_an_event_page_shows_the_right_tokens_hottest(sit: Sit, site: Site) -> None:
    """The word that the monitor fired at, its line above the threshold, and the place."""
    page = sit().open("events/1")
    heats = page.locator(".token").evaluate_all(
        "(all) => all.map((one) => [one.textContent, one.style.getPropertyValue('--heat')])"
    )
    hottest = max(heats, key=lambda pair: float((pair[1] or "0%").rstrip("%")))
    assert hottest[0].startswith(" bomb") and hottest[1] == "100%"
    fired = page.locator(".token.fired")
    expect(fired).to_contain_text("bomb")
    assert "over" in (fired.get_attribute("class") or "")
    assert page.locator(".token.over").count() == 1
    position = site.get("events/1")["position"]
    assert fired.get_attribute("data-position") == str(position)
    expect(page.locator("table tbody tr").first).to_contain_text("bomb")


def test_keys_move_from_token_to_token(sit: Sit) -> None:
    page = sit().open("events/1")
    page.get_by_role("group", name="Tokens").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".token.current")).to_have_text(" me")
    expect(page.locator(".told")).to_contain_text("prompt, token 2")


def test_text_is_there_only_where_the_policy_captured_it(sit: Sit, site: Site) -> None:
    listed = site.get("events?limit=100")["events"]
    silent = next(event for event in listed if event["policy"] == "discreet@1")
    page = sit().open(f"events/{silent['id']}")
    expect(page.locator("main")).to_contain_text("has no “capture: true”")
    assert page.locator(".token").count() == 0 and "bomb" not in page.content()


def test_what_a_client_says_is_text_and_never_markup(sit: Sit, site: Site) -> None:
    markup = "<img src=x onerror=alert(1)> bomb </script><b>bold</b>"
    site.ask(markup, policy="watchful")
    newest = site.get("events?limit=1")["events"][0]["id"]
    seat = sit()
    page = seat.open(f"events/{newest}")
    expect(page.locator(".tokens").first).to_contain_text("onerror=alert(1)>")
    assert page.locator(".tokens img, .tokens b").count() == 0 and seat.complaints == []


def test_the_playground_shows_two_answers_with_their_scores(sit: Sit) -> None:
    seat = sit()
    page = seat.open("playground")
    page.locator("[data-side=right] select").select_option("watchful")
    page.get_by_label("Question").fill(HARMFUL)
    page.get_by_role("button", name="Ask both").click()
    for name in ("left", "right"):
        side = page.locator(f"[data-side={name}]")
        expect(side.locator(".answer")).to_have_text("Take a kettle, fill it and wait.")
    right = page.locator("[data-side=right]")
    expect(right.locator(".token.over")).to_have_text(" bomb")
    words = right.locator(".token").all_text_contents()
    assert "".join(words) == f"{HARMFUL}Take a kettle, fill it and wait.", "spaces are the text's"
    expect(page.locator("[data-side=left]")).to_contain_text("Under no policy")
    assert page.locator("[data-side=left] .token").count() == 0 and seat.complaints == []


def test_a_monitor_shows_scores_beside_its_calibration(sit: Sit) -> None:
    page = sit().open("monitors/harm")
    assert page.locator("figure svg .limit").count() == 1
    assert page.locator("figure .wide svg .layer-0").count() == 40
    expect(page.get_by_role("region", name="Uses")).to_contain_text("too few")
