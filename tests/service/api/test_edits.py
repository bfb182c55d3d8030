"""Edits and jobs over HTTP: solved once, named by policies, listed, evaluated, removed."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from service.directory import load_directory
from tests.service.api.edit_world import V1, EditWorld, edit_world, policy
from tests.service.api.world import binding, steering
from tests.service.solving import CASE, LOOSE, QUICK, edit_set, fact, processes

OVERRIDE = {"override": ",".join(LOOSE)}


@pytest.fixture(scope="module")
def model(checkpoint) -> Path:
    return checkpoint("llama")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a server that solved the set ``moves``, and the job that did."""
    folder = tmp_path_factory.mktemp("before")

    async def solve() -> dict[str, Any]:
        async with edit_world(model, folder) as world:
            return await world.solved(edit_set(), cases=[CASE])

    return folder, asyncio.run(solve())


@pytest_asyncio.fixture
async def world(before: tuple[Path, Any], model: Path, tmp_path: Path) -> AsyncIterator[EditWorld]:
    """A server whose store has that set solved and applied."""
    shutil.copytree(before[0], tmp_path / "state")
    async with edit_world(model, tmp_path / "state") as made:
        yield made


async def post(world: EditWorld, path: str, body: Any, **more: Any):
    text = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return await world.call("POST", f"{V1}/{path}", key=True, content=text, **more)


def code_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_a_solved_set_is_listed_with_what_solved_it(
    world: EditWorld, before: tuple[Path, dict[str, Any]]
) -> None:
    result = before[1]["result"]
    (listed,) = (await world.get("edits"))["edits"]
    assert (listed["name"], listed["solved"], listed["policies"]) == ("moves", True, [])
    assert (listed["set"], listed["artifact"]) == (result["set"], result["artifact"])
    assert (listed["method"], listed["layers"], listed["rank"]) == ("memit", [1], 2)
    assert listed["n_facts"] == 2 and listed["serve"] == "side"
    assert listed["gates"]["overridden"] == sorted(LOOSE)
    assert (listed["document"]["revision"], listed["document"]["owner"]) == (1, "api")

    shown = await world.get("edits/moves")
    given = [f["subject"] for f in edit_set()["spec"]["facts"]]
    assert sorted(f["subject"] for f in shown["facts"]) == given
    fits = {f["digest"]: f["nll"] for f in result["edit"]["facts"]}
    assert {f["digest"]: f["fit"]["nll"] for f in shown["facts"]} == fits
    assert shown["content"]["metadata"]["name"] == "moves" and len(shown["revisions"]) == 1
    missing = await world.call("GET", f"{V1}/edits/absent", key=True)
    assert code_of(missing) == (404, "edit_not_found")


async def test_a_policy_names_it_and_it_stays_as_long_as_one_does(world: EditWorld) -> None:
    assert (await post(world, "policies", policy("moved", ["moves"]))).status_code == 200
    (listed,) = (await world.get("edits"))["edits"]
    assert listed["policies"] == ["moved"]
    removal = await world.call("DELETE", f"{V1}/edits/moves", key=True)
    assert code_of(removal) == (409, "edit_in_use")
    await world.call("DELETE", f"{V1}/policies/moved", key=True)
    assert (await world.call("DELETE", f"{V1}/edits/moves", key=True)).status_code == 200
    (left,) = (await world.get("edits"))["edits"]
    assert (left["document"], left["solved"], left["name"]) == (None, True, "moves")
    assert (await world.get("edits/moves"))["content"] is None
    refused = await post(world, "policies", policy("moved", ["moves"]))
    assert refused.status_code == 422


async def test_a_set_that_is_solved_already_is_there_at_once(world: EditWorld) -> None:
    await world.call("DELETE", f"{V1}/edits/moves", key=True)
    renamed = edit_set("other-name")
    answer = await world.call("POST", f"{V1}/edits", key=True, json=renamed)
    job = answer.json()
    assert (answer.status_code, job["state"]) == (202, "succeeded")
    assert answer.headers["location"] == f"{V1}/jobs/{job['id']}"
    assert processes() == []
    found = await world.get(f"jobs/{job['id']}")
    assert found["result"]["cached"] is True
    (listed,) = (await world.get("edits"))["edits"]
    assert (listed["name"], listed["document"]["revision"]) == ("other-name", 1)
    assert listed["artifact"] == found["result"]["artifact"]
    assert (await post(world, "policies", policy("moved", ["other-name"]))).status_code == 200
    page = await world.call("GET", f"{V1}/jobs/{job['id']}/card", key=True)
    assert "solved before" in page.text


async def test_keys_of_what_acts_with_a_set_are_guarded(world: EditWorld) -> None:
    """Edits of a mandatory policy are under every request, so every new set is measured by them."""
    (listed,) = (await world.get("edits"))["edits"]
    other = edit_set("other-name", facts=[fact(9)])
    queued = (await post(world, "edits", other, params=OVERRIDE)).json()
    assert (await world.get(f"jobs/{queued['id']}"))["request"]["beside"] == []
    await post(world, f"jobs/{queued['id']}/cancel", {})
    await post(world, "policies", policy("moved", ["moves"]))
    bound = await post(world, "bindings", binding(mandatory=["moved"]))
    assert bound.status_code == 200
    third = edit_set("third-name", facts=[fact(10)])
    queued = (await post(world, "edits", third, params=OVERRIDE)).json()
    assert (await world.get(f"jobs/{queued['id']}"))["request"]["beside"] == [listed["artifact"]]
    await post(world, f"jobs/{queued['id']}/cancel", {})


async def test_a_set_can_be_written_as_yaml_and_queues_once(world: EditWorld) -> None:
    text = (
        "apiVersion: trimtab/v1\nkind: EditSet\nmetadata: {name: more}\n"
        "spec: {layers: [1], facts: [{prompt: 'w20 {} w29', subject: w40 w41, target: w50}]}\n"
    )
    first = await post(world, "edits", text, params=OVERRIDE)
    assert (first.status_code, first.json()["state"]) == (202, "queued")
    number = first.json()["id"]
    again = await post(world, "edits", text, params=OVERRIDE)
    assert again.json()["id"] == number
    request = (await world.get(f"jobs/{number}"))["request"]
    assert request["override"] == list(LOOSE) and request["settings"] is None
    assert request["document"]["spec"]["facts"][0]["target"] == "w50"
    assert (await world.call("DELETE", f"{V1}/edits/more", key=True)).status_code == 404
    cancelled = await world.call("POST", f"{V1}/jobs/{number}/cancel", key=True)
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    twice = await world.call("POST", f"{V1}/jobs/{number}/cancel", key=True)
    assert code_of(twice) == (409, "job_over")
    listed = (await world.get("jobs"))["jobs"]
    assert [(j["id"], j["state"]) for j in listed] == [(number, "cancelled"), (1, "succeeded")]
    assert [j["id"] for j in (await world.get("jobs?state=cancelled&limit=1"))["jobs"]] == [number]
    assert [e["name"] for e in (await world.get("edits"))["edits"]] == ["moves"]


async def test_an_edit_is_evaluated_by_a_job(world: EditWorld, before: tuple[Path, Any]) -> None:
    answer = await post(world, "edits/moves/evaluate", {"cases": [CASE]})
    assert answer.status_code == 202
    found = await world.ended(answer.json())
    assert (found["state"], found["kind"]) == ("succeeded", "edit-evaluate")
    solved = before[1]["result"]["scores"]["edited"]["EM"]["value"]
    assert found["result"]["scores"]["edited"]["EM"]["value"] == pytest.approx(solved, rel=1e-4)
    absent = await post(world, "edits/absent/evaluate", {"cases": [CASE]})
    assert code_of(absent) == (404, "edit_not_found")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "no cases to evaluate on"),
        ({"cases": []}, "no cases to evaluate on"),
        ([], "the body is an object"),
        ({"cases": [{"prompt": "w20 {}"}]}, "cases[0]"),
        ({"cases": [CASE], "format": "csv"}, "format"),
        ({"cases": [CASE], "colour": 1}, "unknown field 'colour'"),
    ],
)
async def test_cases_that_cannot_be_judged_are_refused(world: EditWorld, body, says) -> None:
    answer = await post(world, "edits/moves/evaluate", body)
    assert code_of(answer) == (422, "invalid_request")
    assert says in answer.json()["error"]["message"]


def wrapped(**fields: Any) -> dict[str, Any]:
    return {"document": edit_set("fresh")} | fields


BAD: list[tuple[Any, str, str]] = [
    (edit_set(facts=[fact(0, prompt="w20 w21")]), "invalid_edit", "is not in the prompt"),
    (edit_set(facts=[fact(0), fact(0, target="w9")]), "invalid_edit", "contradict"),
    (edit_set(facts=[fact(0, target="")]), "invalid_document", "facts[0].target"),
    (edit_set(facts=[]), "invalid_document", "facts"),
    (edit_set(method="magic"), "invalid_document", "method"),
    (edit_set(colour="red"), "invalid_document", "unknown field 'colour'"),
    (steering("formal"), "invalid_request", "not Policy 'formal'"),
    ("", "invalid_request", "not nothing"),
    ("{", "invalid_document", ""),
    (wrapped(document=steering("x")), "invalid_request", "not Policy 'x'"),
    (wrapped(override=["luck"]), "invalid_request", "no gate 'luck'"),
    (wrapped(override=["growht"]), "invalid_request", "did you mean 'growth'?"),
    (wrapped(colour=1), "invalid_request", "unknown field 'colour'"),
    (wrapped(settings={"steps": 0}), "invalid_request", "settings.steps"),
    (wrapped(settings=QUICK, alike="d" * 64), "invalid_request", "give one of them"),
    (wrapped(beside=["not-a-digest"]), "invalid_request", "beside[0]"),
    (wrapped(cases=[{"prompt": 3}]), "invalid_request", "cases[0]"),
]


@pytest.mark.parametrize(("body", "code", "says"), BAD, ids=range(len(BAD)))
async def test_a_set_that_cannot_be_solved_is_refused_at_once(
    world: EditWorld, body, code, says
) -> None:
    answer = await post(world, "edits", body)
    assert code_of(answer) == (422, code), answer.text
    assert says in answer.text
    assert len((await world.get("jobs"))["jobs"]) == 1


async def test_unknown_parameters_are_refused(world: EditWorld) -> None:
    answer = await post(world, "edits", edit_set(), params={"overide": "growth"})
    assert code_of(answer) == (400, "invalid_query")
    for query in ("limit=0", "limit=x", "state=done", "colour=red"):
        answer = await world.call("GET", f"{V1}/jobs?{query}", key=True)
        assert code_of(answer) == (400, "invalid_query"), query


async def test_jobs_that_are_not_there(world: EditWorld) -> None:
    for method, path in (("GET", "jobs/99"), ("POST", "jobs/99/cancel"), ("GET", "jobs/99/card")):
        answer = await world.call(method, f"{V1}/{path}", key=True)
        assert code_of(answer) == (404, "job_not_found"), path
        answer = await world.call(method, f"{V1}/{path.replace('99', '-1')}", key=True)
        assert code_of(answer) == (400, "invalid_job"), path


async def test_a_card_is_a_page_of_its_own(world: EditWorld, before: tuple[Path, Any]) -> None:
    page = await world.call("GET", f"{V1}/jobs/{before[1]['id']}/card", key=True)
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "moves" in page.text and "<svg" in page.text


async def test_every_route_needs_the_admin_key(world: EditWorld) -> None:
    for method, path in (
        ("GET", "edits"),
        ("POST", "edits"),
        ("GET", "edits/moves"),
        ("DELETE", "edits/moves"),
        ("POST", "edits/moves/evaluate"),
        ("GET", "jobs"),
        ("GET", "jobs/1"),
        ("POST", "jobs/1/cancel"),
        ("GET", "jobs/1/card"),
    ):
        assert (await world.call(method, f"{V1}/{path}")).status_code == 401, path


async def test_what_the_directory_has_is_solved_and_not_applied(
    world: EditWorld, tmp_path: Path
) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "moves.yaml").write_text(json.dumps(edit_set("held")))
    await world.governor.reload(load_directory(folder))
    same = await world.call("POST", f"{V1}/edits", key=True, json=edit_set("held"))
    assert (same.status_code, same.json()["state"]) == (202, "succeeded")
    held = await world.get("edits/held")
    assert (held["document"]["owner"], len(held["revisions"])) == ("directory", 1)
    other = await world.call("POST", f"{V1}/edits", key=True, json=edit_set("held", n=1))
    assert code_of(other) == (409, "owned_by_directory")
    removal = await world.call("DELETE", f"{V1}/edits/held", key=True)
    assert code_of(removal) == (409, "owned_by_directory")


async def test_a_document_that_is_posted_unsolved_says_how_to_solve_it(world: EditWorld) -> None:
    answer = await post(world, "policies", edit_set("fresh", n=1))
    assert answer.status_code == 422
    assert "/trimtab/v1/edits" in answer.json()["error"]["message"]


async def test_a_server_without_jobs_says_so(tmp_path: Path, model: Path) -> None:
    async with edit_world(model, tmp_path, runs_jobs=False) as world:
        answer = await world.call("POST", f"{V1}/edits", key=True, json=edit_set())
        assert code_of(answer) == (503, "no_jobs")
        assert (await world.get("edits"))["edits"] == []


async def test_a_document_that_is_refused_once_solved_fails_its_job_and_the_edit_is_kept(
    world: EditWorld,
) -> None:
    await world.call("POST", f"{V1}/edits", key=True, json=edit_set("twin"))
    assert (await post(world, "policies", policy("both", ["moves", "twin"]))).status_code == 200
    against = edit_set("twin", facts=[fact(0, target="w99")])
    guarded = await world.ended((await world.solve(against)).json())
    assert "interference 1 (limit 0.5)" in guarded["error"], "it edits what acts with it"
    near = {"override": [*LOOSE, "interference"]}
    found = await world.ended((await world.solve(against, **near)).json())
    assert found["state"] == "failed"
    assert "solved and kept as" in found["error"] and "contradict" in found["error"]
    shown = await world.get("edits/twin")
    assert (shown["document"]["revision"], shown["n_facts"]) == (1, 2), "it is as it was"
    kept = [e for e in (await world.get("edits"))["edits"] if e["document"] is None]
    assert [(e["name"], e["n_facts"]) for e in kept] == [("twin", 1)]


def test_the_settings_of_a_job_are_those_of_the_command_line() -> None:
    from service.commands import edit
    from service.edit_request import SolveSettings

    names = ("TOKENS", "PREFIXES", "STEPS", "STOP", "CLAMP", "KEEP", "WEIGHT")
    usual = {name.lower(): getattr(edit, name) for name in names}
    assert SolveSettings().model_dump() == usual
    assert set(QUICK) <= set(usual)
