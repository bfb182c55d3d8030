"""Decision records over HTTP: each request that ran under policies has one, and finds it."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.report import CURRENT_REPORT, ChoiceReport
from tests.service.api.drive import Call
from tests.service.api.test_endings import VERDICT
from tests.service.api.world import SERVED, Echo, World, build, server_of

PATH = "/trimtab/v1/decisions"
HEADER = "x-trimtab-request"
CHAT = {"model": SERVED, "messages": [{"role": "user", "content": "the words of a client"}]}


async def record(world: World, name: str) -> dict[str, Any]:
    """Return a record once all that waits is written."""
    await server_of(world).decisions.flush()
    answer = await world.call("GET", f"{PATH}/{name}", key=True)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def listed(world: World, **query: Any) -> dict[str, Any]:
    await server_of(world).decisions.flush()
    answer = await world.call("GET", PATH, key=True, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_record_says_what_the_answer_ran_under(world: World):
    answer = await world.chat(policy="formal", strength=1.5)
    found = await record(world, answer.headers[HEADER])
    assert found["request"] == answer.headers[HEADER]
    labels = [one["policy"] for one in found["policies"]]
    assert ", ".join(labels) == answer.headers["x-trimtab-policy"] == "guard@1, formal@1"
    assert found["digest"] == answer.headers["x-trimtab-digest"]
    assert found["strength"] == 1.5
    assert [one["source"] for one in found["policies"]] == ["operator", "client"]
    digests = {p.label: p.digest for p in world.governor.catalog.policies.values()}
    assert {one["policy"]: one["digest"] for one in found["policies"]} == {
        label: digests[label] for label in labels
    }
    assert {one["mode"] for one in found["policies"]} == {"enforce"}
    assert (found["binding"], found["generation"]) == (
        world.governor.catalog.bindings.default.label,
        world.governor.catalog.generation,
    )
    assert (found["route"], found["stream"]) == ("/v1/chat/completions", False)
    assert (found["status"], found["outcome"]) == (200, "served")
    assert found["caller"] == {"key": None, "name": "anonymous", "tenant": None}


async def test_nothing_of_what_was_said_is_in_it(world: World):
    answer = await world.call("POST", "/v1/chat/completions", json=CHAT)
    await server_of(world).decisions.flush()
    text = (await world.call("GET", f"{PATH}/{answer.headers[HEADER]}", key=True)).text
    assert "words of a client" not in text


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("/v1/chat/completions", "chatcmpl-"),
        ("/v1/completions", "cmpl-"),
        ("/v1/messages", "chatcmpl-"),
        ("/inference/v1/generate", "generate-tokens-"),
    ],
)
async def test_the_answers_own_id_finds_it(world: World, path: str, prefix: str):
    """vLLM names an answer by the header, which gets our name."""
    answer = await world.call("POST", path, json=CHAT)
    name = answer.headers[HEADER]
    assert world.seen[-1]["name"] == name
    assert (await record(world, f"{prefix}{name}"))["request"] == name


async def test_a_response_is_named_by_its_body(world: World):
    answer = await world.call("POST", "/v1/responses", json=CHAT)
    given = world.seen[-1]["body"]["request_id"]
    assert given == f"resp_{answer.headers[HEADER]}"
    assert (await record(world, given))["route"] == "/v1/responses"
    other = await world.call("POST", "/v1/responses", json={**CHAT, "request_id": "resp_mine"})
    assert world.seen[-1]["body"]["request_id"] == "resp_mine"
    assert (await record(world, "resp_mine"))["request"] == other.headers[HEADER]


async def test_a_name_that_a_client_chose_stays_and_mixes_nothing(world: World):
    named = {"X-Request-Id": "mine"}
    first = await world.chat(policy="formal", headers=named)
    assert world.seen[-1]["name"] == "mine"
    assert (await record(world, "chatcmpl-mine"))["request"] == first.headers[HEADER]
    second = await world.chat(policy="casual", headers=named)
    assert first.headers[HEADER] != second.headers[HEADER]
    for answer, chosen in ((first, "formal@1"), (second, "casual@1")):
        found = await record(world, answer.headers[HEADER])
        assert found["policies"][1]["policy"] == chosen
    several = await world.call("GET", f"{PATH}/chatcmpl-mine", key=True)
    assert several.status_code == 409
    assert several.json()["error"]["code"] == "ambiguous_name"
    assert first.headers[HEADER] in several.text and second.headers[HEADER] in several.text


async def test_a_client_that_takes_anothers_name_takes_nothing_else(world: World):
    first = await world.chat(policy="formal")
    name = first.headers[HEADER]
    await world.chat(policy="casual", headers={"X-Request-Id": name})
    assert (await record(world, name))["policies"][1]["policy"] == "formal@1"


async def test_a_name_in_the_body_stays_too(world: World):
    answer = await world.chat(request_id="mine")
    assert world.seen[-1]["name"] is None
    assert (await record(world, "chatcmpl-mine"))["request"] == answer.headers[HEADER]


async def test_every_answer_of_a_generating_route_has_a_name(world: World):
    for fields, status in (({}, 200), ({"policy": "nobody"}, 404), ({"policy": "hidden"}, 403)):
        answer = await world.chat(**fields)
        assert answer.status_code == status
        assert len(answer.headers[HEADER]) == 32
    stream = await world.chat(stream=True)
    assert len(stream.headers[HEADER]) == 32
    no_json = await world.call("POST", "/v1/chat/completions", content=b"no")
    assert len(no_json.headers[HEADER]) == 32
    world.alive[0] = False
    dead = await world.chat()
    assert dead.status_code == 503 and len(dead.headers[HEADER]) == 32


async def test_what_was_refused_under_policies_is_recorded(world: World):
    refused = await world.chat(model="never")
    assert refused.status_code == 404
    found = await record(world, refused.headers[HEADER])
    assert (found["status"], found["outcome"]) == (404, "refused")
    beam = await world.chat(policy="late", use_beam_search=True)
    assert beam.status_code == 400
    found = await record(world, beam.headers[HEADER])
    assert (found["status"], found["outcome"]) == (400, "refused")
    assert [one["policy"] for one in found["policies"]] == ["guard@1", "late@1"]


async def test_an_engine_that_dies_fails_the_request(world: World):
    dead = await world.chat(die=True)
    assert dead.status_code == 503
    found = await record(world, dead.headers[HEADER])
    assert (found["status"], found["outcome"]) == (503, "failed")


async def test_a_client_that_goes_away_has_a_record_too(world: World):
    world.pace.clear()
    call = Call(world.app, "/v1/chat/completions", {**CHAT, "stream": True})
    name = (await call.start())[HEADER]
    await call.chunk()
    await call.disconnect()
    found = await record(world, name)
    assert (found["status"], found["outcome"], found["stream"]) == (200, "aborted", True)


async def test_an_answer_to_nobody_is_aborted_too(monkeypatch):
    """vLLM ends a handler whose client left by answering, well, to nobody."""

    async def generate(self: Echo, request: Request) -> Response:
        await self.note(request)
        while not await request.is_disconnected():
            await asyncio.sleep(0.01)
        return JSONResponse(None)

    monkeypatch.setattr(Echo, "generate", generate)
    world = await build()
    call = Call(world.app, "/v1/chat/completions", CHAT)
    await asyncio.sleep(0.05)
    await call.disconnect()
    found = (await listed(world))["decisions"]
    assert [one["outcome"] for one in found] == ["aborted"]
    world.store.close()


def finds(monkeypatch: pytest.MonkeyPatch, late: asyncio.Event | None = None) -> None:
    """Have the app in vLLM's place end choices and find things, some of them late."""
    whole, tails = Echo.generate, list[asyncio.Task[None]]()
    second = replace(VERDICT, fired=False, ended=False, mode="shadow")

    async def generate(self: Echo, request: Request):
        report = CURRENT_REPORT.get()
        assert report is not None
        report.finishes |= {0: "content_filter", 1: "length"}
        report.adapters.add("french")
        report.add(ChoiceReport("r", "cmpl-1", 0, 5, 4, (VERDICT,)))
        report.begin()
        choice = ChoiceReport("r", "cmpl-1", 1, 5, 9, (second,))

        async def tell() -> None:
            if late is not None:
                await late.wait()
            report.add(choice)
            report.decided()

        if late is None:
            await tell()
        else:
            tails.append(asyncio.create_task(tell()))
        return await whole(self, request)

    monkeypatch.setattr(Echo, "generate", generate)


async def test_choices_have_their_ends_and_verdicts(monkeypatch):
    finds(monkeypatch)
    world = await build()
    found = await record(world, (await world.chat()).headers[HEADER])
    first, second = found["choices"]
    assert [c["finish"] for c in (first, second)] == ["content_filter", "length"]
    assert (first["prompt_tokens"], second["generated"]) == (5, 9)
    verdict = first["verdicts"][VERDICT.monitor]
    assert verdict["action"] == "refuse" and verdict["threshold"] == VERDICT.threshold
    assert {"score", "rarity", "position", "coverage", "unscored", "fault"} <= set(verdict)
    assert not second["verdicts"][VERDICT.monitor]["fired"]
    assert found["adapters"] == ["french"]
    world.store.close()


async def test_a_record_waits_for_verdicts_that_come_after_the_answer(monkeypatch):
    late = asyncio.Event()
    finds(monkeypatch, late)
    world = await build()
    name = (await world.chat()).headers[HEADER]
    await server_of(world).decisions.flush()
    assert (await world.call("GET", f"{PATH}/{name}", key=True)).status_code == 404
    late.set()
    await asyncio.sleep(0)
    assert len((await record(world, name))["choices"]) == 2
    world.store.close()


async def test_a_list_is_newest_first_and_goes_on(world: World):
    names = [
        (await world.chat(policy=policy)).headers[HEADER]
        for policy in ("formal", "casual", "formal", "none")
    ]
    page = await listed(world, limit=3)
    assert [one["request"] for one in page["decisions"]] == names[:0:-1]
    rest = await listed(world, limit=3, before=page["before"])
    assert [one["request"] for one in rest["decisions"]] == names[:1]
    assert rest["before"] is None
    chosen = await listed(world, policy="formal")
    assert [one["request"] for one in chosen["decisions"]] == [names[2], names[0]]
    assert (await listed(world, key="nobody"))["decisions"] == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "before=x", "policies=a", "policy=%00", "before=-1"]
)
async def test_what_cannot_be_asked(world: World, query: str):
    answer = await world.call("GET", f"{PATH}?{query}", key=True)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_query"


async def test_what_is_not_there(world: World):
    for name in ("chatcmpl-never", "a/b", "%00", "x" * 4000):
        answer = await world.call("GET", f"{PATH}/{name}", key=True)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "decision_not_found"


async def test_nobody_reads_them_without_a_key(world: World):
    name = (await world.chat()).headers[HEADER]
    for path in (PATH, f"{PATH}/{name}"):
        assert (await world.call("GET", path)).status_code == 401
