"""What a page offers is what its key may do, and what is clicked is done."""

import json
import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from service.directory import load_directory
from tests.browser.conftest import Sit
from tests.browser.site import SILENT, Site
from tests.service.api.test_monitors import guard
from tests.service.api.world import KEY


@pytest.fixture(autouse=True, scope="module")
def asked(site: Site) -> None:
    """One alert."""
    assert site.ask("where is the bomb", policy="watchful").status_code == 200


def mode(site: Site) -> str:
    """Return the mode of a policy's monitor, as it is active."""
    return site.get("policies/watchful")["content"]["spec"]["monitors"]["harm"]["mode"]


def press(page: Page, to: str) -> None:
    """Switch the monitor."""
    page.locator(f'[data-field="monitors.harm.mode"][data-mode={to}]').click()


def test_a_monitor_switched_in_the_page_is_switched(sit: Sit, site: Site) -> None:
    seat = sit(site.key("operator"))
    page = seat.open("policies/watchful")
    assert mode(site) == "enforce"
    press(page, "shadow")
    expect(page.locator(".callout")).to_contain_text("Revision 2 is active")
    assert mode(site) == "shadow"
    pressed = page.locator('[data-field="monitors.harm.mode"][aria-pressed=true]')
    expect(pressed).to_have_text("shadow")
    changed = page.locator(".diff tbody tr")
    expect(changed).to_have_count(1)
    expect(changed).to_contain_text('spec.monitors.harm.mode"enforce""shadow"')
    page.get_by_role("button", name="Roll back to 1").click()
    expect(page.locator(".callout")).to_contain_text("Revision 1 is what is active again")
    assert mode(site) == "enforce" and seat.complaints == []


def test_a_switch_of_what_moved_meanwhile_is_refused(sit: Sit, site: Site) -> None:
    page = sit().open("policies/watchful")
    other = {"set": {"monitors.deep.mode": "off"}}
    address = f"{site.url}/trimtab/v1/policies/watchful/set"
    assert httpx.post(address, json=other, headers={"Authorization": f"Bearer {KEY}"}).is_success
    press(page, "shadow")
    expect(page.get_by_role("alert")).to_contain_text("generation")
    assert mode(site) == "enforce"


def test_what_a_directory_owns_is_not_offered_to_be_switched(
    sit: Sit, site: Site, tmp_path: Path
) -> None:
    """It says where instead, before anybody clicks in vain."""
    (tmp_path / "owned.yaml").write_text(json.dumps(guard("owned", **SILENT)))
    site.call(site.world.governor.reload(load_directory(tmp_path)))
    seat = sit(site.key("operator"))
    page = seat.open("policies/owned")
    expect(page.locator(".callout")).to_contain_text("Change mode in owned.yaml")
    switches = page.locator("[data-field]")
    assert switches.count() == 6 and all(one.is_disabled() for one in switches.all())
    group = page.get_by_role("group", name="Mode of harm")
    expect(group).to_have_accessible_description(re.compile("The policy directory owns this"))
    page = seat.open("policies/watchful")
    assert page.locator("[data-field]").first.is_enabled() and seat.complaints == []


def test_a_viewer_is_offered_no_change(sit: Sit, site: Site) -> None:
    page = sit(site.key("viewer")).open("policies/watchful")
    assert page.locator("main button").count() == 0
    expect(page.locator("#nav")).not_to_contain_text("Audit")
    expect(page.locator("main")).to_contain_text("enforce")
    page = sit(site.key("viewer")).open("events/1")
    assert page.get_by_role("group", name="Label").count() == 0
    assert page.get_by_role("button", name="Ask under no policy").count() == 0
    expect(page.locator("main")).to_contain_text("Nobody has asked this prompt without a policy")
    page = sit(site.key("viewer")).open("audit")
    expect(page.get_by_role("heading", level=1)).to_have_text("No such page")


def test_a_label_is_kept_and_can_be_taken_back(sit: Sit, site: Site) -> None:
    page = sit(site.key("operator")).open("events/1")
    page.get_by_role("button", name="False").click()
    expect(page.locator("main")).to_contain_text("False, says operator")
    assert site.get("events/1")["label"] is False
    page.get_by_role("button", name="Take back").click()
    expect(page.locator("main")).to_contain_text("Nobody has said yet")
    assert site.get("events/1")["label"] is None


def test_a_prompt_is_asked_under_no_policy_and_both_answers_are_shown(sit: Sit, site: Site) -> None:
    """What only one of them says is marked; who may not ask sees what somebody asked."""
    seat = sit(site.key("operator"))
    page = seat.open("events/1")
    page.get_by_role("button", name="Ask under no policy").click()
    steered, unsteered = (page.locator(f"[data-side={one}]") for one in ("steered", "unsteered"))
    expect(steered).to_contain_text("Under watchful@1Take a kettle, fill it and wait.")
    expect(unsteered).to_contain_text("Under no policyTake a fuse, and wait outside.")
    assert steered.locator("mark").all_text_contents() == [" kettle,", " fill", " it", " wait."]
    assert unsteered.locator("mark").all_text_contents() == [" fuse,", " wait", " outside."]
    expect(page.locator("main")).to_contain_text(
        "Greedy, 6 tokens and cut off there; asked by oper"
    )
    assert site.get("events/1")["unsteered"]["answer"] == "Take a fuse, and wait outside."
    assert site.world.seen[-1]["lease"].policies == () and seat.complaints == []
    page = sit(site.key("viewer")).open("events/1")
    expect(page.locator("[data-side=unsteered]")).to_contain_text("Take a fuse")
    assert page.get_by_role("button", name="Ask again").count() == 0


def test_a_key_without_the_right_does_not_log_in(sit: Sit, site: Site) -> None:
    page = sit().page
    page.get_by_role("button", name="Log out").click()
    for key, message in (("wrong", "not valid"), (site.key("infer"), "role viewer")):
        page.get_by_label("Key").fill(key)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text(message)


def test_a_revoked_key_ends_its_session(sit: Sit, site: Site) -> None:
    key = site.key("viewer")
    page = sit(key).open("events")
    identity = key.split("-")[1]
    headers = {"Authorization": f"Bearer {KEY}"}
    assert httpx.delete(f"{site.url}/trimtab/v1/keys/{identity}", headers=headers).is_success
    page.get_by_role("button", name="Older").wait_for()
    page.goto(f"{site.url}/dashboard/#/monitors")
    page.get_by_role("button", name="Log in").wait_for()


def test_one_is_back_where_one_wanted_to_be(sit: Sit, site: Site) -> None:
    seat = sit()
    seat.page.get_by_role("button", name="Log out").click()
    seat.page.goto(f"{site.url}/dashboard/#/monitors/harm")
    seat.page.get_by_label("Key").fill(KEY)
    seat.page.get_by_role("button", name="Log in").click()
    expect(seat.page.get_by_role("heading", level=1)).to_have_text("harm")
