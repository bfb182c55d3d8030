"""The line of each request: what is in it, and that nothing of what was said is."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from service.api.access_log import AccessLog
from service.handling import HANDLING
from service.json_log import ACCESS, FIELDS
from service.report import CURRENT_REPORT
from tests.service.api.world import World

SECRET = "quokka"


class Kept(logging.Handler):
    """Keeps records, each with the request under way when it was written."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[logging.LogRecord, str | None]] = []

    def emit(self, record: logging.LogRecord) -> None:
        handling = HANDLING.get()
        self.records.append((record, handling.request if handling else None))

    def lines(self) -> list[dict[str, Any]]:
        return [getattr(record, FIELDS) for record, _ in self.records if record.name == ACCESS]


@pytest.fixture
def kept(world: World) -> Iterator[Kept]:
    """Keep what the world logs, behind the layer of a server that logs JSON."""
    stack = world.app.middleware_stack
    assert stack is not None
    world.app.middleware_stack = AccessLog(stack, ["/metrics"])
    handler, log, root = Kept(), logging.getLogger(ACCESS), logging.getLogger()
    before = log.level
    log.setLevel(logging.INFO)
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    world.app.middleware_stack = stack
    log.setLevel(before)


async def test_a_request_has_one_line_with_its_name(world: World, kept: Kept) -> None:
    answer = await world.chat(policy="formal", user=SECRET)
    [found] = kept.lines()
    [(record, request)] = [one for one in kept.records if one[0].name == ACCESS]
    assert request == answer.headers["x-trimtab-request"]
    assert (found["method"], found["route"]) == ("POST", "/v1/chat/completions")
    assert (found["status"], found["client"]) == (200, "127.0.0.1")
    assert 0 <= found["seconds"] < 10
    assert record.getMessage() == "POST /v1/chat/completions 200"
    assert SECRET not in str(vars(record)) and "hi" not in found.values()


async def test_lines_say_the_policies_and_the_tokens_once_they_are_known(
    world: World, kept: Kept
) -> None:
    seen: list[Any] = []

    async def spy(scope: Any, receive: Any, send: Any) -> None:
        seen.append(HANDLING.get())
        report = CURRENT_REPORT.get()
        if report is not None:
            report.prompts[0], report.generated[0], report.generated[1] = 5, 2, 4
        await inner(scope, receive, send)

    layer: Any = world.app.middleware_stack
    middleware = layer._app
    inner, middleware._app = middleware._app, spy
    await world.chat(policy="formal")
    # What vLLM's handlers log is written in the same context.
    [handling] = seen
    assert handling.policies == ("guard@1", "formal@1") and handling.is_over
    [found] = kept.lines()
    assert (found["prompt_tokens"], found["generated_tokens"]) == (5, 6)


async def test_what_is_refused_has_its_line_too(world: World, kept: Kept) -> None:
    await world.call("GET", f"/trimtab/v1/policies?{SECRET}=1")
    await world.chat(policy="nonesuch")
    await world.call("GET", "/v1/" + "x" * 500)
    found = kept.lines()
    assert [line["status"] for line in found] == [401, 404, 404]
    assert found[0]["route"] == "/trimtab/v1/policies" and len(found[2]["route"]) == 200
    assert "generated_tokens" not in found[0]
    assert SECRET not in str([vars(record) for record, _ in kept.records])


async def test_paths_can_be_left_out_unless_they_fail(world: World, kept: Kept) -> None:
    await world.call("GET", "/metrics")
    assert not kept.lines()
    await world.call("POST", "/metrics")
    assert [line["status"] for line in kept.lines()] == [405]


async def test_no_request_is_under_way_afterwards(world: World, kept: Kept) -> None:
    await world.chat()
    assert HANDLING.get() is None
