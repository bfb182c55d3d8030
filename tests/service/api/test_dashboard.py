"""The dashboard's files: whole, guarded, as they were published, and without anything to leak."""

import hashlib
import re
from pathlib import Path

import pytest

from service.api.access import OPEN
from service.api.dashboard import FOLDER
from service.callers import OWNER
from service.keys import NewKey
from tests.service.api.world import KEY, World

FILES = Path(__file__).parents[3] / "service" / FOLDER
VENDORED = {
    "vendor/uplot/uPlot.iife.min.js": (
        "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"
    ),
    "vendor/uplot/uPlot.min.css": (
        "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04"
    ),
}
SERVED = sorted(p.relative_to(FILES).as_posix() for p in FILES.rglob("*") if p.is_file())
BROWSER = {"accept": "text/html,application/xhtml+xml"}


async def test_every_file_is_served_to_who_may_look(world: World):
    text = world.store.keys().create(NewKey("eve", "viewer"), OWNER).text
    for name in SERVED:
        if name == "login.html":
            continue
        answer = await world.call(
            "GET", f"/dashboard/{name}", headers={"Authorization": f"Bearer {text}"}
        )
        assert answer.status_code == 200 and answer.content == (FILES / name).read_bytes(), name
    index = await world.call("GET", "/dashboard/", key=True)
    assert index.content == (FILES / "index.html").read_bytes()


async def test_none_but_the_log_in_page_is_served_to_anyone(world: World):
    for name in ("", *SERVED):
        answer = await world.call("GET", f"/dashboard/{name}")
        assert answer.status_code == (200 if name in OPEN else 401), name
    login = await world.call("GET", "/dashboard/login")
    assert login.content == (FILES / "login.html").read_bytes()
    needed = re.findall(r'(?:src|href)="([^"]+)"', login.text)
    assert set(needed) <= set(OPEN), "the page can be drawn without a key"


async def test_a_browser_without_a_session_is_sent_to_log_in(world: World):
    for path, place in (("/dashboard", "dashboard/login"), ("/dashboard/", "login")):
        answer = await world.call("GET", path, headers=BROWSER)
        assert (answer.status_code, answer.headers["location"]) == (303, place)
    assert (await world.call("GET", "/trimtab/v1/status", headers=BROWSER)).status_code == 401
    whole = await world.call("GET", "/dashboard", key=True)
    assert (whole.status_code, whole.headers["location"]) == (307, "dashboard/")


async def test_a_policy_of_content_lets_nothing_else_run_or_load(world: World):
    for path in ("/dashboard/", "/dashboard/login", "/dashboard/js/app.js"):
        headers = (await world.call("GET", path, key=True)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy and "http" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", [n for n in SERVED if "vendor" not in n])
def test_our_files_name_no_other_place_and_write_no_markup(name: str):
    text = (FILES / name).read_text()
    places = set(re.findall(r"https?://[^\s\"'`)]+", text))
    assert places <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    if name.endswith(".html"):
        assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=", text), "nothing inline"


def test_what_is_vendored_is_what_was_published():
    for name, digest in VENDORED.items():
        assert hashlib.sha256((FILES / name).read_bytes()).hexdigest() == digest
    assert "MIT" in (FILES / "vendor/uplot/LICENSE.txt").read_text()


async def test_a_file_that_is_known_is_not_sent_again(world: World):
    first = await world.call("GET", "/dashboard/js/app.js", key=True)
    async with world.client(Authorization=f"Bearer {KEY}") as client:
        etag = {"if-none-match": first.headers["etag"]}
        again = await client.get("/dashboard/js/app.js", headers=etag)
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["../keys.py", "..%2f..%2fstore.py", "js/", "login.html/x", "%00"])
async def test_nothing_beside_the_folder_is_reached(world: World, path: str):
    assert (await world.call("GET", f"/dashboard/{path}", key=True)).status_code == 404
