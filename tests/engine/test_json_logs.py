"""Logs of a real server of two API processes as JSON: every line, and nothing that was said."""

import json
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.engine.json_logs import json_logs
from service.engine.refusals import RefusedOptionError
from tests.served import Served

SECRET = "quokka"
OPTIONS = ("--enforce-eager", "--api-server-count", "2", "--log-format", "json")
ASKED = {"messages": [{"role": "user", "content": f"{SECRET}, who is sami grant?"}]}
BAD: tuple[tuple[str, Any], ...] = (
    ("/v1/chat/completions", {"messages": [{"role": SECRET, "content": [SECRET]}]}),
    ("/v1/chat/completions", {**ASKED, "max_tokens": -5}),
    ("/v1/completions", {"prompt": f"{SECRET} " * 2000}),
    ("/v1/messages", {"messages": [{"role": "user", "content": {"text": SECRET}}]}),
    ("/v1/responses", {"input": [{"type": SECRET}]}),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    # Libraries of the engine print what they print on standard error, past every logger.
    with Served(tmp_path_factory.mktemp("served"), OPTIONS, apart=True) as served:
        yield served


def lines(server: Served) -> list[dict[str, Any]]:
    """Return the lines of standard output."""
    text = server.log
    whole = text[: text.rindex("\n")].splitlines()
    return [json.loads(line) for line in whole]


def of(server: Served, request: str) -> list[dict[str, Any]]:
    """Return the lines of a request, whose last one may still be on its way."""
    found: list[dict[str, Any]] = []
    for _ in range(100):
        found = [line for line in lines(server) if line.get("request") == request]
        if any(line["logger"] == "trimtab.access" for line in found):
            break
        time.sleep(0.05)
    return found


def test_every_line_is_an_object_from_the_first_on(server: Served) -> None:
    found = lines(server)
    assert len(found) > 10
    need = {"time", "level", "logger", "message"}
    assert all(need <= line.keys() for line in found)
    loggers = {line["logger"].partition(".")[0] for line in found}
    assert {"trimtab", "vllm", "uvicorn"} <= loggers
    assert any("ready on http" in line["message"] for line in found)


def test_each_request_has_a_line_of_its_own_from_either_process(server: Served) -> None:
    pids: set[int] = set()
    for _ in range(40):
        body = {"model": "trimtab-demo:guard", "max_tokens": 4, "temperature": 0, **ASKED}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
        usage = answer.json()["usage"]
        [line] = of(server, answer.headers["x-trimtab-request"])
        assert (line["method"], line["route"]) == ("POST", "/v1/chat/completions")
        assert line["status"] == 200 and line["seconds"] > 0
        assert line["policies"] == ["guard@1"] and line["process"].startswith("ApiServer")
        assert line["prompt_tokens"] == usage["prompt_tokens"]
        assert line["generated_tokens"] == usage["completion_tokens"]
        pids.add(line["pid"])
        if len(pids) == 2:
            return
    raise AssertionError("one process answered everything")


def test_a_stream_s_tokens_are_counted(server: Served) -> None:
    body = {"model": "trimtab-demo", "stream": True, "max_tokens": 6, **ASKED, "n": 2}
    body |= {"temperature": 1, "ignore_eos": True}
    answer = server.http.post("/v1/chat/completions", json=body)
    [line] = of(server, answer.headers["x-trimtab-request"])
    assert (line["status"], line["generated_tokens"]) == (200, 12)


def test_no_line_holds_what_was_said(server: Served) -> None:
    """Nor what was refused, whose errors quote it."""
    for path, body in BAD:
        answer = server.http.post(path, json={"model": "trimtab-demo", **body})
        assert 400 <= answer.status_code < 500, answer.text
    server.http.get(f"/v1/models?q={SECRET}")
    time.sleep(0.5)
    assert not [line for line in lines(server) if SECRET in json.dumps(line)]


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ({"enable_log_requests": True}, "--enable-log-requests"),
        ({"enable_log_outputs": True}, "--enable-log-outputs"),
        ({"log_level": "DEBUG"}, "--log-level DEBUG"),
        ({"log_config_file": "x.json"}, "a file for Python's logging"),
    ],
)
def test_what_would_write_text_is_refused(option: dict[str, Any], name: str) -> None:
    plain = {"enable_log_requests": False, "enable_log_outputs": False}
    args = Namespace(**{**plain, "disable_uvicorn_access_log": False, **option})
    refused = f"{name} with --log-format json is refused"
    with pytest.raises(RefusedOptionError, match=refused), json_logs(args):
        raise AssertionError("it was let in")
