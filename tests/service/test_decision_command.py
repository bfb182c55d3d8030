"""``trimtab decision``: the program, a socket, records of real requests."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
import uvicorn

from service import cli
from tests.service.api.world import KEY, SERVED, build, server_of

CHAT = {"model": SERVED, "messages": [{"role": "user", "content": "hi"}]}
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs the program with the server's key."""
    monkeypatch.setenv("TRIMTAB_ADMIN_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["trimtab", "decision", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a server with an echo for a model."""
    started: list[uvicorn.Server] = []

    async def serve() -> None:
        world = await build()
        options = {"port": 0, "log_level": "error", "lifespan": "off"}
        started.append(uvicorn.Server(uvicorn.Config(world.app, **options)))
        await started[0].serve()
        await server_of(world).decisions.close()
        world.store.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    while not (started and started[0].started):
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{started[0].servers[0].sockets[0].getsockname()[1]}"
    started[0].should_exit = True
    thread.join()


def ask(server: str, policy: str) -> str:
    """Ask for an answer under a policy and return our name of the request, once it is written."""
    answer = httpx.post(f"{server}/v1/chat/completions", json={**CHAT, "policy": policy})
    time.sleep(0.3)
    return answer.headers["x-trimtab-request"]


def test_a_record_is_shown(call: Call, server: str) -> None:
    name = ask(server, "formal")
    code, out, _ = call("show", name, "--url", server)
    assert code == 0
    assert "policies   guard@1, formal@1 at strength 1" in out
    assert f"answer     chatcmpl-{name}" in out
    code, out, _ = call("show", f"chatcmpl-{name}", "--url", server, "--json")
    assert json.loads(out)["request"] == name


def test_records_are_listed(call: Call, server: str) -> None:
    first, second = ask(server, "formal"), ask(server, "casual")
    code, out, _ = call("list", "--url", server)
    assert code == 0 and out.index(second) < out.index(first)
    _, out, _ = call("list", "--policy", "casual", "--url", server, "--json")
    assert [one["request"] for one in json.loads(out)] == [second]
    _, out, _ = call("list", "--limit", "1", "--url", server, "--json")
    assert [one["request"] for one in json.loads(out)] == [second]


def test_what_is_not_there(call: Call, server: str) -> None:
    code, out, err = call("show", "chatcmpl-never/../there", "--url", server)
    assert (code, out) == (1, "")
    assert "no decision record is called 'chatcmpl-never/../there'" in err
